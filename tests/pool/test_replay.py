"""A replay compares choosing with chance, from the same start, and says how sure it is."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from tasks.pool.cut import cut_champion
from tasks.pool.replay import METHODS, Replay, interval_of_mean
from tasks.pool.replay_chart import replay_chart
from tasks.records import Run
from tasks.storage.feature_store import append_rows
from tests.deploy.serving.models import publish
from tests.flows.cli.test_prediction import headstart
from tests.runs import keep_snapshot, make_run


def some_replay() -> Replay:
    labels = np.array([50, 100, 200, 400])
    chosen = np.array([[0.5, 0.8, 0.9, 0.9], [0.5, 0.78, 0.9, 0.9]])
    random = np.array([[0.5, 0.6, 0.8, 0.9], [0.5, 0.64, 0.78, 0.9]])
    return Replay(labels=labels, accuracy={"chosen": chosen, "random": random}, full=0.9, held_out=70)


def test_labels_needed_are_interpolated_and_the_ratio_has_an_interval():
    found = some_replay()
    np.testing.assert_allclose(found.needed("chosen", 0.95), [155, 162.5])
    np.testing.assert_allclose(found.needed("random", 0.95), [310, 325])
    np.testing.assert_allclose(found.ratio(0.95), [0.5, 0.5, 0.5], atol=1e-9)
    mean, low, high = interval_of_mean(np.array([1.0, 2.0, 3.0]))
    assert (mean, round(low, 3), round(high, 3)) == (2.0, -0.484, 4.484)  # Student's t, two degrees of freedom


def test_a_lucky_round_is_not_taken_for_the_rest():
    lucky = Replay(
        labels=np.array([10, 20, 40, 80]),
        accuracy=dict.fromkeys(METHODS, np.array([[0.5, 0.9, 0.7, 0.9]])),
        full=0.9,
        held_out=9,
    )
    assert 40 < lucky.needed("chosen", 0.95)[0] < 80


def test_the_picture_is_one_svg_that_names_both():
    svg = ElementTree.fromstring(replay_chart(some_replay(), "a <title>"))
    texts = [each.text for each in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a <title>", "chosen", "random", "labels"} <= set(texts)
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}polyline"))) == 2


@pytest.fixture
def clusters(tmp_path: Path) -> Run:
    """A model whose stored rows make three classes of which one is rare, and splits in two groups."""
    rng = np.random.default_rng(0)
    names, sizes = ("red", "green", "blue"), (120, 120, 30)
    labels = np.repeat(np.arange(3), sizes)
    rows = rng.normal(size=(len(labels), 3)) + 3 * np.eye(3)[labels]
    sha256s = [f"{int.from_bytes(rng.bytes(32), 'big'):064x}" for _ in labels]
    run = make_run(tmp_path / "w", tmp_path)
    table = pd.DataFrame({"sha256": sha256s, "label": np.array(names)[labels]})
    table = table.assign(split=np.where(rng.random(len(table)) < 0.25, "test", "train"), uri="gone", path="gone")
    publish(tmp_path / "w", 1, lineage={"snapshot": keep_snapshot(run, table).id})
    model = cut_champion(run.workspace, "colours")
    append_rows(run.workspace, model.key, sha256s, [0] * len(sha256s), rows.astype(np.float16))
    return run


def test_a_models_own_images_are_replayed_from_stored_rows(clusters: Run, tmp_path: Path, capfd):
    command = ("replay", "colours", "--workspace", clusters.workspace.url, "--seeds", 1, "--json")
    capfd.readouterr()
    done = headstart(*command, "--to", tmp_path / "curve.svg")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(capfd.readouterr().out)
    assert answer["labels"][0] == 50
    assert answer["labels"] == sorted(answer["labels"])
    curves = {method: np.array(answer["accuracy"][method]) for method in METHODS}
    assert all(curve.shape == (len(answer["labels"]), 3) for curve in curves.values())
    assert (curves["chosen"][0] == curves["random"][0]).all()  # the same first images
    np.testing.assert_allclose(curves["chosen"][-1], curves["random"][-1])  # with all labels
    assert answer["full_accuracy"] > 0.9
    assert (tmp_path / "curve.svg").read_bytes().startswith(b"<?xml")
    assert headstart(*command).exit_code == 0
    assert json.loads(capfd.readouterr().out) == answer  # nothing but the seeds is drawn from


def test_too_few_images_are_a_plain_error(tmp_path: Path):
    from tests.pool.colours import publish_colours

    publish_colours(tmp_path, trained=10)
    done = headstart("replay", "colours", "--workspace", tmp_path / "w")
    assert (done.exit_code, "a replay takes at least 100" in done.stderr) == (2, True)
