import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.config import ENV_FLAGS

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "compose.yaml"
SIGNING = ROOT / "deploy" / "compose.signing.yaml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES = COMPOSE["services"]
NEEDED = {"POSTGRES_PASSWORD": "secret", "HEADSTART_PHOTOS": "/photos"}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


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


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_writes_only_where_it_has_to_and_has_no_right_of_root(name: str):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert "/tmp" in service["tmpfs"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_database_starts_as_its_user_and_has_a_place_for_its_socket():
    assert SERVICES["postgres"]["user"] == "70:70"
    assert any(each.startswith("/var/run/postgresql:uid=70") for each in SERVICES["postgres"]["tmpfs"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_has_a_tag_which_is_this_version_or_a_fixed_one(name: str):
    image, _, tag = SERVICES[name]["image"].partition(":")
    assert tag == ("17.6-alpine" if image == "postgres" else f"${{HEADSTART_TAG:-{VERSION}}}")


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in ("deployments", "serving")])
def test_every_service_that_stays_is_asked_whether_it_works(name: str):
    assert SERVICES[name]["healthcheck"]["test"]  # the image for serving has its own


def test_the_worker_and_the_sensor_start_what_their_checks_ask_for():
    assert "--with-healthcheck" in SERVICES["worker"]["command"]
    assert SERVICES["worker"]["stop_grace_period"] == "60s"
    assert "--alive /tmp/alive" in SERVICES["watch"]["command"][-1]
    assert "/tmp/alive" in SERVICES["watch"]["healthcheck"]["test"][-1]


def test_credentials_are_optional_and_reach_what_reads_the_object_store():
    for name, service in SERVICES.items():
        given = [(each["path"], each["required"]) for each in service.get("env_file", [])]
        assert given == ([("credentials.env", False)] if name in ("worker", "watch", "serving") else []), name
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/deploy/credentials.env" in ignored


def test_with_keys_the_worker_signs_and_serving_checks():
    signing = yaml.safe_load(SIGNING.read_text())
    for name, variable, secret in (
        ("worker", "HEADSTART_SIGNING_KEY", "signing-key"),
        ("serving", "HEADSTART_PUBLIC_KEY", "public-key"),
    ):
        assert signing["services"][name] == {
            "environment": {variable: f"/run/secrets/{secret}"},
            "secrets": [secret],
        }
        assert signing["secrets"][secret]["file"].startswith("${" + variable + "_FILE:?")


def test_a_shell_that_has_set_the_variables_can_still_run_headstart():
    read = set(re.findall(r"\$\{(HEADSTART_\w+)", FILE.read_text() + SIGNING.read_text()))
    assert read
    assert read <= ENV_FLAGS


def prefect_environment() -> dict[str, Any]:
    """What the files that start Prefect's server set there, by file; the two have to agree."""
    kubernetes = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "prefect.yaml").read_text())
    [server] = [each for each in kubernetes if each["kind"] == "Deployment"]
    [container] = server["spec"]["template"]["spec"]["containers"]
    return {
        "compose": SERVICES["prefect"]["environment"],
        "kubernetes": {each["name"]: each["value"] for each in container["env"] if "value" in each},
    }


@pytest.mark.parametrize("file", ["compose", "kubernetes"])
def test_prefect_understands_its_settings(file: str, monkeypatch: pytest.MonkeyPatch):
    from prefect.settings import Settings

    for name, value in prefect_environment()[file].items():
        monkeypatch.setenv(name, value)
    server = Settings().server
    assert server.ui.api_url == "/api"  # relative: the page asks the address that it came from
    assert server.ui.static_directory == "/tmp/prefect-ui"
    assert server.concurrency.lease_storage == "prefect.server.concurrency.lease_storage.filesystem"
    assert server.services.db_vacuum.enabled_vacuum_types == {"events", "flow_runs", "orphans"}
    assert server.services.db_vacuum.retention_period.days == 90
    assert server.events.retention_period.days == 7


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
