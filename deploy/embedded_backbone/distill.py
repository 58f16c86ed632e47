"""Trains the embedded trunk: a MobileNetV2 that learns, from random weights, to see as a teacher sees.

    uv run python -m deploy.embedded_backbone.distill --images PHOTOS --teacher WEIGHTS.h5 --out DIR

PHOTOS is any folder of photographs (labels are not read), WEIGHTS.h5 are Keras's no-top weights of
MobileNetV2 (alpha 1.0). DIR receives everything that can be resumed, and at the end `embedded_weights.npz`.
Stop it as you like, `kill -9` included: the same command goes on where it was. Cost with the defaults: see
the model card.

A trunk trained end to end on two cores sees a few hundred thousand images and stays far from its teacher.
Three things make the same hours go further:

1. The target is dense. Not only the teacher's pooled features but its feature maps at several depths are
   matched, so each image gives thousands of numbers, and early layers need no gradient from the far end.
2. Training goes by stages. The early layers cost most of the time and hold 4 % of the weights. They are
   learned first, on 64 px crops; then they rest, and their output is computed once for each image. The late
   layers train on that, several times faster than the whole would.
3. The teacher's outputs are computed once, by ONNX Runtime, and kept on disk.

Early stopping, learning rates and the like may be chosen on the held-out distillation loss that is logged
(photographs kept out of training), never on the data sets that the probe measures with.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.embedded_backbone import transfer_images
from tasks.networks import embedded

if TYPE_CHECKING:
    import keras

EARLY_END = "block_6_project_BN"  # stride 16: from here on maps are small and training is cheap
EARLY_TARGETS = ("block_2_add", "block_5_add", EARLY_END)
LATE_TARGETS = ("block_12_add", "block_15_add", "out_relu")
RELU6_STEP = 6 / 255  # out_relu lies in [0, 6]: one byte a value holds it
SHARD_ROWS = 2048  # rows made at a time: the unit of memory, and of work lost when killed
STATISTICS_ROWS = 2048
HELD_OUT_ROWS = 1024


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    `start` is the layer whose cached output feeds the stage (None: image crops); `targets` are the teacher's
    layers to match.
    """

    name: str
    start: str | None
    targets: tuple[str, ...]
    samples: int
    batch: int
    peak_learning_rate: float

    @property
    def steps(self) -> int:
        return self.samples // self.batch


@dataclass(frozen=True)
class Recipe:
    """All that decides the outcome. Images are counted, not timed: a pause changes nothing."""

    images: int = 80_000  # transfer images rendered; HELD_OUT_ROWS more are kept for the held-out loss
    crops: int = 60_000  # of those, as many also give a crop for the early stage
    size_px: int = 128
    crop_px: int = 64
    formula_share: float = 0.25
    alpha: float = 1.0
    seed: int = 2026
    checkpoint_steps: int = 300
    early_samples: int = 200_000
    late_samples: int = 200_000
    batch: int = 128
    late_batch: int = 32
    held_out_rows: int = HELD_OUT_ROWS
    shard_rows: int = SHARD_ROWS

    def stages(self) -> tuple[Stage, Stage]:
        # Late layers learn more from many small steps than from fewer exact ones.
        early = Stage("early", None, EARLY_TARGETS, self.early_samples, self.batch, 4e-3)
        late = Stage("late", EARLY_END, LATE_TARGETS, self.late_samples, self.late_batch, 2e-3)
        return early, late


# Rows on disk


class RowStore:
    """An .npy file that is filled in order, a shard at a time; knows across processes how far it got."""

    def __init__(self, path: Path, rows: int, row_shape: Sequence[int], dtype: Any):
        self.path, self.rows = path, rows
        self._count_path = path.with_suffix(".rows")
        shape = (rows, *row_shape)
        if path.exists() and self._count_path.exists():
            self.array = np.lib.format.open_memmap(path, mode="r+")
            if self.array.shape != shape:
                raise ValueError(f"{path} has shape {self.array.shape}, the recipe needs {shape}: use another --out")
        else:
            self.array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            _write_text(self._count_path, "0")

    @property
    def done(self) -> int:
        return int(self._count_path.read_text())

    def append(self, rows: np.ndarray) -> None:
        start = self.done
        self.array[start : start + len(rows)] = rows
        self.array.flush()
        _write_text(self._count_path, str(start + len(rows)))


def _write_text(path: Path, text: str) -> None:
    aside = path.with_suffix(path.suffix + ".part")
    aside.write_text(text)
    aside.replace(path)


# Transfer images


def render_images(photos: Path, recipe: Recipe, out: Path) -> tuple[RowStore, RowStore]:
    """`images` (N + held out, size, size, 3) and `crops` of the first rows and the held-out ones, uint8.

    The held-out rows are the last, and are cut from photographs that give no other row.
    """
    from rich.progress import track

    total, size = recipe.images + recipe.held_out_rows, recipe.size_px
    images = RowStore(out / "images.npy", total, (size, size, 3), np.uint8)
    paths = transfer_images.list_photos(photos)
    kept_out = max(1, len(paths) // 25)
    starts = range(images.done, total, recipe.shard_rows)
    for start in track(starts, description="transfer images"):
        rng, parts = np.random.default_rng((recipe.seed, start)), []
        # Rendered apart, also within a shard, so that no row mixes photographs of both kinds.
        for first, last, pool in (
            (start, min(start + recipe.shard_rows, recipe.images), paths[:-kept_out]),
            (max(start, recipe.images), min(start + recipe.shard_rows, total), paths[-kept_out:]),
        ):
            if first < last:
                chosen = rng.choice(len(pool), min(len(pool), 512), replace=False)
                read = [transfer_images.read_photo(pool[i]) for i in chosen]
                share = recipe.formula_share
                parts.append(transfer_images.render(rng, read, last - first, size, share))
        images.append(np.concatenate(parts))
    return images, cut_crops(images, recipe, out)


def cut_crops(images: RowStore, recipe: Recipe, out: Path) -> RowStore:
    """One crop of crop_px at a random place of each of the first `crops` images and of the held-out ones."""
    edge, crop_rows = recipe.crop_px, min(recipe.crops, recipe.images)
    crops = RowStore(out / "crops.npy", crop_rows + recipe.held_out_rows, (edge, edge, 3), np.uint8)
    sources = np.r_[0:crop_rows, recipe.images : recipe.images + recipe.held_out_rows]
    corners = np.random.default_rng((recipe.seed, 1)).integers(0, recipe.size_px - edge + 1, (crops.rows, 2))
    for start in range(crops.done, crops.rows, recipe.shard_rows):
        rows = range(start, min(start + recipe.shard_rows, crops.rows))
        boxes = [(images.array[sources[r]], *corners[r]) for r in rows]
        crops.append(np.stack([image[top : top + edge, left : left + edge] for image, top, left in boxes]))
    return crops


def to_network_range(pixels: np.ndarray) -> np.ndarray:
    """uint8 [0, 255] to float32 [-1, 1], as keras.applications.mobilenet_v2.preprocess_input."""
    return pixels.astype(np.float32) / 127.5 - 1


# Teacher


def teacher_session(weights: Path, targets: Sequence[str]) -> Any:
    """An ONNX Runtime session from images in [-1, 1] to the teacher's maps at `targets`, in that order."""
    net = embedded.mobilenet_v2((224, 224, 3), alpha=1.0)
    net.load_weights(weights)
    return maps_session(net, targets)


def maps_session(net: "keras.Model", layers: Sequence[str]) -> Any:
    """The network up to `layers` in ONNX Runtime, which is two to three times as fast as Keras on a CPU."""
    import keras
    import onnxruntime
    import tensorflow as tf
    import tf2onnx

    maps = keras.Model(net.input, [net.get_layer(name).output for name in layers])
    forward = tf.function(lambda image: maps(image, training=False))
    signature = [tf.TensorSpec((None, None, None, 3), tf.float32, name="image")]
    proto, _ = tf2onnx.convert.from_function(forward, input_signature=signature, opset=18)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_maps(session: Any, pixels: np.ndarray, batch: int = 64) -> list[np.ndarray]:
    """The session's maps for uint8 images, float32 (N, h, w, c), one array a layer."""
    parts = [
        session.run(None, {"image": to_network_range(pixels[i : i + batch])}) for i in range(0, len(pixels), batch)
    ]
    return [np.concatenate(maps) for maps in zip(*parts, strict=True)]


@dataclass
class Target:
    """A teacher's layer on disk, with the per-channel statistics that put all layers on one scale.

    Maps of linear layers are stored standardised (float16): the student need not copy the teacher's scale,
    since its own next layers are learned too. `out_relu` is stored as it is, in bytes, because it is what
    the trunk returns; there `deviation` (maps) and `pooled_deviation` (their means over the image) divide
    the error instead.
    """

    store: RowStore
    mean: np.ndarray
    deviation: np.ndarray
    pooled_deviation: np.ndarray

    @property
    def raw(self) -> bool:
        return self.store.array.dtype == np.uint8

    def encode(self, maps: np.ndarray) -> np.ndarray:
        if self.raw:
            return np.clip(np.rint(maps / RELU6_STEP), 0, 255).astype(np.uint8)
        return ((maps - self.mean) / self.deviation).astype(np.float16)

    def rows(self, index: np.ndarray) -> np.ndarray:
        maps = self.store.array[index].astype(np.float32)
        return maps * np.float32(RELU6_STEP) if self.raw else maps


def record_teacher(
    weights: Path, seen: RowStore, targets: Sequence[str], recipe: Recipe, out: Path
) -> dict[str, Target]:
    """Runs the teacher once over every row of `seen`; resumes after the last whole shard."""
    from rich.progress import track

    session = teacher_session(weights, targets)
    recorded: dict[str, Target] = {}
    for name, maps in zip(targets, run_maps(session, seen.array[:STATISTICS_ROWS]), strict=True):
        recorded[name] = new_target(name, maps, seen.rows, out)
    done = min(target.store.done for target in recorded.values())
    for start in track(range(done, seen.rows, recipe.shard_rows), description="teacher"):
        maps = run_maps(session, seen.array[start : start + recipe.shard_rows])
        for target, rows in zip(recorded.values(), maps, strict=True):
            if target.store.done == start:  # a kill between two stores leaves the later ones a shard behind
                target.store.append(target.encode(rows))
    return recorded


def new_target(name: str, first_maps: np.ndarray, rows: int, out: Path) -> Target:
    """A target's store, or what there is of it, with statistics from the maps of its first rows."""
    dtype = np.uint8 if name == "out_relu" else np.float16
    store = RowStore(out / f"teacher_{name}.npy", rows, first_maps.shape[1:], dtype)
    pooled_deviation = _floored(first_maps.mean((1, 2)).std(0))
    return Target(store, first_maps.mean((0, 1, 2)), _floored(first_maps.std((0, 1, 2))), pooled_deviation)


def _floored(deviation: np.ndarray) -> np.ndarray:
    """Channels that hardly ever change would otherwise weigh as much as the rest, by noise alone."""
    return np.maximum(deviation, max(0.25 * np.median(deviation), 1e-6)).astype(np.float32)


# Student


def random_student(recipe: Recipe) -> "keras.Model":
    """MobileNetV2 without top at random weights, any image size.

    Keras's batch norm forgets by 0.999 a step, too slow for stages of a few thousand steps: 0.98 here.
    """
    import keras

    keras.utils.set_random_seed(recipe.seed)
    net = embedded.mobilenet_v2((None, None, 3), recipe.alpha)
    for layer in net.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.98
    return net


def stage_model(net: "keras.Model", stage: Stage, teacher_channels: dict[str, int]) -> "keras.Model":
    """From the stage's input to a map for each target; throw-away 1x1 adaptors where widths differ."""
    import keras

    start = net.input if stage.start is None else net.get_layer(stage.start).output
    outputs = []
    for name in stage.targets:
        output = net.get_layer(name).output
        if output.shape[-1] != teacher_channels[name]:
            output = keras.layers.Conv2D(teacher_channels[name], 1, name=f"adaptor_{name}")(output)
        outputs.append(output)
    return keras.Model(start, outputs)


def learning_rate(stage: Stage, step: int) -> float:
    """Warm-up over 4 % of the steps, level, then linear to zero over the last 40 %."""
    share = step / stage.steps
    return stage.peak_learning_rate * min(1.0, (step + 1) / (0.04 * stage.steps + 1), (1 - share) / 0.4)


@dataclass
class Batch:
    seen: np.ndarray
    targets: list[np.ndarray]


@dataclass
class StageData:
    """The cached input and targets of one stage. The last `held_out` rows are never trained on."""

    seen: RowStore
    targets: list[Target]
    held_out: int
    seed: tuple[int, ...] = field(default=(0,))

    def batch(self, index: np.ndarray) -> Batch:
        index = np.sort(index)  # in file order: the pages are read forwards
        seen = self.seen.array[index]
        values = to_network_range(seen) if seen.dtype == np.uint8 else seen.astype(np.float32)
        return Batch(values, [target.rows(index) for target in self.targets])

    def training(self, step: int, size: int) -> Batch:
        """The batch of one step: each epoch is its own permutation, so any step can be made again."""
        rows = self.seen.rows - self.held_out
        size = min(size, rows)
        steps_an_epoch = rows // size
        epoch, place = divmod(step, steps_an_epoch)
        order = np.random.default_rng((*self.seed, epoch)).permutation(rows)
        return self.batch(order[place * size : (place + 1) * size])

    def held_out_batches(self, size: int) -> Iterator[Batch]:
        for start in range(self.seen.rows - self.held_out, self.seen.rows, size):
            yield self.batch(np.arange(start, min(start + size, self.seen.rows)))


class Trainer:
    """One stage's model, optimizer and loss; can be saved and put back exactly."""

    def __init__(self, net: "keras.Model", stage: Stage, data: StageData):
        import keras
        import tensorflow as tf

        self.stage, self.data = stage, data
        channels = {n: t.store.array.shape[-1] for n, t in zip(stage.targets, data.targets, strict=True)}
        self.model = stage_model(net, stage, channels)
        self.optimizer: Any = keras.optimizers.AdamW(stage.peak_learning_rate, weight_decay=0.01, global_clipnorm=5.0)
        self.optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
        self.optimizer.build(self.model.trainable_variables)
        self._step = tf.function(self._train_step, reduce_retracing=True)
        self._loss = tf.function(self._held_out_loss, reduce_retracing=True)

    def losses(self, outputs: Any, wanted: Any) -> Any:
        """Mean squared errors over the teacher's variance: 1 is no better than its mean, 0 is perfect."""
        import tensorflow as tf

        errors = []
        for output, value, target in zip(outputs, wanted, self.data.targets, strict=True):
            if not target.raw:
                errors.append(tf.reduce_mean(tf.square(output - value)))
                continue
            errors.append(tf.reduce_mean(tf.square((output - value) / target.deviation)))
            pooled = tf.reduce_mean(output - value, axis=(1, 2)) / target.pooled_deviation
            errors.append(tf.reduce_mean(tf.square(pooled)))
        return tf.stack(errors)

    def _train_step(self, seen: Any, wanted: Any) -> Any:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            outputs = self.model(seen, training=True)
            loss = tf.reduce_sum(self.losses(outputs, wanted))
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return loss

    def _held_out_loss(self, seen: Any, wanted: Any) -> Any:
        return self.losses(self.model(seen, training=False), wanted)

    def train(self, step: int) -> float:
        self.optimizer.learning_rate.assign(learning_rate(self.stage, step))
        batch = self.data.training(step, self.stage.batch)
        return float(self._step(batch.seen, batch.targets))

    def held_out_losses(self) -> list[float]:
        batches = self.data.held_out_batches(self.stage.batch)
        return np.mean([self._loss(b.seen, b.targets).numpy() for b in batches], axis=0).round(4).tolist()

    def variables(self) -> list[Any]:
        return [*self.model.variables, *self.optimizer.variables]


def save_checkpoint(path: Path, stage: str, step: int, variables: Sequence[Any]) -> None:
    """Whole or not at all: written aside, then renamed."""
    aside = path.with_suffix(".part.npz")
    arrays = {f"v{i:04d}": np.asarray(variable) for i, variable in enumerate(variables)}
    np.savez(aside, allow_pickle=False, stage=np.array(stage), step=np.array(step), **arrays)
    aside.replace(path)


def load_checkpoint(path: Path, variables: Sequence[Any]) -> int:
    """Puts the saved values back and returns the step to go on with."""
    with np.load(path, allow_pickle=False) as saved:
        for i, variable in enumerate(variables):
            variable.assign(saved[f"v{i:04d}"])
        return int(saved["step"])


def run_stage(net: "keras.Model", stage: Stage, data: StageData, recipe: Recipe, out: Path) -> None:
    """Trains the stage to its end, or puts back what an earlier process had finished."""
    from rich.progress import Progress, TimeRemainingColumn

    trainer, checkpoint, log = Trainer(net, stage, data), out / f"stage_{stage.name}.npz", out / "log.jsonl"
    first = load_checkpoint(checkpoint, trainer.variables()) if checkpoint.exists() else 0
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(f"stage {stage.name}", total=stage.steps, completed=first)
        for step in range(first, stage.steps):
            loss = trainer.train(step)
            progress.advance(bar)
            done = step + 1
            if done % recipe.checkpoint_steps == 0 or done == stage.steps:
                save_checkpoint(checkpoint, stage.name, done, trainer.variables())
                held_out = trainer.held_out_losses()
                line = {"stage": stage.name, "step": done, "of": stage.steps, "loss": round(loss, 4)}
                with log.open("a") as lines:
                    lines.write(json.dumps({**line, "held_out": held_out}) + "\n")


def record_student(net: "keras.Model", images: RowStore, recipe: Recipe, out: Path) -> RowStore:
    """The resting early layers' output for every image, float16."""
    from rich.progress import track

    session = maps_session(net, [EARLY_END])
    (first,) = run_maps(session, images.array[:1])
    store = RowStore(out / "student.npy", images.rows, first.shape[1:], np.float16)
    for start in track(range(store.done, images.rows, recipe.shard_rows), description="early layers"):
        (maps,) = run_maps(session, images.array[start : start + recipe.shard_rows])
        store.append(maps.astype(np.float16))
    return store


def distill(photos: Path, teacher: Path, out: Path, recipe: Recipe) -> "keras.Model":
    """The whole recipe; every finished part is kept in `out` and not done again."""
    out.mkdir(parents=True, exist_ok=True)
    images, crops = render_images(photos, recipe, out)
    targets = record_teacher(teacher, crops, EARLY_TARGETS, recipe, out)
    targets |= record_teacher(teacher, images, LATE_TARGETS, recipe, out)
    net = random_student(recipe)
    for number, stage in enumerate(recipe.stages()):
        seen = crops if stage.start is None else record_student(net, images, recipe, out)
        wanted = [targets[name] for name in stage.targets]
        data = StageData(seen, wanted, recipe.held_out_rows, seed=(recipe.seed, 2 + number))
        run_stage(net, stage, data, recipe, out)
    return net


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, Recipe]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs, searched through")
    parser.add_argument("--teacher", type=Path, required=True, help="MobileNetV2 1.0 no-top weights, .h5")
    parser.add_argument("--out", type=Path, required=True, help="working folder, about 110 kB an image; resumable")
    settings = Recipe.__dataclass_fields__
    for name, setting in settings.items():
        flag = "--transfer-images" if name == "images" else "--" + name.replace("_", "-")
        parser.add_argument(flag, dest=f"recipe_{name}", type=type(setting.default), default=setting.default)
    parsed = parser.parse_args(arguments)
    return parsed, Recipe(**{name: getattr(parsed, f"recipe_{name}") for name in settings})


def main(arguments: Sequence[str]) -> None:
    parsed, recipe = parse_arguments(arguments)
    net = distill(parsed.images, parsed.teacher, parsed.out, recipe)
    written = parsed.out / "embedded_weights.npz"
    digest = embedded.save_weights(net, written)
    print(f"{written}: {written.stat().st_size:,} bytes, sha256 {digest}")


if __name__ == "__main__":
    main(sys.argv[1:])
