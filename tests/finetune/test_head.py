"""The head learns, repeats itself to the bit, and is calibrated."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest

from tasks.config import Finetune
from tasks.finetune import head as module
from tasks.finetune.data import Split
from tasks.finetune.head import (
    TrainedHead,
    class_weights,
    fit_temperature,
    schedule,
    train_head,
    weights_digest,
)
from tasks.networks.keras_export import to_onnx
from tasks.networks.onnx_session import open_session
from tasks.networks.rooted import layer_scales

SMALL = Finetune(epochs=6, hidden_units=16, batch_size=32)


def blobs(n: int, seed: int) -> Split:
    """Three classes whose float16 features [n, 8] differ in their means."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, n)
    features = np.abs(rng.normal(size=(n, 8)) + np.eye(3, 8)[targets] * 4)
    return Split(features=features.astype(np.float16), targets=targets)


@pytest.fixture(scope="module")
def plain() -> TrainedHead:
    return train_head(blobs(200, 0), blobs(60, 1), 3, SMALL)


def test_it_learns_what_can_be_learnt():
    trained = train_head(blobs(400, 0), blobs(200, 1), 3, SMALL.model_copy(update={"epochs": 20}))
    test = blobs(300, 2)
    logits = trained.model.predict(test.features, verbose=0)  # type: ignore[arg-type]
    assert (logits.argmax(axis=1) == test.targets).mean() > 0.9
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= trained.history[0].keys()
    assert 0 <= trained.best_epoch < len(trained.history)


@pytest.mark.parametrize("heads", [1, 2])
def test_an_epoch_is_judged_by_all_validation_rows_and_not_by_the_last_batch(
    heads: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "HELD_OUT_BATCH", 7)
    validation = blobs(60, 1)
    trained = train_head(blobs(200, 0), validation, 3, SMALL.model_copy(update={"heads": heads}))
    best = trained.history[trained.best_epoch]
    right = (trained.logits.argmax(axis=1) == validation.targets).mean()
    assert best["val_accuracy"] == pytest.approx(right)
    expected = module.smoothed_losses(trained.logits, np.eye(3)[validation.targets], SMALL.label_smoothing)
    assert best["val_loss"] == pytest.approx(expected.mean(), rel=1e-5)
    assert trained.best_epoch == np.argmin([epoch["val_loss"] for epoch in trained.history])


def test_another_seed_gives_other_weights(plain: TrainedHead):
    other = train_head(blobs(200, 0), blobs(60, 1), 3, SMALL.model_copy(update={"seed": 18}))
    assert weights_digest(plain.model) != weights_digest(other.model)


def test_the_same_seed_gives_the_same_weights_to_the_bit_whatever_other_threads_draw(plain: TrainedHead):
    """Beside the training, the flow builds the Keras feature extractor, whose fresh weights are drawn from the
    process's seed."""
    done = threading.Event()

    def draw() -> None:
        while not done.is_set():
            keras.Sequential([keras.layers.Dense(4), keras.layers.Dropout(0.5)]).build((None, 4))

    other = threading.Thread(target=draw)
    other.start()
    try:
        beside = train_head(blobs(200, 0), blobs(60, 1), 3, SMALL)
    finally:
        done.set()
        other.join()
    assert weights_digest(plain.model) == weights_digest(beside.model)
    assert plain.temperature == beside.temperature


@pytest.mark.parametrize("option", [{"ema": 0.9}, {"mixup": 0.4}, {"sampling": "balanced"}], ids=str)
def test_each_option_changes_the_weights_and_repeats_itself(option: dict[str, Any], plain: TrainedHead):
    config = SMALL.model_copy(update=option)
    first, again = (train_head(blobs(200, 0), blobs(60, 1), 3, config) for _ in range(2))
    assert weights_digest(first.model) == weights_digest(again.model) != weights_digest(plain.model)
    assert first.history[first.best_epoch]["val_accuracy"] > 0.8


def test_what_is_kept_is_the_average_and_what_was_validated():
    """At a rate that throws the weights about, so that an average is not what the last step left."""
    wild = SMALL.model_copy(update={"learning_rate": 0.3, "epochs": 3, "patience": 3, "weight_decay": 0.0})
    averaged = train_head(blobs(400, 0), blobs(200, 1), 3, wild.model_copy(update={"ema": 0.95}))
    held_out = blobs(200, 1)
    logits = averaged.model.predict(held_out.features, verbose=0)  # type: ignore[arg-type]
    hot = np.eye(3, dtype=np.float32)[held_out.targets]
    loss: Any = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=wild.label_smoothing)
    assert float(loss(hot, logits)) == pytest.approx(averaged.history[averaged.best_epoch]["val_loss"], rel=1e-4)


def test_training_stops_when_validation_no_longer_improves():
    rng = np.random.default_rng(0)
    noise = Split(features=rng.normal(size=(100, 8)).astype(np.float16), targets=rng.integers(0, 3, 100))
    patient = SMALL.model_copy(update={"epochs": 200, "patience": 2, "learning_rate": 0.05})
    assert len(train_head(noise, blobs(60, 1), 3, patient).history) < 100


def test_a_step_is_traced_once(monkeypatch: pytest.MonkeyPatch):
    traced, step = [], keras.Model.train_step

    def train_step(model: keras.Model, batch: Any) -> Any:
        traced.append(model)
        return step(model, batch)

    monkeypatch.setattr(keras.Model, "train_step", train_step)
    train_head(blobs(60, 1), blobs(30, 2), 3, Finetune(epochs=2))
    assert len(traced) == 1


def test_the_rate_warms_up_and_decays_to_zero():
    rate: Any = schedule(0.1, warmup_share=0.2, steps=100)
    at = [float(rate(step)) for step in (0, 10, 20, 60, 100)]
    assert at[0] == pytest.approx(0.001)
    assert at[0] < at[1] < at[2] == pytest.approx(0.1)
    assert at[2] > at[3] > at[4] == pytest.approx(0, abs=1e-6)


def test_class_weights_lift_the_rare_class():
    targets = np.array([0] * 90 + [1] * 10)
    assert class_weights(targets, 2, "none").tolist() == [1.0, 1.0]
    balanced = class_weights(targets, 2, "balanced")
    assert balanced[1] / balanced[0] == pytest.approx(9)
    assert class_weights(targets, 2, "sqrt")[1] / class_weights(targets, 2, "sqrt")[0] == pytest.approx(3)


def test_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = (probabilities.cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    assert fit_temperature(logits * 3, targets) == pytest.approx(3, rel=0.1)


def test_each_layer_has_the_same_variance_in_sum():
    variance = np.array([1.0, 3.0, 40.0, 60.0, 0.1])
    scaled = variance * layer_scales(variance, (2, 2, 1)) ** 2
    np.testing.assert_allclose([part.sum() for part in np.split(scaled, [2, 4])], 2)
    np.testing.assert_allclose((variance * layer_scales(variance) ** 2).mean(), 1)


def test_a_weak_layer_that_tells_the_classes_apart_is_used():
    """Beside a strong layer of noise the classes differ in one whose features are a thousand times smaller."""

    def two_layers(n: int, seed: int) -> Split:
        signal = blobs(n, seed)
        noise = np.abs(np.random.default_rng(seed + 50).normal(size=(n, 24)))
        features = np.concatenate([noise, signal.features[:] / 1000], axis=1).astype(np.float16)
        return Split(features=features, targets=signal.targets, widths=(24, 8))

    config = SMALL.model_copy(update={"epochs": 12})
    trained = train_head(two_layers(400, 0), two_layers(200, 1), 3, config)
    alone = train_head(replace(two_layers(400, 0), widths=()), two_layers(200, 1), 3, config)
    assert max(epoch["val_accuracy"] for epoch in trained.history) > 0.9
    assert min(h["val_loss"] for h in trained.history) < min(h["val_loss"] for h in alone.history) - 0.1


def test_heads_are_trained_each_by_itself_and_their_logits_are_averaged():
    config = SMALL.model_copy(update={"heads": 3, "epochs": 12})
    trained = train_head(blobs(400, 0), blobs(200, 1), 3, config)
    rows, targets = blobs(300, 2).features[:].astype(np.float32), blobs(300, 2).targets
    members: Any = keras.Model(trained.model.inputs, trained.model.get_layer("members").output)(rows, training=False)
    logits: Any = trained.model(rows, training=False)
    np.testing.assert_allclose(logits, np.asarray(members).mean(1), atol=1e-5)
    right = np.asarray(members).argmax(-1) == targets[:, None]
    assert (right.mean(0) > 0.85).all()
    assert np.abs(np.asarray(members)[:, 0] - np.asarray(members)[:, 1]).max() > 0.05
    assert trained.history[-1]["accuracy"] > 0.7  # with dropout
    again = train_head(blobs(400, 0), blobs(200, 1), 3, config)
    assert weights_digest(trained.model) == weights_digest(again.model)


def test_averaged_heads_are_exported_as_they_are():
    trained = train_head(blobs(200, 0), blobs(60, 1), 3, SMALL.model_copy(update={"heads": 2}))
    graph = to_onnx(trained.model, input_name="features", output_name="logits", channels_first=False)
    rows = blobs(20, 2).features[:].astype(np.float32)
    [found] = open_session(graph.SerializeToString()).run(["logits"], {"features": rows})
    logits: Any = trained.model(rows, training=False)
    np.testing.assert_allclose(np.asarray(found), logits, atol=1e-4)
