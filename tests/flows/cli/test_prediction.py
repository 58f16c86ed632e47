"""`headstart predict NAME` uses what verifies, and nothing else; `status` and it pass over what is no version."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner, Result

from flows.cli.main import app
from tasks.publish.signing import sign
from tests.deploy.serving.models import colour_model, publish
from tests.deploy.serving.pictures import encoded
from tests.externals import with_external_weights
from tests.texts import publish_moods


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded("green"))
    return path


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """(private, public) PEM files of a new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def headstart(*args: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, args)), env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def predicted(capfd: pytest.CaptureFixture[str], *args: object) -> str:
    capfd.readouterr()
    assert headstart("predict", *args, "--json").exit_code == 0
    return json.loads(capfd.readouterr().out)["predictions"][0]["label"]


def test_a_version_that_does_not_verify_is_not_predicted_with(tmp_path: Path, photo: Path):
    folder = publish(tmp_path / "w", 1)
    (folder / "model.onnx").write_bytes(colour_model(turn=1))
    done = headstart("predict", "colours", photo, "--workspace", tmp_path / "w")
    assert done.exit_code == 1
    assert "version 1 of colours does not verify: digests: model.onnx has SHA-256" in done.stderr


def test_a_signature_is_asked_for_where_a_key_is_given(tmp_path: Path, photo: Path, keys, capfd):
    private, public = keys
    folder = publish(tmp_path / "w", 1)
    command = ["colours", photo, "--workspace", tmp_path / "w", "--public-key", public]
    done = headstart("predict", *command)
    assert done.exit_code == 1
    assert "there is no model.sig, and a key is configured" in done.stderr
    sign(folder, str(private))
    assert predicted(capfd, *command) == "green"


def test_a_file_that_reads_another_is_not_predicted_with(tmp_path: Path, photo: Path):
    (tmp_path / "model.onnx").write_bytes(with_external_weights(colour_model(), tmp_path / "secret.bin"))
    done = headstart("predict", tmp_path / "model.onnx", photo)
    assert done.exit_code == 1
    assert "keeps 'weights' in another file" in done.stderr


@pytest.mark.parametrize("entry", ["99", "٣", "notes"])
def test_what_is_no_version_ends_neither_predict_nor_status(tmp_path: Path, photo: Path, capfd, entry: str):
    publish(tmp_path / "w", 1, lineage={"snapshot": "s"})
    (tmp_path / "w/models/colours" / entry).mkdir()
    (tmp_path / "w/models/empty").mkdir()
    assert predicted(capfd, "colours", photo, "--workspace", tmp_path / "w") == "green"
    for name in (["colours"], []):
        assert headstart("status", *name, "--workspace", tmp_path / "w").exit_code == 0
    assert "version 1 in service" in capfd.readouterr().out


def test_names_of_files_cannot_write_to_the_terminal(tmp_path: Path, capfd):
    (tmp_path / "model.onnx").write_bytes(colour_model())
    photo = tmp_path / "a\x1b[2J\n100.0%  hat  b.jpg"
    photo.write_bytes(encoded("green"))
    capfd.readouterr()
    assert headstart("predict", tmp_path / "model.onnx", photo).exit_code == 0
    [line] = capfd.readouterr().out.splitlines()
    assert "a␛[2J␊100.0%  hat  b.jpg" in line


def test_a_folder_is_predicted_and_a_bad_file_does_not_hide_the_others(tmp_path: Path, photo: Path, capfd):
    publish(tmp_path / "w", 1)
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for path in (folder / "a.jpg", folder / "more/b.JPG"):
        path.write_bytes(photo.read_bytes())
    (folder / "notes.txt").write_text("no image by its name")
    (folder / "broken.jpg").write_bytes(photo.read_bytes()[:100])
    capfd.readouterr()
    done = headstart("predict", "colours", folder, photo, "--workspace", tmp_path / "w", "--json")
    assert done.exit_code == 2
    answer = json.loads(capfd.readouterr().out)
    assert [row["image"] for row in answer["predictions"]] == [
        *(str(folder / "a.jpg"), str(folder / "more/b.JPG"), str(photo))
    ]
    [fault] = answer["faults"]
    assert fault["image"] == str(folder / "broken.jpg")
    assert f"{folder / 'broken.jpg'}: " in done.stderr
    (tmp_path / "empty").mkdir()
    done = headstart("predict", "colours", tmp_path / "empty", "--workspace", tmp_path / "w")
    assert (done.exit_code, "there is no image in the folder" in done.stderr) == (2, True)


def test_what_is_skipped_in_a_folder_is_named_with_counts(tmp_path: Path, photo: Path, capfd):
    publish(tmp_path / "w", 1)
    folder = tmp_path / "photos"
    (folder / "phone").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(photo.read_bytes())
    for name in ("phone/1.cr3", "phone/2.CR3", "notes.txt", "list"):
        (folder / name).write_bytes(b"x")
    capfd.readouterr()
    done = headstart("predict", "colours", folder, "--workspace", tmp_path / "w", "--json")
    assert done.exit_code == 0
    [line] = done.stderr.splitlines()
    assert line == "skipped, since they can't be read as images: 2 *.cr3, 1 without a suffix, 1 *.txt"
    answer = json.loads(capfd.readouterr().out)
    assert len(answer["predictions"]) == 1
    assert answer["skipped"] == {".cr3": 2, "": 1, ".txt": 1}

    (folder / "a.jpg").unlink()
    done = headstart("predict", "colours", folder, "--workspace", tmp_path / "w")
    assert done.exit_code == 2
    assert "there is no image in the folder" in done.stderr
    assert "found are 2 *.cr3" in done.stderr


def test_verify_takes_a_name(tmp_path: Path, capfd):
    publish(tmp_path / "w", 1)
    publish(tmp_path / "w", 2)
    capfd.readouterr()
    assert headstart("verify", "colours", "--workspace", tmp_path / "w", "--json").exit_code == 0
    assert json.loads(capfd.readouterr().out)["model_dir"] == str(tmp_path / "w/models/colours/2")


@pytest.fixture
def knowing(tmp_path: Path) -> Path:
    """A workspace whose model says how familiar an image is."""
    publish(tmp_path / "w", 1, content=colour_model(familiarity=True))
    for colour in ("green", "dim"):
        (tmp_path / f"{colour}.png").write_bytes(encoded(colour, "PNG"))
    return tmp_path


def test_what_is_unlike_anything_known_is_said_and_named_as_asked(knowing: Path, capfd):
    photos = [knowing / "green.png", knowing / "dim.png"]
    command = ("predict", "colours", *photos, "--workspace", knowing / "w")
    assert headstart(*command).exit_code == 0
    said = capfd.readouterr().out.splitlines()
    assert [line.endswith("(unlike anything it was trained on)") for line in said] == [False, True]
    assert headstart(*command, "--unknown-label", "other", "--json").exit_code == 0
    rows = json.loads(capfd.readouterr().out)["predictions"]
    assert [(row["label"], row["familiar"]) for row in rows] == [("green", True), ("other", False)]
    assert rows[0]["familiarity"] > 0.9 > 0.1 > rows[1]["familiarity"]


def test_a_table_of_answers_has_the_familiarity_and_the_unknown_label(knowing: Path):
    photos = knowing / "photos"
    photos.mkdir()
    for colour in ("green", "dim"):
        (knowing / f"{colour}.png").rename(photos / f"{colour}.png")
    file = knowing / "answers.csv"
    command = ("predict", "colours", photos, "--to", file, "--unknown-label", "other", "--workspace", knowing / "w")
    assert headstart(*command).exit_code == 0
    rows = {Path(row["image"]).stem: row for row in csv.DictReader(file.open())}
    assert (rows["dim"]["label"], rows["green"]["label"]) == ("other", "green")
    assert float(rows["dim"]["familiarity"]) < 0.1


def test_an_unknown_label_needs_a_model_that_says_what_it_does_not_know(tmp_path: Path, photo: Path):
    publish(tmp_path / "w", 1)
    done = headstart("predict", "colours", photo, "--unknown-label", "other", "--workspace", tmp_path / "w")
    assert done.exit_code == 2
    assert "this model does not say how familiar an image is" in done.stderr


def test_texts_come_from_the_line_from_files_and_from_folders(tmp_path: Path, capfd):
    publish_moods(tmp_path / "w")
    (tmp_path / "texts/a").mkdir(parents=True)
    (tmp_path / "texts/a/1.txt").write_text("bad")
    (tmp_path / "texts/2.TXT").write_text("good")
    (tmp_path / "texts/other.md").write_text("bad")
    (tmp_path / "table.csv").write_text("text\ngood\n")
    (tmp_path / "empty").mkdir()
    long = "good " * 2000
    given = ["moods", "--workspace", tmp_path / "w"]
    assert headstart("predict", *given, tmp_path / "texts", "missing.csv", long, "--json").exit_code == 0
    rows = json.loads(capfd.readouterr().out)["predictions"]
    assert [row["text"] for row in rows] == ["good", "bad", "missing.csv", long]
    for item, why in ((tmp_path / "table.csv", "predict --to FILE"), (tmp_path / "empty", "no .txt file")):
        done = headstart("predict", *given, item)
        assert (done.exit_code, why in done.stderr) == (2, True)
    done = headstart("predict", *given, "")
    assert done.stderr.strip().endswith("'': it is empty")
