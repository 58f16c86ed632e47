"""The head: a classifier on stored features, trained in Keras."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.config import Finetune
from tasks.finetune.data import Split
from tasks.networks.calibration import fit_temperature
from tasks.networks.rooted import layer_scales, rooted
from tasks.storage.rows import Rows, row_blocks, rows_within

if TYPE_CHECKING:
    import keras

    from tasks.finetune.batches import Batches


MIN_EPOCH_STEPS = 30  # small data sets are repeated within an epoch
HELD_OUT_BATCH = 1024  # rows
HELD_OUT_BYTES = 4 << 20
CENTRE, DROPOUT = "centre", "dropout"  # the first layers of a head
MEMBERS = "members"  # the layer before several heads are averaged


@dataclass(frozen=True, kw_only=True)
class TrainedHead:
    """A model from features float32 [N, D] to logits float32 [N, C]; `history` has a dict for each epoch.

    `logits` are the validation split's, float32 [V, C].
    """

    model: keras.Model
    history: list[dict[str, float]]
    best_epoch: int
    temperature: float
    logits: np.ndarray


def train_head(
    train: Split,
    validation: Split,
    classes: int,
    config: Finetune,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, logs: None,
) -> TrainedHead:
    """Trains the classifier, and fits its temperature on validation.

    AdamW with linear warm-up and cosine decay; cross-entropy with label smoothing and class weights (or balanced
    sampling), and mixup. Keeps the weights (or their moving average) of the epoch with the lowest validation loss. On
    one machine, the same data, configuration and seed give exactly the same weights.
    """
    model = build_head(train.features, classes, config, train.widths)
    plan = Plan(learning_rate=config.learning_rate, epochs=config.epochs, batch_size=config.batch_size)
    return fit(model, train, validation, config, plan, on_epoch, model.get_layer(DROPOUT))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings that differ between training the classifier and training the unfrozen layers below it."""

    learning_rate: float
    epochs: int
    batch_size: int


def fit(
    model: keras.Model,
    train: Split,
    validation: Split,
    config: Finetune,
    plan: Plan,
    on_epoch: Callable[[int, dict[str, float]], None],
    dropout: keras.layers.Dropout | None = None,
) -> TrainedHead:
    """Trains the trainable layers of `model` (rows to logits); see `train_head`.

    Args:
        dropout: the layer of a head after which the training begins: what lies before it, and the dropout itself, are
            done with the rows as they are read, which halves the time of a step.
    """
    import keras

    from tasks.finetune.batches import Batches

    classes = model.output_shape[-1]
    centre = model.get_layer(CENTRE) if dropout else None
    batches = training_batches(train, classes, config, plan.batch_size, centre)
    held_out = Batches(validation, np.ones(classes, np.float32), held_out_batch(validation))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing)
    members = MEMBERS in {layer.name for layer in model.layers}
    first = dropout.output if dropout else model.input
    trained = keras.Model(first, model.get_layer(MEMBERS).output if members else model.output)
    trained.compile(
        optimizer=optimizer(config, plan.learning_rate, len(batches) * plan.epochs),
        loss=partial(_mean_loss, smoothing=config.label_smoothing) if members else loss,
        weighted_metrics=[accuracy] if members else ["accuracy"],
    )
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=config.patience, restore_best_weights=True)
    # First, so that the averages are what is validated, compared and kept.
    averaging = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if config.ema else []
    report = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(epoch, dict(logs or {})))
    history = train_epochs(
        trained,
        batches,
        plan.epochs,
        [*averaging, _validation(model, held_out, config.label_smoothing), stopping, report],
    )
    logits = predict(model, validation)
    return TrainedHead(
        model=model,
        history=history,
        best_epoch=int(stopping.best_epoch),
        temperature=fit_temperature(logits, validation.targets),
        logits=logits,
    )


def training_batches(
    train: Split,
    classes: int,
    config: Finetune,
    batch_size: int,
    centre: keras.layers.Rescaling | None,
    taught: np.ndarray | None = None,
) -> Batches:
    """The batches of an epoch.

    Args:
        centre: the layer of a head up to which, and the dropout behind it, the rows are prepared as they are read.
        taught: as `Batches`.
    """
    from tasks.finetune.batches import Batches, Sampling

    balanced = config.sampling == "balanced"
    weights = class_weights(train.targets, classes, "none" if balanced else config.class_weights)
    sampling = Sampling(
        seed=config.seed,
        times=math.ceil(MIN_EPOCH_STEPS * batch_size / len(train.targets)),
        balanced=balanced,
        mixup=config.mixup,
        dropout=config.dropout if centre else 0,
    )
    prepare = partial(rooted_and_centred, centre=centre) if centre else None
    return Batches(train, weights, batch_size, sampling, prepare, taught)


def optimizer(config: Finetune, learning_rate: float, steps: int) -> keras.optimizers.Optimizer:
    from tasks.finetune.fused_adamw import FusedAdamW

    rate: Any = schedule(learning_rate, config.warmup_share, steps)  # the stubs declare float
    return FusedAdamW(rate, weight_decay=config.weight_decay, use_ema=config.ema > 0, ema_momentum=config.ema)


def train_epochs(
    model: keras.Model, batches: Batches, epochs: int, callbacks: Sequence[keras.callbacks.Callback]
) -> list[dict[str, float]]:
    """Keras's `fit` without its input pipeline, which took 20 of 34 ms a step; returns the metrics of each epoch.

    The next batch is made while a step is computed.
    """
    import keras
    import tensorflow as tf

    record = keras.callbacks.History()  # last, so that it has what the others add
    tracked = keras.callbacks.CallbackList([*callbacks, record], model=model, epochs=epochs)
    _make_variables(model, batches[0])
    signature = [tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in batches[0]]
    step = tf.function(lambda *batch: model.train_step(batch), input_signature=signature, autograph=False)
    model.stop_training = False
    tracked.on_train_begin()
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as ahead:
        for epoch in range(epochs):
            tracked.on_epoch_begin(epoch)
            model.reset_metrics()
            metrics: dict[str, Any] = {}
            upcoming = ahead.submit(batches.__getitem__, 0)
            for index in range(len(batches)):
                batch = upcoming.result()
                if index + 1 < len(batches):
                    upcoming = ahead.submit(batches.__getitem__, index + 1)
                metrics = step(*batch)
            batches.on_epoch_end()
            tracked.on_epoch_end(epoch, metrics)
            if model.stop_training:
                break
    model.optimizer.finalize_variable_values(model.trainable_variables)
    tracked.on_train_end()
    return [
        {name: float(values[epoch]) for name, values in record.history.items()} for epoch in range(len(record.epoch))
    ]


def _make_variables(model: keras.Model, batch: tuple[Any, Any, Any]) -> None:
    """Those of the optimiser and of the metrics: a step that makes variables is traced twice."""
    rows, targets, weights = batch
    model.optimizer.build(model.trainable_variables)
    outputs = np.zeros((len(rows), *model.output_shape[1:]), np.float32)
    model.compute_metrics(rows, targets, outputs, weights)


def predict(model: keras.Model, split: Split) -> np.ndarray:
    """Logits of a split's rows, float32 [N, C], a block at a time.

    Not Keras's `predict`: tracing a function does not pay for one pass.

    Args:
        model: takes the rows, or activations [N, h, w, C], which are stored flat.
    """
    found = [np.zeros((0, model.output_shape[-1]), np.float32)]
    count = held_out_batch(split)
    for start in range(0, len(split.targets), count):
        rows = split.features[start : start + count]
        found.append(np.asarray(model(rows.reshape(len(rows), *model.input_shape[1:]), training=False)))
    return np.concatenate(found)


def member_losses(targets: Any, logits: Any, smoothing: float) -> Any:
    """The loss of each head, [N, K].

    Args:
        targets: [N, C].
        logits: [N, K, C].
    """
    import keras

    each = keras.ops.broadcast_to(targets[:, None], keras.ops.shape(logits))
    return keras.losses.categorical_crossentropy(each, logits, from_logits=True, label_smoothing=smoothing)


def _mean_loss(targets: Any, logits: Any, smoothing: float) -> Any:
    """Each head's own loss, averaged, [N]: the loss of their average would train them as one."""
    import keras

    return keras.ops.mean(member_losses(targets, logits, smoothing), axis=1)


def accuracy(targets: Any, logits: Any) -> Any:
    """The share of heads that are right, [N]; shapes as `_mean_loss`."""
    import keras

    right = keras.ops.equal(keras.ops.argmax(logits, -1), keras.ops.argmax(targets[:, None], -1))
    return keras.ops.mean(keras.ops.cast(right, "float32"), axis=1)


def _validation(model: keras.Model, held_out: Batches, smoothing: float) -> keras.callbacks.Callback:
    """Adds the loss and the accuracy on all held-out rows to those of each epoch."""
    import keras

    predict_rows = traced(model)

    def validate(epoch: int, logs: Any) -> None:
        # Not Keras's `test_on_batch`: it starts its averages anew with each batch.
        total, right, count = 0.0, 0, 0
        for index in range(len(held_out)):
            rows, targets, _ = held_out[index]
            logits = predict_rows(rows)
            total += float(smoothed_losses(logits, targets, smoothing).sum())
            right += int((logits.argmax(axis=1) == targets.argmax(axis=1)).sum())
            count += len(rows)
        logs.update(val_loss=total / count, val_accuracy=right / count)

    return keras.callbacks.LambdaCallback(on_epoch_end=validate)


def traced(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """The model's inference on rows [N, D] of any float, traced once for all batches."""
    import tensorflow as tf

    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)]
    infer = tf.function(lambda rows: model(rows, training=False), input_signature=signature, autograph=False)
    return lambda rows: np.asarray(infer(rows.astype(np.float32, copy=False)))


def smoothed_losses(logits: np.ndarray, targets: np.ndarray, smoothing: float) -> np.ndarray:
    """Cross-entropy with label smoothing (Szegedy et al. 2016), of logits [N, …, C] and targets [N, C]: [N, …]."""
    from scipy.special import log_softmax

    wanted = targets * (1 - smoothing) + smoothing / targets.shape[1]
    wanted = wanted.reshape(len(wanted), *[1] * (logits.ndim - 2), -1)
    return -(wanted * log_softmax(logits, axis=-1)).sum(axis=-1)


def held_out_batch(split: Split) -> int:
    """Rows in a batch for evaluation: many pooled features, fewer activation maps."""
    return min(HELD_OUT_BATCH, rows_within(split.features, HELD_OUT_BYTES))


def build_head(features: np.ndarray | Rows, classes: int, config: Finetune, widths: Sequence[int] = ()) -> keras.Model:
    """Signed square root, centring and scaling, dropout, an optional hidden layer, and a dense layer; or several heads
    of these last two, whose logits are averaged.

    The square root reduces the few strong channels of average-pooled activations (power normalisation, Perronnin
    et al. 2010): on the clothing photographs it raised a linear layer's validation accuracy from 0.845 to 0.859.

    Args:
        features: float [N, D], the training rows, which define the centre and the scales.
        widths: the numbers of features of each layer of the network, which sum to D; empty where they are of one.
    """
    import keras

    inputs, values = centred_features(features, config, widths)
    heads = config.heads if config.hidden_units else 1
    if heads > 1:
        return keras.Model(inputs, keras.ops.mean(add_members(values, classes, config, heads), axis=1), name="head")
    if config.hidden_units:
        values = _hidden(values, config, 1)
    logits = keras.layers.Dense(classes, kernel_initializer="zeros", name="classifier")(values)
    return keras.Model(inputs, logits, name="head")


def centred_features(features: np.ndarray | Rows, config: Finetune, widths: Sequence[int]) -> tuple[Any, Any]:
    """The input of a head, and what its first layers make of it: rooted, centred, scaled, after dropout. Arguments as
    `build_head`."""
    import keras

    mean, variance = rooted_moments(features)
    scale = layer_scales(variance, widths)
    inputs = keras.Input(features.shape[1:], name="features")
    values = keras.ops.multiply(keras.ops.sign(inputs), keras.ops.sqrt(keras.ops.abs(inputs)))
    values = keras.layers.Rescaling(scale.tolist(), (-mean * scale).tolist(), name=CENTRE)(values)
    # Explicit seeds, because other threads of the process may use the global seed of Keras meanwhile.
    return inputs, keras.layers.Dropout(config.dropout, seed=config.seed, name=DROPOUT)(values)


def add_members(values: Any, classes: int, config: Finetune, count: int) -> Any:
    """The logits [N, K, C] of several heads, side by side."""
    import keras

    if not config.hidden_units:
        logits = keras.layers.Dense(count * classes, kernel_initializer="zeros", name="classifier")(values)
        return keras.layers.Reshape((count, classes), name=MEMBERS)(logits)
    values = keras.layers.Reshape((count, config.hidden_units))(_hidden(values, config, count))
    each = keras.layers.EinsumDense(
        "nkh,khc->nkc", (count, classes), bias_axes="kc", kernel_initializer="zeros", name=MEMBERS
    )
    return each(values)


def _hidden(values: Any, config: Finetune, count: int) -> Any:
    import keras

    weights: Any = keras.initializers.GlorotUniform(seed=config.seed)  # the stubs declare str
    width = count * config.hidden_units
    values = keras.layers.Dense(width, activation="relu", kernel_initializer=weights, name="hidden")(values)
    return keras.layers.Dropout(config.dropout, seed=config.seed + 1, name="hidden_dropout")(values)


def rooted_and_centred(rows: np.ndarray, centre: keras.layers.Rescaling) -> np.ndarray:
    """What the layers of a head before its dropout make of rows, float32 [M, D]."""
    values = rooted(rows)
    values *= np.asarray(centre.scale, np.float32)
    values += np.asarray(centre.offset, np.float32)
    return values


def rooted_moments(features: np.ndarray | Rows) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the signed square root of each feature, float64 [D] each, in one pass over blocks."""
    total, squares = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    for block in row_blocks(features):
        # The square of the root is the magnitude. The error of float64 sums over 10^9 rows is below 1e-6.
        total += rooted(block).sum(axis=0, dtype=np.float64)
        squares += np.abs(block.astype(np.float32)).sum(axis=0, dtype=np.float64)
    mean = total / len(features)
    return mean, np.maximum(squares / len(features) - mean**2, 0)


def schedule(peak: float, warmup_share: float, steps: int):
    """The learning rate over `steps`: linear warm-up to the peak, then cosine decay to 0 (Loshchilov & Hutter 2017)."""
    import keras

    warmup = int(steps * warmup_share)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / 100 if warmup else peak,
        decay_steps=max(1, steps - warmup),
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )


def class_weights(targets: np.ndarray, classes: int, kind: str) -> np.ndarray:
    """Float32 [C], mean 1 over the rows: inverse frequency (`balanced`), its square root (`sqrt`), or ones (`none`)."""
    counts = np.maximum(np.bincount(targets, minlength=classes), 1)
    power = {"balanced": 1.0, "sqrt": 0.5, "none": 0.0}[kind]
    weights = (len(targets) / (classes * counts)) ** power
    return (weights / weights[targets].mean()).astype(np.float32)


def weights_digest(model: keras.Model) -> str:
    """SHA-256 over the weights' shapes and bytes, in layer order."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"{weight.shape}{weight.dtype}".encode())
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
