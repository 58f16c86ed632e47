"""Parity's reference: made once for a sample of the test split, and compared with where it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.evaluate import parity
from tasks.evaluate.parity import make_reference, measure_parity
from tasks.ingest.catalogue import build_catalogue
from tasks.records import FeatureExtractor, Features, Head, Run, Snapshot
from tasks.split.assign import make_snapshot
from tasks.storage.feature_store import load_features, stored_views
from tasks.storage.snapshots import read_snapshot
from tests import photos
from tests.runs import make_run

EXTRACTOR = FeatureExtractor(
    key="key", onnx_path="", backbone="embedded", weights="", boundary="avg_pool", image_size_px=32
)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Snapshot, list[str], list[str]]:
    """A run, its snapshot, the test images and, as they come, the images that Keras was asked about."""
    source = photos.class_folders(tmp_path / "photos", {"red": 40, "green": 40})
    run = make_run(tmp_path / "w", source, config={"split": {"test_share": 0.3}})
    snapshot, asked = make_snapshot(run, build_catalogue(run)), []

    def features(run: Run, extractor: FeatureExtractor, images: Sequence[tuple[str, str]]) -> Iterator[np.ndarray]:
        asked.extend(sha256 for sha256, _ in images)
        yield np.array([[int(sha256[:4], 16), 1] for sha256, _ in images], np.float32)

    monkeypatch.setattr(parity, "_keras_features", features)
    table = read_snapshot(run.workspace, snapshot.id, ["sha256", "split"])
    return run, snapshot, sorted(table.loc[table["split"] == "test", "sha256"]), asked


def test_a_sample_is_asked_once_and_grows_only_where_more_is_wanted(
    made: tuple[Run, Snapshot, list[str], list[str]],
):
    run, snapshot, test, asked = made
    assert len(test) > 12
    assert make_reference(run, snapshot, EXTRACTOR, 5) == 5
    assert make_reference(run, snapshot, EXTRACTOR, 5) == 0
    assert asked == test[:5]
    assert make_reference(run, snapshot, EXTRACTOR, 8) == 3
    assert make_reference(run, snapshot, EXTRACTOR, 10_000) == len(test) - 8
    assert asked == test
    assert make_reference(run, snapshot, replace(EXTRACTOR, key="another"), 4) == 4


def test_the_answers_are_compared_where_there_is_a_reference(
    made: tuple[Run, Snapshot, list[str], list[str]], monkeypatch: pytest.MonkeyPatch
):
    run, snapshot, test, _ = made
    features = Features(snapshot=snapshot, extractor=EXTRACTOR, views=0, embedded=0)
    head = Head(features=features, digest="", temperature=2.0, folder="")
    monkeypatch.setattr(
        parity.keras_process,
        "call",
        lambda function, run, head, sha256s: load_features(run.workspace, "key-keras", sha256s, 0, np.float32),
    )
    answers = np.tile(np.array([1, 0], np.float32), (len(test), 1))
    assert measure_parity(run, head, test, answers) is None  # the gate says so
    make_reference(run, snapshot, EXTRACTOR, 6)
    found = measure_parity(run, head, test, answers)
    assert found is not None
    assert (found.n, found.label_agreement) == (6, 1.0)
    known = stored_views(run.workspace, "key-keras", test, 1)[:, 0]
    answers[np.flatnonzero(~known)] = [0.0, 1.0]  # not compared
    assert measure_parity(run, head, test, answers) == found
    answers[np.flatnonzero(known)[0]] = [0.0, 1.0]
    worse = measure_parity(run, head, test, answers)
    assert worse is not None
    assert worse.label_agreement == pytest.approx(5 / 6)
    assert worse.max_difference == pytest.approx(1.0)
