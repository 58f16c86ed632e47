import shutil
import subprocess
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


@pytest.mark.parametrize("file", FILES)
def test_each_manifest_is_of_its_schema_and_nothing_more(file):
    for document in documents(file):
        kubernetes_validate.validate(document, "1.31", strict=True)


def test_the_kustomization_names_every_file():
    assert sorted(KUSTOMIZATION["resources"]) == FILES


def test_what_kubectl_makes_of_the_folder_is_of_its_schema():
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    made = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    documents = list(yaml.safe_load_all(made.stdout))
    assert {d["metadata"]["namespace"] for d in documents} == {"headstart"}
    assert {d["kind"] for d in documents} == {d["kind"] for d in EVERYTHING} | {"ConfigMap"}
    for document in documents:
        kubernetes_validate.validate(document, "1.31", strict=True)


@pytest.mark.parametrize(("name", "pod"), PODS)
def test_no_pod_runs_as_root_or_grows_without_bound(name, pod):
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
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
    for container in pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert {source["configMapRef"]["name"] for source in container.get("envFrom", [])} <= configured


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
