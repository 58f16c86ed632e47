"""The command line as another program meets it: exit statuses, plain messages, one JSON object."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner, Result

from flows.cli.main import app
from tests import photos

Capture = pytest.CaptureFixture[str]


def in_process(capfd: Capture, *args: object, **environ: str) -> tuple[Result, str]:
    """The result of a command that ends before Prefect starts, and its standard output."""
    capfd.readouterr()
    result = CliRunner().invoke(app, list(map(str, args)), env={"COLUMNS": "200", **environ})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result, result.stdout + capfd.readouterr().out  # answers go around what a library may put in its place


def headstart(*args: object, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **environ},
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.class_folders(tmp_path_factory.mktemp("cli") / "photos", {"red": 6, "green": 6})


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--set", "finetune.learning_rat=0.1"], "nearest known one is 'finetune.learning_rate'"),
        (["--backbone", "mobilenet_v3"], "unknown backbone 'mobilenet_v3'; the nearest is 'mobilenet_v2'"),
        (["--weights", "/absent.h5"], "no weights file at /absent.h5"),
        (["--name", "No Good"], "a model's name can't be 'No Good'"),
        (["--config", "/absent.toml"], "can't read the configuration /absent.toml"),
        (["--set", "augment.policy=wild"], "there is no 'wild'; use one of flip"),
        (["--set", "evaluate.gates=/absent.toml"], "/absent.toml does not exist"),
        (["--set", "validate.suite=absent"], "absent"),
    ],
)
def test_a_mistake_exits_2_at_once_and_says_what_is_allowed(
    folder: Path, tmp_path: Path, args: list[str], says: str, capfd: Capture
):
    done, stdout = in_process(capfd, "retrain", folder, "--workspace", tmp_path, "--json", *args)
    assert done.exit_code == 2
    assert says in done.stderr
    assert stdout == ""


def test_a_mistake_ends_the_process_with_its_status_and_no_traceback(folder: Path, tmp_path: Path):
    done = headstart("retrain", folder, "--workspace", tmp_path, "--json", "--set", "finetune.learning_rat=0.1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nearest known one is 'finetune.learning_rate'" in done.stderr


def test_weights_that_cannot_be_downloaded_name_the_two_ways_on(folder: Path, tmp_path: Path):
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = headstart("retrain", folder, "--workspace", tmp_path, KERAS_HOME=str(tmp_path / "keras"), **nowhere)
    assert done.returncode == 2
    assert "can't be downloaded" in done.stderr
    assert "--weights FILE" in done.stderr
    assert "--backbone embedded" in done.stderr


def test_a_workspace_that_is_no_folder_exits_1(folder: Path, tmp_path: Path, capfd: Capture):
    (tmp_path / "file").write_text("")
    done, _ = in_process(capfd, "retrain", folder, "--workspace", tmp_path / "file")
    assert done.exit_code == 1
    assert "give a folder that can be written with --workspace" in done.stderr


def test_status_and_predict_of_what_is_not_there_exit_2(tmp_path: Path, capfd: Capture):
    done, _ = in_process(capfd, "status", "hats", "--workspace", tmp_path)
    assert "run headstart retrain SOURCE --name hats" in done.stderr
    done, _ = in_process(capfd, "predict", "hats", "photo.jpg", "--workspace", tmp_path)
    assert done.exit_code == 2
    assert "no model 'hats' has been published" in done.stderr
    assert in_process(capfd, "predict", tmp_path / "absent.onnx", "photo.jpg")[0].exit_code == 2


def test_config_lists_every_key(capfd: Capture):
    from tasks.config import known_keys

    _, shown = in_process(capfd, "config")
    assert all(f"{key} = " in shown for key in known_keys())


def test_version_prints_the_name_and_the_version(capfd: Capture):
    done, stdout = in_process(capfd, "--version")
    assert (done.exit_code, stdout) == (0, f"headstart {version('headstart')}\n")


@pytest.mark.parametrize("command", [[], ["retrain"], ["quarantine"], ["quarantine", "list"]])
def test_h_is_help_everywhere(command: list[str], capfd: Capture):
    assert in_process(capfd, *command, "-h")[1] == in_process(capfd, *command, "--help")[1] != ""


def test_the_shell_completes_commands():
    asked = {"_HEADSTART_COMPLETE": "complete_bash", "COMP_WORDS": "headstart ret", "COMP_CWORD": "1"}
    script = Path(sys.executable).with_name("headstart")
    done = subprocess.run([script], capture_output=True, text=True, env={**os.environ, **asked}, check=False)
    assert done.stdout.split() == ["retrain"]


@pytest.mark.parametrize("command", ["retrain", "status", "predict", "config"])
def test_help_and_light_commands_import_nothing_heavy(command: str):
    probe = (
        "import sys; sys.argv = ['headstart', %r, '--help']\n"
        "from flows.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'tensorflow', 'prefect', 'great_expectations', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe % command], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.usefixtures("prefect_api")
def test_the_whole_journey(tmp_path: Path, capfd: Capture):
    """A first model, nothing new and new images, each in a process of its own; prediction, status, promotion."""
    source = photos.class_folders(tmp_path / "my photos", {"red": 40, "blau-grün": 40, "it's": 40})
    (source / "red" / "broken.jpg").write_bytes(photos.truncated_jpeg())
    (source / "red" / ".DS_Store").write_bytes(b"x")
    workspace = tmp_path / "w"
    common = ["--name", "tints", "--workspace", workspace, "--json", "--backbone", "embedded"]
    common += ["--set", "backbone.image_size_px=64", "--set", "split.test_share=0.25"]
    common += ["--set", "evaluate.cross_fit_s=0"]

    done = headstart("retrain", source, *common)
    first = json.loads(done.stdout)
    assert (done.returncode, first["verdict"], first["version"]) == (0, "promoted", 1), first["reasons"]
    left_out = {"a system file or a hidden one": 1}
    assert first["images"] == {"total": 121, "new": 120, "quarantined": 1, "embedded": 120, "left_out": left_out}
    model = workspace / "models/tints/1/model.onnx"
    assert first["model"] == str(model)
    manifest = json.loads((model.parent / "manifest.json").read_text())
    assert manifest["lineage"]["snapshot"] == first["snapshot"]
    report = Path(first["report"]).read_text()
    assert "it&#39;s" in report
    assert "truncated" in report

    # Where there is nothing new, nothing heavy is imported: here it can't be.
    heavy = tmp_path / "heavy"
    for module in ("tensorflow", "keras", "great_expectations", "onnxruntime"):
        (heavy / module).mkdir(parents=True)
        (heavy / module / "__init__.py").write_text("raise ImportError('too heavy for nothing new')")
    done = headstart("retrain", source, *common, PYTHONPATH=str(heavy))
    again = json.loads(done.stdout)
    assert (done.returncode, again["verdict"], again["images"]["embedded"]) == (0, "unchanged", 0)

    photos.class_folders(source, {"red": 4, "blau-grün": 4, "it's": 4}, start=1000)
    done = headstart("retrain", source, *common)
    third = json.loads(done.stdout)
    assert third["images"]["embedded"] == 12
    assert (done.returncode, third["verdict"]) == (3, "refused")  # 33 test images can't rule out two points
    assert "not enough data to rule out" in third["reasons"][0]
    assert third["evidence"] == "test split"
    decision = json.loads((workspace / "runs" / third["run_id"] / "decision.json").read_text())
    assert decision["comparison"]["n"] == third["metrics"]["test"]["n"]

    chosen = [source / "red" / "00000.jpg", source / "it's" / "00001.jpg"]
    _, stdout = in_process(capfd, "predict", "tints", *chosen, "--workspace", workspace, "--json")
    answers = json.loads(stdout)["predictions"]
    assert [row["image"] for row in answers] == [str(path) for path in chosen]
    assert {row["label"] for row in answers} <= {"red", "blau-grün", "it's"}
    done, _ = in_process(capfd, "predict", model, source / "red" / "broken.jpg")
    assert done.exit_code == 2
    assert "broken.jpg: the image is truncated" in done.stderr

    status = json.loads(in_process(capfd, "status", "tints", "--workspace", workspace, "--json")[1])
    assert status["last_decision"]["run_id"] == third["run_id"]
    assert [row["version"] for row in status["versions"]] == [1]

    override = ["--by", "Ada", "--reason", "seen and found good", "--workspace", workspace]
    done, stdout = in_process(capfd, "promote", third["run_id"], *override, "--json")
    assert (done.exit_code, json.loads(stdout)["version"]) == (0, 2), done.stderr
    assert in_process(capfd, "verify", workspace / "models/tints/2")[0].exit_code == 0
    _, stdout = in_process(capfd, "status", "tints", "--workspace", workspace)
    assert "promoted by Ada against the gates: seen and found good" in stdout
    assert "against the gates: seen and found good" in Path(third["report"]).read_text()
    done = headstart("retrain", source, *common)
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (0, "unchanged")


@pytest.mark.usefixtures("prefect_api")
def test_one_class_only_exits_4_with_a_decision_and_a_report(tmp_path: Path):
    source = photos.class_folders(tmp_path / "photos", {"red": 20, "lonely": 1})
    weights = tmp_path / "w.h5"
    weights.write_bytes(b"never read: the data is refused before")
    done = headstart("retrain", source, "--workspace", tmp_path / "w", "--json", "--weights", weights)
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["verdict"]) == (4, "invalid-data")
    assert "classes" in " ".join(summary["reasons"])
    assert Path(summary["report"]).exists()


def test_an_empty_folder_exits_2(tmp_path: Path, capfd: Capture):
    (tmp_path / "empty").mkdir()
    done, _ = in_process(capfd, "retrain", tmp_path / "empty", "--workspace", tmp_path / "w", "--json")
    assert done.exit_code == 2
    assert "empty" in done.stderr


def test_ctrl_c_is_acknowledged_at_once_and_ends_the_run_within_seconds(folder: Path, tmp_path: Path):
    """At a terminal of its own, while Prefect's server starts: the first line was there long before."""
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "flows.cli", "retrain", str(folder), "--workspace", str(tmp_path / "w")]
    environ = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    process = subprocess.Popen(
        [*command, "--backbone", "embedded"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environ, "PREFECT_HOME": str(tmp_path / "prefect")},
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )
    os.close(theirs)
    shown = _read_until(mine, "Prefect's server")
    assert f"Retrains default from {folder}" in shown
    assert "found     12 labelled files" in shown
    os.write(mine, b"\x03")
    pressed = time.monotonic()
    _read_until(mine, "interrupted; run it again to resume")
    assert time.monotonic() - pressed < 10  # at once, on a busy machine
    assert process.wait(timeout=60) == 130


def _read_until(terminal: int, text: str) -> str:
    shown = ""
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, f"no {text!r} within a minute; shown so far:\n{shown}"
        shown += os.read(terminal, 65536).decode(errors="replace")
    return shown


@pytest.mark.parametrize("command", ["automations", "watch"])
def test_what_needs_a_lasting_server_refuses_without_one(command: str, folder: Path, tmp_path: Path):
    args = [folder, "--workspace", tmp_path / "w"] if command == "watch" else []
    done = headstart(command, *args, PREFECT_API_URL="", PREFECT_HOME=str(tmp_path))
    assert done.returncode == 2
    assert f"headstart {command} needs a Prefect server that stays" in done.stderr


@pytest.mark.parametrize("command", ["retrain", "up", "watch"])
def test_a_wrong_boundary_is_reported_without_tensorflow(command: str, folder: Path, tmp_path: Path):
    """Here TensorFlow can't be imported, nor Prefect."""
    for module in ("tensorflow", "keras", "prefect"):
        (tmp_path / "heavy" / module).mkdir(parents=True)
        (tmp_path / "heavy" / module / "__init__.py").write_text("raise ImportError('too heavy for a wrong name')")
    args = ["--workspace", tmp_path / "w", "--set", "backbone.name=embedded", "--set", "backbone.boundary=block_12_ad"]
    done = headstart(command, folder, *args, PYTHONPATH=str(tmp_path / "heavy"))
    assert done.returncode == 2
    [last] = [row for row in done.stderr.splitlines() if not row.startswith("Retrains")]
    assert last.startswith("headstart: backbone.boundary: embedded can't be cut at 'block_12_ad'; the nearest of its ")
    assert ": block_12_add, " in last


def test_the_quarantine_of_an_unknown_model_is_a_mistake(tmp_path: Path, capfd: Capture):
    done, _ = in_process(capfd, "quarantine", "list", "hats", "--workspace", tmp_path)
    assert done.exit_code == 2
    assert "nothing is known of 'hats'" in done.stderr


def test_the_help_names_every_backbone():
    from flows.cli import options
    from tasks.config import BACKBONE_NAMES

    [option] = get_args(options.Backbone)[1:]
    assert all(name in option.help for name in BACKBONE_NAMES)
