import os
import shutil
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())


def documents(file: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / file).read_text()))


EVERYTHING = [document for file in FILES for document in documents(file)]
PODS = [(d["metadata"]["name"], d["spec"]["template"]["spec"]) for d in EVERYTHING if "template" in d.get("spec", {})]
VERSION = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]["version"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return pod.get("initContainers", []) + pod["containers"]


def made_of(folder: Path) -> list[dict[str, Any]]:
    """What kubectl makes of the folder, each of its schema."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    made = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    found = list(yaml.safe_load_all(made.stdout))
    for document in found:
        kubernetes_validate.validate(document, "1.31", strict=True)
    return found


def component(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "headstart", "app.kubernetes.io/component": name}


@pytest.mark.parametrize("file", FILES)
def test_each_manifest_is_of_its_schema_and_nothing_more(file):
    for document in documents(file):
        kubernetes_validate.validate(document, "1.31", strict=True)


def test_the_kustomization_names_every_file():
    assert sorted(KUSTOMIZATION["resources"]) == FILES


def test_what_kubectl_makes_of_the_folder_is_of_its_schema():
    documents = made_of(FOLDER)
    assert {d["metadata"]["namespace"] for d in documents} == {"headstart"}
    assert {d["kind"] for d in documents} == {d["kind"] for d in EVERYTHING} | {"ConfigMap"}


def test_every_image_has_its_tag_in_one_place():
    tags = {image["name"]: image["newTag"] for image in KUSTOMIZATION["images"]}
    assert tags == {"headstart-worker": VERSION, "headstart-serving": VERSION, "postgres": "17.6-alpine"}
    assert {container["image"] for _, pod in PODS for container in containers(pod)} == set(tags)


def test_another_tag_changes_only_what_may_change(tmp_path: Path):
    """A Job's pods can't be changed, nor can a selector: `kubectl apply` of a new release would fail."""
    shutil.copytree(FOLDER, tmp_path / "new")
    file = tmp_path / "new" / "kustomization.yaml"
    file.write_text(file.read_text().replace(f"newTag: {VERSION}", "newTag: 99.0.0"))
    before, after = ({(d["kind"], d["metadata"]["name"]): d for d in made_of(each)} for each in (FOLDER, file.parent))
    assert before.keys() == after.keys()
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {("Deployment", name) for name in ("prefect", "worker", "watch", "serving")}
    for key in changed:
        assert before[key]["spec"]["selector"] == after[key]["spec"]["selector"]


def test_a_worker_registers_the_deployments_as_compose_does():
    compose = yaml.safe_load((FOLDER.parent / "compose.yaml").read_text())
    [init] = dict(PODS)["worker"]["initContainers"]
    assert init["command"] == compose["services"]["deployments"]["command"]


def test_connections_are_open_to_those_who_need_them():
    policies = {d["metadata"]["name"]: d["spec"] for d in documents("network.yaml")}
    assert policies.pop("nothing-comes-in") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    assert {name: policy["podSelector"]["matchLabels"] for name, policy in policies.items()} == {
        name: component(name) for name in ("postgres", "prefect", "serving")
    }
    [database] = policies["postgres"]["ingress"]
    assert database == {
        "from": [{"podSelector": {"matchLabels": component("prefect")}}],
        "ports": [{"protocol": "TCP", "port": 5432}],
    }
    [prefect] = policies["prefect"]["ingress"]
    [peers] = prefect["from"]
    assert peers["podSelector"]["matchExpressions"] == [
        {"key": "app.kubernetes.io/component", "operator": "In", "values": ["worker", "watch"]}
    ]
    assert prefect["ports"] == [{"protocol": "TCP", "port": 4200}]
    assert policies["serving"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8000}]}]


@pytest.mark.parametrize(("name", "pod"), PODS)
def test_every_pod_is_asked_whether_it_works(name, pod):
    for container in pod["containers"]:
        assert container["livenessProbe"]
        assert container["readinessProbe"]


def test_the_worker_answers_on_the_port_that_is_asked():
    from prefect.settings import Settings

    [container] = dict(PODS)["worker"]["containers"]
    assert "--with-healthcheck" in container["command"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["health"] == Settings().worker.webserver.port
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "health"}


@pytest.mark.parametrize(
    ("probe", "age_s", "works"),
    [
        ("readinessProbe", 30, True),
        ("readinessProbe", 300, False),
        ("livenessProbe", 300, True),
        ("livenessProbe", 1200, False),
        ("livenessProbe", None, False),
    ],
)
def test_the_probe_of_the_sensor_asks_how_old_its_file_is(tmp_path: Path, probe: str, age_s: int | None, works: bool):
    [container] = dict(PODS)["watch"]["containers"]
    assert container["command"][-1].endswith("--alive /tmp/alive")
    alive = tmp_path / "alive"
    if age_s is not None:
        alive.touch()
        os.utime(alive, (0, time.time() - age_s))
    command = [part.replace("/tmp/alive", str(alive)) for part in container[probe]["exec"]["command"]]
    assert (subprocess.run(command, capture_output=True).returncode == 0) is works


@pytest.mark.parametrize("name", ["worker", "watch", "serving"])
def test_credentials_of_an_object_store_are_optional(name: str):
    [container] = dict(PODS)[name]["containers"]
    assert {"secretRef": {"name": "headstart-s3", "optional": True}} in container["envFrom"]


def test_with_keys_the_worker_signs_and_serving_checks(tmp_path: Path):
    shutil.copytree(FOLDER, tmp_path / "signed")
    file = tmp_path / "signed" / "kustomization.yaml"
    file.write_text(file.read_text().replace("# components: [signing]", "components: [signing]"))
    made = {
        d["metadata"]["name"]: d["spec"]["template"]["spec"] for d in made_of(file.parent) if d["kind"] == "Deployment"
    }
    for name, variable, secret, key in (
        ("worker", "HEADSTART_SIGNING_KEY", "headstart-signing-key", "signing-key.pem"),
        ("serving", "HEADSTART_PUBLIC_KEY", "headstart-public-key", "public-key.pem"),
    ):
        [container] = made[name]["containers"]
        given = {each["name"]: each["value"] for each in container["env"]}
        assert given[variable] == f"/run/secrets/headstart/{key}"
        [volume] = [each for each in made[name]["volumes"] if each.get("secret", {}).get("secretName") == secret]
        assert not volume["secret"].get("optional")
        assert {"name": volume["name"], "mountPath": "/run/secrets/headstart", "readOnly": True} in container[
            "volumeMounts"
        ]


@pytest.mark.parametrize(("name", "pod"), PODS)
def test_no_pod_runs_as_root_or_grows_without_bound(name, pod):
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in containers(pod):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize(("name", "pod"), PODS)
def test_every_volume_claim_and_configuration_exists(name, pod):
    claims = {d["metadata"]["name"] for d in EVERYTHING if d["kind"] == "PersistentVolumeClaim"}
    volumes = {volume["name"] for volume in pod.get("volumes", [])} | {"database"}
    asked = {v["persistentVolumeClaim"]["claimName"] for v in pod.get("volumes", []) if "persistentVolumeClaim" in v}
    configured = {generator["name"] for generator in KUSTOMIZATION["configMapGenerator"]}
    assert asked <= claims
    for container in containers(pod):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        sources = [source for source in container.get("envFrom", []) if "configMapRef" in source]
        assert {source["configMapRef"]["name"] for source in sources} <= configured


def test_services_find_their_pods():
    pods = [
        d["spec"]["template"]["metadata"]["labels"] for d in EVERYTHING if d["kind"] in ("Deployment", "StatefulSet")
    ]
    for service in (d for d in EVERYTHING if d["kind"] == "Service"):
        assert service["spec"]["selector"] in pods


def test_serving_is_asked_on_routes_that_it_has():
    from deploy.serving.routes import router

    routes = {route.path for route in router.routes}  # type: ignore[attr-defined]
    (container,) = dict(PODS)["serving"]["containers"]
    probes = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"/v2/health/live", "/v2/health/ready"} <= routes
