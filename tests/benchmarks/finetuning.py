"""Seconds an epoch of fine-tuning the same blocks: through the whole network, and from stored activations.

    KERAS_HOME=… uv run python -m tests.benchmarks.finetuning PHOTOS [--epochs 4] [--boundary block_12_add]

PHOTOS has a folder a class, or train/ and validation/ above those. Both train MobileNetV2 (ImageNet weights, 224 px)
above the boundary with the classifier on top: the same images, loss, optimiser, schedule and batch, batch norm in
inference mode, and the validation split after each epoch.

- `whole`: Keras as tutorials use it: tf.data decodes and resizes JPEGs, the network runs from its first layer.
- `stored`: `tasks.finetune` on the boundary's float16 activations, without augmented views, so that both see each image
  once an epoch. What making the activations cost, once for ever, is printed as `extraction_s`.

They take turns (stored, whole, stored), for other jobs on the machine slow down whatever runs beside them; `cpu_s` is
the processor time of all cores, which they change less. Medians leave out each training's first epoch, which traces the
graph.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tasks.extract.engine import choose_engine
from tasks.extract.export import ensure_exported
from tasks.extract.plan import cut, embed_shard, missing_tasks
from tasks.finetune import head as training
from tasks.finetune.data import load_split
from tasks.finetune.head import build_head, schedule, train_head
from tasks.finetune.unfrozen import tune_unfrozen, unfrozen_layers
from tasks.ingest.catalogue import build_catalogue
from tasks.modality.images.augmentation import load_policy
from tasks.networks.extractor import extractor_of
from tasks.networks.registry import build_network, get_backbone
from tasks.records import FeatureExtractor, Features, Run, Snapshot
from tasks.split.assign import make_snapshot
from tasks.storage.tables import read_table
from tests.runs import make_run

training.MIN_EPOCH_STEPS = 1  # of few images an epoch shows each several times else; here both show each once
POLICY = load_policy("flip", 0)


class Clock:
    """Wall and processor seconds between one call and the next."""

    def __init__(self) -> None:
        self.laps: list[tuple[float, float]] = []
        self._last = time.perf_counter(), time.process_time()

    def lap(self) -> None:
        now = time.perf_counter(), time.process_time()
        self.laps.append((now[0] - self._last[0], now[1] - self._last[1]))
        self._last = now


def extract(run: Run, snapshot: Snapshot, extractor: FeatureExtractor) -> None:
    """The extraction stage without Prefect."""
    ensure_exported(run, extractor)
    todo = missing_tasks(run, snapshot, extractor, POLICY)
    engine = choose_engine(run, extractor)
    for shard in cut(todo, run.config.extract.shard_images):
        embed_shard(run, extractor, POLICY, engine, shard)


def train_stored(
    run: Run, snapshot: Snapshot, extractor: FeatureExtractor
) -> tuple[list[tuple[float, float]], list[float]]:
    """The laps of the unfrozen layers' epochs, and the validation accuracy after each."""
    features = Features(snapshot=snapshot, extractor=extractor, views=0, embedded=0)
    config, key = run.config.finetune, extractor.key
    with load_split(run, features, "train", key) as train, load_split(run, features, "validation", key) as validation:
        classifier = train_head(train, validation, len(snapshot.labels), config).model
    key = extractor.head_key
    with load_split(run, features, "train", key) as train, load_split(run, features, "validation", key) as validation:
        upper, clock = unfrozen_layers(extractor), Clock()
        on_epoch: Callable[..., None] = lambda epoch, logs: clock.lap()  # noqa: E731
        trained = tune_unfrozen(upper, classifier, train, validation, config, on_epoch)
    return clock.laps, [epoch["val_accuracy"] for epoch in trained.history]


def train_whole(
    run: Run, snapshot: Snapshot, extractor: FeatureExtractor
) -> tuple[list[tuple[float, float]], list[float]]:
    """The same through the whole network, from JPEGs."""
    config, classes = run.config.finetune, len(snapshot.labels)
    table = read_table(run.workspace, snapshot.table_path, ["uri", "label", "split"])
    index = {label: place for place, label in enumerate(snapshot.labels)}

    def pixels(uri, target):
        image = tf.io.decode_jpeg(tf.io.read_file(uri), channels=3)
        return tf.image.resize(image, (extractor.image_size_px, extractor.image_size_px)) / 127.5 - 1.0, target

    def images(split: str) -> tf.data.Dataset:
        rows = table[table["split"] == split]
        data = tf.data.Dataset.from_tensor_slices(
            (rows["uri"].tolist(), np.eye(classes, dtype=np.float32)[rows["label"].map(index)])
        )
        data = data.shuffle(len(rows), seed=config.seed) if split == "train" else data
        data = data.map(pixels, num_parallel_calls=tf.data.AUTOTUNE)
        return data.batch(config.unfrozen_batch_size).prefetch(tf.data.AUTOTUNE)

    network = build_network(get_backbone(extractor.backbone), Path(extractor.weights), extractor.image_size_px)
    network.trainable = True
    above = False
    for layer in network.layers:
        layer.trainable = above and not isinstance(layer, keras.layers.BatchNormalization)
        above = above or layer.name == extractor.boundary
    head = build_head(np.random.default_rng(0).uniform(0, 2, (64, network.output_shape[-1])), classes, config)
    model = keras.Model(network.input, head(keras.layers.GlobalAveragePooling2D()(network.output)))
    train = images("train")
    rate: Any = schedule(config.unfrozen_learning_rate, config.warmup_share, len(train) * config.unfrozen_epochs)
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=config.weight_decay),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing),
        metrics=["accuracy"],
    )
    clock = Clock()
    lapping = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: clock.lap())
    quiet: Any = 0
    fitted = model.fit(
        train, validation_data=images("validation"), epochs=config.unfrozen_epochs, callbacks=[lapping], verbose=quiet
    )
    return clock.laps, fitted.history["val_accuracy"]


def summary(laps: list[tuple[float, float]], accuracies: list[float]) -> dict[str, Any]:
    """Args: laps: of every epoch but a training's first."""
    return {
        "epochs": len(laps),
        "wall_s": round(statistics.median(wall for wall, _ in laps), 2),
        "wall_s_least": round(min(wall for wall, _ in laps), 2),
        "cpu_s": round(statistics.median(cpu for _, cpu in laps), 2),
        "validation_accuracy": round(accuracies[-1], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds an epoch of fine-tuning, through the network and stored.")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--epochs", type=int, default=4, help="of each training; the first is not counted")
    parser.add_argument("--boundary", default="block_12_add")
    given = parser.parse_args()
    if given.epochs < 2:
        parser.error("--epochs takes 2 or more: the first is not counted")

    with tempfile.TemporaryDirectory(prefix="finetuning-") as folder:
        config = {
            "backbone": {"boundary": given.boundary},
            "finetune": {"unfrozen_epochs": given.epochs, "patience": given.epochs},
            "augment": {"views": 0},
        }
        run = make_run(folder, given.photos.resolve(), config=config)
        extractor = extractor_of(run, POLICY)
        snapshot = make_snapshot(run, build_catalogue(run))
        started = time.perf_counter()
        extract(run, snapshot, extractor)
        extraction_s = round(time.perf_counter() - started, 2)
        before = train_stored(run, snapshot, extractor)
        print(f"stored: {before}", file=sys.stderr, flush=True)
        whole = train_whole(run, snapshot, extractor)
        print(f"whole: {whole}", file=sys.stderr, flush=True)
        after = train_stored(run, snapshot, extractor)
    found = {
        "stored": summary([*before[0][1:], *after[0][1:]], after[1]),
        "whole": summary(whole[0][1:], whole[1]),
    }
    ratios = {unit: round(found["whole"][unit] / found["stored"][unit], 2) for unit in ("wall_s", "cpu_s")}
    print(json.dumps({"images": snapshot.images, "extraction_s": extraction_s, **found, "times_as_fast": ratios}))


if __name__ == "__main__":
    main()
