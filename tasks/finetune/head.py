"""The head: a classifier on stored features, trained in Keras."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.config import Finetune
from tasks.finetune.data import Split

if TYPE_CHECKING:
    import keras


MIN_EPOCH_STEPS = 30  # of optimisation, in an epoch
SILENT: Any = 0  # Keras takes 0, its stubs say str


@dataclass(frozen=True, kw_only=True)
class TrainedHead:
    """`model` maps features float32 [N, D] to logits float32 [N, C]; `history` has one dict an epoch."""

    model: keras.Model
    history: list[dict[str, float]]
    best_epoch: int
    temperature: float


def train_head(
    train: Split,
    validation: Split,
    classes: int,
    config: Finetune,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, logs: None,
) -> TrainedHead:
    """Trains the classifier.

    AdamW with linear warm-up and cosine decay; cross-entropy with label smoothing and class weights; the weights of
    the epoch with the lowest validation loss are kept. The same data, config and seed give the same weights to the
    bit on one machine.

    Returns:
        The head, its history and the temperature fitted on validation.
    """
    import keras

    keras.utils.set_random_seed(config.seed)
    model = build_head(train.features, classes, config)
    train = repeated(train, MIN_EPOCH_STEPS * config.batch_size)
    steps = math.ceil(len(train.targets) / config.batch_size) * config.epochs
    rate: Any = schedule(config, steps)  # the stubs know of floats only
    optimizer = keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)
    model.compile(
        optimizer=optimizer,
        loss=smoothed_cross_entropy(classes, config.label_smoothing),
        weighted_metrics=["accuracy"],
    )
    weights = class_weights(train.targets, classes, config.class_weights)
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=config.patience, restore_best_weights=True)
    fitted = model.fit(
        train.features,
        train.targets,
        sample_weight=weights[train.targets],
        validation_data=(validation.features, validation.targets),
        epochs=config.epochs,
        batch_size=config.batch_size,
        callbacks=[stopping, _recorder(on_epoch)],
        verbose=SILENT,
    )
    history = [
        {key: float(values[epoch]) for key, values in fitted.history.items()} for epoch in range(len(fitted.epoch))
    ]
    logits = model.predict(validation.features, batch_size=1024, verbose=SILENT)
    return TrainedHead(
        model=model,
        history=history,
        best_epoch=int(stopping.best_epoch),
        temperature=fit_temperature(logits, validation.targets),
    )


def repeated(rows: Split, least: int) -> Split:
    """The rows as often as it takes to have `least` of them: an epoch of a few hundred images is too few steps."""
    times = math.ceil(least / max(1, len(rows.targets)))
    if times <= 1:
        return rows
    return Split(features=np.tile(rows.features, (times, 1)), targets=np.tile(rows.targets, times))


def build_head(features: np.ndarray, classes: int, config: Finetune) -> keras.Model:
    """Signed square root, centring, dropout, one hidden layer (or none), one dense layer.

    The square root evens out the few strong channels of average-pooled activations (power normalisation, Perronnin
    et al. 2010): on the clothing photographs it raised a linear layer's validation accuracy from 0.845 to 0.859. Over
    four seeds, 256 hidden units gave 0.856 on average and 512 gave 0.865.

    Args:
        features: float [N, D], the training rows; the centre and the scale are theirs.
    """
    import keras

    rows = features.astype(np.float32)
    rooted = np.sign(rows) * np.sqrt(np.abs(rows))
    # One scale for all: a scale for each feature would blow up those that are nearly constant.
    scale = 1 / math.sqrt(rooted.var(axis=0).mean() + 1e-12)
    offset = (-rooted.mean(axis=0) * scale).tolist()
    inputs = keras.Input(rows.shape[1:], name="features")
    values = keras.ops.multiply(keras.ops.sign(inputs), keras.ops.sqrt(keras.ops.abs(inputs)))
    values = keras.layers.Rescaling(scale, offset, name="centre")(values)
    values = keras.layers.Dropout(config.dropout, name="dropout")(values)
    if config.hidden_units:
        values = keras.layers.Dense(config.hidden_units, activation="relu", name="hidden")(values)
        values = keras.layers.Dropout(config.dropout, name="hidden_dropout")(values)
    logits = keras.layers.Dense(classes, kernel_initializer="zeros", name="classifier")(values)
    return keras.Model(inputs, logits, name="head")


def schedule(config: Finetune, steps: int):
    """The learning rate over `steps`: linear warm-up to the peak, then a cosine to zero (Loshchilov & Hutter 2017)."""
    import keras

    warmup = int(steps * config.warmup_share)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=config.learning_rate / 100 if warmup else config.learning_rate,
        decay_steps=max(1, steps - warmup),
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def smoothed_cross_entropy(classes: int, smoothing: float):
    """Cross-entropy of logits with integer targets whose mass `smoothing` is spread over all classes."""
    import keras

    def loss(targets, logits):
        hot = keras.ops.one_hot(keras.ops.cast(keras.ops.reshape(targets, (-1,)), "int32"), classes)
        smoothed = keras.ops.add(keras.ops.multiply(hot, 1 - smoothing), smoothing / classes)
        return keras.losses.categorical_crossentropy(smoothed, logits, from_logits=True)

    return loss


def class_weights(targets: np.ndarray, classes: int, kind: str) -> np.ndarray:
    """Float32 [C], mean 1 over the rows: inverse frequency (`balanced`), its square root (`sqrt`), or ones (`none`)."""
    counts = np.maximum(np.bincount(targets, minlength=classes), 1)
    power = {"balanced": 1.0, "sqrt": 0.5, "none": 0.0}[kind]
    weights = (len(targets) / (classes * counts)) ** power
    return (weights / weights[targets].mean()).astype(np.float32)


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature in 0.05..20 that minimises the negative log-likelihood (Guo et al. 2017).

    Args:
        logits: float [N, C], of held-out rows.
        targets: int [N].
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_temperature: float) -> float:
        scores = log_softmax(logits.astype(np.float64) / math.exp(log_temperature), axis=1)
        return -float(scores[np.arange(len(targets)), targets].mean())

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded")
    return float(math.exp(found.x))


def weights_digest(model: keras.Model) -> str:
    """SHA-256 over the weights' shapes and bytes, in layer order."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"{weight.shape}{weight.dtype}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _recorder(on_epoch: Callable[[int, dict[str, float]], None]):
    import keras

    return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(epoch, dict(logs or {})))
