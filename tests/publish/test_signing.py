"""Publishing and rolling back sign where a key is configured, and nothing writes the key's path down."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from deploy.serving.model_slot import ModelSlot
from tasks.errors import ConfigError, DamagedFileError
from tasks.publish.rollback import roll_back
from tasks.publish.signing import KEY_VARIABLE, check_key, sign
from tasks.publish.stage import judged_file, publish
from tasks.publish.verify import verify, verify_version
from tasks.records import Candidate, Decision, GateResult, Variant
from tasks.storage.repository import versions
from tasks.workspace import Workspace
from tests.deploy.serving.models import COLOURS, colour_model, manifest
from tests.deploy.serving.models import publish as lay
from tests.externals import with_external_weights
from tests.runs import make_head_record, make_run, make_snapshot_record

PARITY = GateResult(name="parity of labels", passed=True, value=1.0, threshold=1.0, reason="all labels agree")


def publish_one(workspace: str, source: Path) -> str:
    """Publishes a version through the stage itself; the URL of its folder."""
    run = make_run(workspace, source)
    run.workspace.write_bytes(run.path("model.onnx"), content := _named(run.name))
    digest = hashlib.sha256(content).hexdigest()
    head = make_head_record(run, make_snapshot_record(run, labels=COLOURS))
    candidate = Candidate(head=head, onnx_path=run.path("model.onnx"), sha256=digest, version=1)
    variant = Variant(precision="int8", onnx_path=candidate.onnx_path, sha256=digest, published=True, measured={})
    decision = Decision(candidate=candidate, promote=True, reasons=(), gates=(PARITY,), folder=run.folder)
    path = publish(run, decision, (variant,), {})
    assert path == publish(run, decision, (variant,), {})  # a retry finds it done
    return f"{workspace}/{path.removesuffix('/model.onnx')}"


def _named(name: str) -> bytes:
    import onnx

    from tasks.networks.onnx_graph import describe

    model = onnx.load_model_from_string(colour_model())
    describe(model, {"name": name})
    return model.SerializeToString()


@pytest.mark.parametrize("store", ["folder", "bucket"])
def test_what_is_published_is_signed(store: str, request: pytest.FixtureRequest, keys, tmp_path, monkeypatch):
    private, public = keys
    monkeypatch.setenv(KEY_VARIABLE, str(private))
    workspace = str(tmp_path / "w") if store == "folder" else request.getfixturevalue("bucket_url")
    folder = publish_one(workspace, tmp_path)
    checks = {check.name: check.passed for check in verify(folder, public_key=str(public)).checks}
    assert checks == dict.fromkeys(checks, True)
    place = Workspace(folder)
    files = [file.path for file in place.files("")]
    # OpenVINO Model Server loads whichever graph it comes upon first in the folder: there is one.
    assert [file for file in files if "/" not in file] == ["manifest.json", "model.onnx", "model.sig"]
    assert [file for file in files if "/" in file] == ["variants/int8.onnx"]
    assert not any(b"private.pem" in place.read_bytes(file) for file in files)


def test_what_is_rolled_back_is_signed_and_served(keys, tmp_path, monkeypatch):
    private, public = keys
    lay(tmp_path, 1)
    lay(tmp_path, 2)
    monkeypatch.setenv(KEY_VARIABLE, str(private))
    workspace = Workspace(str(tmp_path))
    roll_back(workspace, "colours")
    slot = ModelSlot(workspace, "colours", public_key=str(public))
    assert slot.refresh()
    assert slot.model.version == 3


def test_without_a_key_nothing_is_signed(keys, tmp_path, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    folder = publish_one(str(tmp_path / "w"), tmp_path)
    assert verify(folder).ok
    assert verify(folder, public_key=str(keys[1])).problems == [
        "signature: there is no model.sig, and a key is configured"
    ]


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), ("nonsense", "holds no elliptic-curve")])
def test_a_key_that_cannot_be_used_is_found_before_a_run(tmp_path, monkeypatch, content, says):
    secret = tmp_path / "somewhere.pem"
    if content:
        secret.write_text(content)
    monkeypatch.setenv(KEY_VARIABLE, str(secret))
    with pytest.raises(ConfigError, match=says) as caught:
        check_key()
    assert str(secret) not in str(caught.value)
    with pytest.raises(ConfigError):
        publish_one(str(tmp_path / "w"), tmp_path)
    assert not (tmp_path / "w/models/shapes/1").exists()


def test_a_candidate_with_external_data_is_not_published(tmp_path):
    run = make_run(tmp_path / "w", tmp_path)
    content = with_external_weights(_named(run.name), tmp_path / "secret.bin")
    run.workspace.write_bytes(run.path("model.onnx"), content)
    with pytest.raises(DamagedFileError, match="in another file"):
        judged_file(run.workspace, run.path("model.onnx"), hashlib.sha256(content).hexdigest())


def tampered(folder: Path) -> None:
    content = colour_model(turn=2)
    (folder / "model.onnx").write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest(content, 1)))


def unsigned(folder: Path) -> None:
    (folder / "model.sig").unlink()


@pytest.mark.parametrize(
    ("harm", "says"), [(tampered, "model.sig does not verify"), (unsigned, "there is no model.sig")]
)
def test_what_is_not_as_it_was_signed_is_neither_restored_nor_signed_again(keys, tmp_path, monkeypatch, harm, says):
    for version in (1, 2):
        sign(lay(tmp_path, version), str(keys[0]))
    harm(tmp_path / "models/colours/1")
    monkeypatch.setenv(KEY_VARIABLE, str(keys[0]))
    workspace = Workspace(str(tmp_path))
    with pytest.raises(DamagedFileError, match=f"can't be restored and signed: signature: {says}"):
        roll_back(workspace, "colours")
    assert versions(workspace, "colours") == [1, 2]


def test_a_signed_version_is_restored_with_a_signature_of_its_own(keys, tmp_path, monkeypatch):
    for version in (1, 2):
        sign(lay(tmp_path, version), str(keys[0]))
    monkeypatch.setenv(KEY_VARIABLE, str(keys[0]))
    workspace = Workspace(str(tmp_path))
    assert roll_back(workspace, "colours")["version"] == 3
    assert verify_version(workspace, "colours", 3, public_key=str(keys[1])).problems == []
