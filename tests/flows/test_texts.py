"""Texts through the whole flow, with the encoder that comes with headstart: from a table to what to label next."""

from __future__ import annotations

import csv
import io
import json
import re
from html import escape
from pathlib import Path

import pytest

from flows.cli.status import model_status, status_text
from flows.cli.verdict import verdict_text
from flows.messages import PHRASES, messages_csv
from flows.retrain import retrain
from tasks.config import parse_config
from tasks.display import showing
from tasks.networks.classifier import Classifier
from tasks.pool.answers import predict_to
from tasks.pool.cut import cut_champion, for_model
from tasks.pool.stage import choose_batch, see
from tasks.publish.verify import verify_version
from tasks.report.run_page import history_rows
from tasks.runs import new_run
from tasks.workspace import Workspace

NAME = "messages"
TEXTS = {"ingest": {"task": "text"}}
# Phrases are told apart with certainty, which the calibration of so few test texts can't confirm.
# (And word vectors, trained in haste, bear no misspelt word.)
GATES = "[calibration]\nmax_error = 0.5\n[robustness]\nmax_accuracy_drop = 0.5\n"


def retrained(folder: Path, count: int) -> dict:
    (folder / "messages.csv").write_bytes(messages_csv(count))
    (folder / "gates.toml").write_text(GATES)
    config = parse_config(
        {"evaluate": {"gates": str(folder / "gates.toml"), "cross_fit_s": 0}, "finetune": {"epochs": 8}}
    )
    return retrain(source=str(folder / "messages.csv"), name=NAME, workspace=str(folder / "w"), config=config)  # type: ignore[return-value]


def ours(text: str) -> list[str]:
    """What of a text speaks of images, leaving out what is a tag, a key or a path."""
    bare = re.sub(r"<style.*?</style>|<[^>]*>", "", text, flags=re.DOTALL)
    return re.findall(r"(?i).{0,40}(?<![\w./-])(?:image|photograph|photo|picture|pixel)s?(?![\w./-]).{0,20}", bare)


@pytest.mark.usefixtures("prefect_api")
def test_texts_are_trained_judged_published_and_asked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with showing():
        _train_judge_and_ask(tmp_path)
    lines = capsys.readouterr().err
    assert "extractor embedded_text, at most " in lines
    assert ours(lines) == []


def _train_judge_and_ask(tmp_path: Path) -> None:
    first = retrained(tmp_path, 400)
    assert (first["verdict"], first["version"], first["labels"]) == ("promoted", 1, sorted(PHRASES))
    assert first["metrics"]["test"]["accuracy"] > 0.8
    assert retrained(tmp_path, 400)["verdict"] == "unchanged"

    second = retrained(tmp_path, 480)
    assert second["images"]["embedded"] <= 80  # what is old is not read again
    assert second["lineage"]["features"]["extractor"]["task"] == "text"
    decision = json.loads((tmp_path / "w" / "runs" / second["run_id"] / "decision.json").read_text())
    gates = {gate["name"]: gate["passed"] for gate in decision["gates"]}
    assert gates["parity of labels"]
    assert gates["parity of probabilities"]
    assert {change["kind"] for change in decision["robustness"]} == {"typing errors", "case", "punctuation"}

    workspace = Workspace(str(tmp_path / "w"))
    for written in ("report.html", "model_card.md"):
        assert ours(workspace.read_bytes(f"runs/{second['run_id']}/{written}").decode()) == []
    assert ours(verdict_text(second, workspace)) == []
    assert ours(status_text(model_status(workspace, NAME))) == []
    assert ours("\n".join(f"{gate['reason']} {gate['evidence']}" for gate in decision["gates"])) == []
    assert history_rows(new_run("s", NAME, workspace.url, parse_config(TEXTS)))[0]["texts"].endswith(" new")
    assert verify_version(workspace, NAME, 1).problems == []
    config = (tmp_path / "w" / "models" / NAME / "config.pbtxt").read_text()
    assert 'name: "input_ids" data_type: TYPE_INT64 dims: [ -1, -1 ]' in config

    model = Classifier(first["model"])
    found = model.predict_one(model.read(b"Good morning. please cancel the kettle that I ordered yesterday"))
    assert model.labels[found.probabilities.argmax()] == "cancel"

    _next_and_predict(tmp_path, workspace)


def _next_and_predict(folder: Path, workspace: Workspace) -> None:
    """What to label next of more messages, and answers for all of them."""
    texts = [row["text"] for row in csv.DictReader(io.StringIO(messages_csv(700).decode()))]
    with (folder / "pool.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text"])
        writer.writeheader()
        writer.writerows({"text": text} for text in texts)
    run = new_run(str(folder / "pool.csv"), NAME, workspace.url, parse_config({}))
    batch = choose_batch(run, see(run), 20)
    tasks = workspace.read_json(batch.path(".json"))
    assert len(tasks) == batch.images > 0
    assert {task["data"]["text"] for task in tasks} <= set(texts[480:])  # none that has a label
    # Texts in words, where images have thumbnails.
    page = workspace.read_bytes(batch.path(".html")).decode()
    assert "data:image" not in page
    assert all(escape(task["data"]["text"][:60], quote=False) in page for task in tasks)
    assert '<Text name="text" value="$text"/>' in workspace.read_bytes(f"{batch.folder}/label_studio.xml").decode()

    cut = cut_champion(workspace, NAME)
    predict_to(for_model(run, cut), cut, folder / "answers.jsonl")
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert {row["text"] for row in rows} == set(texts)
    assert set(rows[0]) == {"text", "label", "probability", "familiarity"}
