import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES = COMPOSE["services"]
NEEDED = {"POSTGRES_PASSWORD": "secret", "HEADSTART_PHOTOS": "/photos"}


def test_every_build_has_its_target():
    targets = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)
    for name, service in SERVICES.items():
        if build := service.get("build"):
            assert (FILE.parent / build["context"]).resolve() == ROOT, name
            assert (ROOT / build["dockerfile"]).is_file(), name
            assert build["target"] in targets, name


def test_services_wait_for_services_that_can_be_ready():
    for service in SERVICES.values():
        for name, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]
            else:
                assert SERVICES[name]["restart"] == "on-failure"


def test_nothing_listens_beyond_this_machine():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_named_volume_is_declared():
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {name for name in mounted if not name.startswith("$")} == set(COMPOSE["volumes"])


def compose_command() -> list[str] | None:
    """Docker's plugin, or the same program by itself; neither needs a daemon to read a file."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    return None


def test_compose_itself_accepts_it():
    command = compose_command()
    if command is None:
        pytest.skip("docker compose is not installed")
    command += ["-f", str(FILE), "config", "--quiet"]
    plain = {key: value for key, value in os.environ.items() if key not in NEEDED}
    done = subprocess.run(command, env={**plain, **NEEDED}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for variable in NEEDED:  # what has no default is asked for by name
        asked = subprocess.run(command, env=plain, capture_output=True, text=True)
        assert asked.returncode != 0
        assert variable in asked.stderr
