import hashlib
import json
import shutil

import onnx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tasks.errors import WorkspaceError
from tasks.publish.signing import sign
from tasks.publish.verify import verify, verify_version
from tasks.workspace import Workspace
from tests.deploy.serving.models import colour_model, publish
from tests.externals import endless_model, insatiable_model, with_external_weights


def passed(verification) -> dict[str, bool | None]:
    return {check.name: check.passed for check in verification.checks}


def test_a_sound_version_passes_every_check(tmp_path):
    verification = verify(str(publish(tmp_path, 1)))
    assert verification.ok
    assert passed(verification) == {
        "manifest": True,
        "digests": True,
        "signature": None,
        "graph": True,
        "parity": True,
        "decision": True,
    }
    assert verification.problems == []


def test_a_copy_elsewhere_passes_too(tmp_path):
    copy = publish(tmp_path, 1).rename(tmp_path / "a copy")
    assert verify(f"{copy}/").ok


def test_a_changed_byte_is_found(tmp_path):
    folder = publish(tmp_path, 1)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    verification = verify(str(folder))
    assert not verification.ok
    assert "the manifest promises" in verification.problems[0]


def test_a_file_in_a_folder_is_found_too(tmp_path):
    folder = publish(tmp_path, 1)
    (folder / "variants").mkdir()
    (folder / "variants" / "int8.onnx").write_bytes(b"x")
    assert verify(str(folder)).problems == ["digests: files that the manifest does not name: variants/int8.onnx"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"files": {}}, "gives no digest for model.onnx"),
        ({"files": None}, "no object 'files'"),
        ({"version": "1"}, "no int at 'version'"),
        ({"version": 2}, "the folder is of version 1"),
        ({"name": "animals"}, "the folder is of the model 'colours', manifest.json of 'animals'"),
        ({"name": None}, "no str at 'name'"),
        ({"decision": None}, "no gate decision"),
        ({"decision": {"promote": True, "gates": [{"name": "parity", "passed": None}]}}, "parity did not pass"),
        (
            {
                "decision": {
                    "promote": True,
                    "gates": [{"name": "parity", "passed": True}, {"name": "x", "passed": False}],
                }
            },
            "these gates failed: x",
        ),
    ],
)
def test_a_manifest_that_shows_too_little_fails(tmp_path, changes, problem):
    verification = verify(str(publish(tmp_path, 1, **changes)))
    assert not verification.ok
    assert any(problem in each for each in verification.problems), verification.problems


def test_a_graph_that_is_not_of_the_contract_fails(tmp_path):
    model = onnx.load_model_from_string(colour_model())
    model.graph.input[0].name = "photo"
    model.graph.node[0].input[0] = "photo"
    verification = verify(str(publish(tmp_path, 1, content=model.SerializeToString())))
    assert any("should take one input, 'image'" in problem for problem in verification.problems)


def test_an_absent_manifest_fails_and_an_absent_folder_is_a_fault(tmp_path):
    folder = publish(tmp_path, 1)
    (folder / "manifest.json").unlink()
    assert verify(str(folder)).problems == [
        "manifest: there is no manifest.json: not a published version, or one that is not whole"
    ]
    with pytest.raises(WorkspaceError, match="does not exist"):
        verify(str(tmp_path / "models" / "colours" / "7"))


def test_a_signed_version_verifies_with_its_key(tmp_path, keys):
    private, public = keys
    folder = publish(tmp_path, 1)
    sign(folder, str(private))
    assert passed(verify(str(folder), public_key=str(public)))["signature"] is True
    assert passed(verify(str(folder)))["signature"] is None


def test_a_signature_is_asked_for_where_a_key_is_configured(tmp_path, keys):
    _, public = keys
    verification = verify(str(publish(tmp_path, 1)), public_key=str(public))
    assert verification.problems == ["signature: there is no model.sig, and a key is configured"]


def test_a_manifest_changed_after_signing_fails(tmp_path, keys):
    private, public = keys
    folder = publish(tmp_path, 1)
    sign(folder, str(private))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "metrics": {"test": {"accuracy": 1.0}}}))
    assert any("model.sig does not verify" in each for each in verify(str(folder), public_key=str(public)).problems)


def test_another_key_fails(tmp_path, keys):
    private, _ = keys
    folder = publish(tmp_path, 1)
    sign(folder, str(private))
    other = tmp_path / "other.pem"
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    other.write_bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    assert not verify(str(folder), public_key=str(other)).ok


def test_what_was_checked_is_handed_over_so_that_nothing_is_read_again(tmp_path):
    folder = publish(tmp_path, 1)
    content = (folder / "model.onnx").read_bytes()
    found = verify(str(folder))
    (folder / "model.onnx").write_bytes(colour_model(turn=2))
    assert found.files["model.onnx"] == content


def test_a_signed_version_of_another_model_or_under_another_number_fails(tmp_path, keys):
    private, public = keys
    folder = publish(tmp_path, 1)
    sign(folder, str(private))
    for place, says in (
        ("models/animals/1", "the model 'animals'"),
        ("models/colours/3", "the folder is of version 3"),
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, tmp_path / place)
        for found in (
            verify(str(tmp_path / place), public_key=str(public)),
            verify_version(Workspace(str(tmp_path)), *named(place), public_key=str(public)),
        ):
            [problem] = found.problems
            assert says in problem


def named(place: str) -> tuple[str, int]:
    _, name, version = place.split("/")
    return name, int(version)


@pytest.mark.parametrize("left_out", ["model.onnx", "manifest.json", "variants/int8.onnx"])
def test_a_signature_has_to_cover_every_file(tmp_path, keys, left_out):
    """Its own list says what it leaves out, and by that list it would be right."""
    from model_signing import hashing, signing

    private, public = keys
    folder = publish(tmp_path, 1)
    (folder / "variants").mkdir()
    (folder / "variants/int8.onnx").write_bytes(b"x")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["variants/int8.onnx"] = hashlib.sha256(b"x").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    partial = hashing.Config().set_ignored_paths(
        paths=[folder / "model.sig", folder / left_out], ignore_git_paths=False
    )
    signer = signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(partial)
    signer.sign(folder, folder / "model.sig")
    [problem] = verify(str(folder), public_key=str(public)).problems
    assert problem == f"signature: model.sig does not cover {left_out}; it has to cover every file of the version"


def test_the_version_in_the_graph_has_to_be_that_of_the_manifest(tmp_path):
    from tasks.networks.onnx_graph import describe

    model = onnx.load_model_from_string(colour_model())
    describe(model, {"version": "7"})
    [problem] = verify(str(publish(tmp_path, 1, content=model.SerializeToString()))).problems
    assert problem == "graph: model.onnx is of the version 7, the manifest of 1"


@pytest.mark.parametrize("current", ["models/colours/1", "."])
def test_external_data_fails_wherever_the_command_runs(tmp_path, monkeypatch, current):
    content = with_external_weights(colour_model(), tmp_path / "weights.bin")
    folder = publish(tmp_path, 1, content=content)
    monkeypatch.chdir(tmp_path / current)
    [problem] = verify(str(folder)).problems
    assert problem.startswith("graph: model.onnx: the graph keeps 'weights' in another file")


def test_gates_that_do_not_apply_are_not_counted_as_if_they_had_failed(tmp_path):
    gates = [{"name": "parity", "passed": True}, {"name": "size", "passed": True}, {"name": "champion", "passed": None}]
    found = verify(str(publish(tmp_path, 1, decision={"promote": True, "gates": gates})))
    assert found.checks[-1].detail == "promoted; 2 of 2 gates passed (champion did not apply)"


@pytest.mark.parametrize(
    ("make", "says"), [(insatiable_model, "vailable memory"), (endless_model, "stopped after 1 s")]
)
def test_a_graph_that_takes_all_memory_or_time_fails(tmp_path, monkeypatch, make, says):
    monkeypatch.setattr("tasks.publish.verify.PROBE_S", 1.0)
    [problem] = verify(str(publish(tmp_path, 1, content=make()))).problems
    assert problem.startswith("graph: model.onnx can't predict: ")
    assert says in problem
