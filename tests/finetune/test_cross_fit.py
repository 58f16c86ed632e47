"""Cross-fitting: every training and validation image is predicted by a head that was trained without its group."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tasks.finetune import cross_fit as module
from tasks.finetune.cross_fit import FOLDS, calibrates, cross_fit, folds_of, temperature
from tasks.records import Features, Run
from tasks.storage.feature_store import append_rows
from tasks.storage.tables import read_table
from tests.runs import keep_snapshot, make_extractor_record, make_run

NAMES = ("ant", "bee", "cat")
WIDTH = 24


def stored(
    folder, count: int = 90, *, split=None, group=None, seconds: float = 60
) -> tuple[Run, pd.DataFrame, Features]:
    """Features of three classes that overlap a little; every sixth image is for validation, every tenth for test."""
    run = make_run(folder / "w", "s", config={"finetune": {"epochs": 3}, "evaluate": {"cross_fit_s": seconds}})
    rng = np.random.default_rng(0)
    targets = np.arange(count) % 3
    features = rng.normal(0, 1, (count, WIDTH)) + np.random.default_rng(1).normal(0, 1.5, (3, WIDTH))[targets]
    digests = [f"{rng.integers(2**62):016x}{number:048x}" for number in range(count)]
    places = np.arange(count)
    split = np.where(places % 10 == 9, "test", np.where(places % 6 == 0, "validation", "train"))
    table = pd.DataFrame(
        {
            "sha256": digests,
            "label": [NAMES[k] for k in targets],
            "split": split,
            "group": digests,
        }
    )
    append_rows(run.workspace, "r", digests, [0] * count, features.astype(np.float16))
    snapshot = keep_snapshot(run, table)
    return run, table, Features(snapshot=snapshot, extractor=make_extractor_record(), views=0, embedded=0)


def test_every_image_but_those_of_the_test_split_is_predicted_well(tmp_path):
    run, table, features = stored(tmp_path)
    epochs = []
    fitted = cross_fit(run, features, lambda: epochs.append(1))
    assert (fitted.missing, len(epochs)) == ("", run.config.finetune.epochs)
    logits = read_table(run.workspace, fitted.path).set_index("sha256")["logits"]
    taught = table[table["split"] != "test"].set_index("sha256")
    assert sorted(logits.index) == sorted(taught.index)
    predicted = np.array(NAMES)[np.stack(logits.loc[taught.index].to_list()).argmax(axis=1)]
    assert (predicted == taught["label"]).mean() > 0.8
    assert 0.05 < temperature(run, fitted) < 20


def test_an_image_does_not_teach_the_head_that_predicts_it(tmp_path, monkeypatch):
    """With labels that say nothing of the image, a head that had seen them would know some."""
    run, table, features = stored(tmp_path)
    shuffled = table.assign(label=np.random.default_rng(5).permutation(table["label"]))
    features = Features(snapshot=keep_snapshot(run, shuffled), extractor=features.extractor, views=0, embedded=0)
    fitted = cross_fit(run, features)
    logits = read_table(run.workspace, fitted.path).set_index("sha256")["logits"]
    labels = shuffled.set_index("sha256").loc[logits.index, "label"]
    assert (np.array(NAMES)[np.stack(logits.to_list()).argmax(axis=1)] == labels).mean() < 0.5


def test_a_fold_is_the_groups_for_ever_and_the_folds_are_alike_in_size():
    digests = pd.Series([f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}" for n in range(5000)])
    folds = folds_of(digests)
    assert set(folds) == set(range(FOLDS))
    assert np.bincount(folds).min() > 900
    assert (folds_of(digests[::-1])[::-1] == folds).all()


def test_a_training_that_takes_too_long_is_given_up_and_the_record_says_so(tmp_path, monkeypatch):
    run, _, features = stored(tmp_path, seconds=1e-6)
    fitted = cross_fit(run, features)
    assert "evaluate.cross_fit_s" in fitted.missing
    assert not run.workspace.exists(fitted.path)


def test_zero_seconds_train_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "train_fold_heads", None)
    run, _, features = stored(tmp_path, seconds=0)
    assert cross_fit(run, features).missing == "evaluate.cross_fit_s is 0"


@pytest.mark.parametrize(("count", "seconds", "asked"), [(90, 60, True), (90, 0, False), (900, 60, False)])
def test_only_few_validation_images_are_worth_it_for_the_temperature(tmp_path, count, seconds, asked):
    run, _, features = stored(tmp_path, count, seconds=seconds)
    assert calibrates(run, features) is asked
