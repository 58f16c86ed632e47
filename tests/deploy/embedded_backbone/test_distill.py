"""The distillation script at toy size: an interruption, kill -9 included, changes nothing but the time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy.embedded_backbone import distill, transfer_images
from tasks.networks import embedded

TOY = distill.Recipe(
    images=48,
    crops=32,
    size_px=64,
    crop_px=32,
    alpha=0.35,
    checkpoint_steps=2,
    early_samples=32,
    late_samples=64,
    batch=16,
    late_batch=16,
    held_out_rows=16,
    shard_rows=20,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """30 photographs' worth of blurred noise."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(30):
        image = cv2.resize(rng.integers(0, 256, (8, 10, 3), np.uint8), (120, 100))
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def test_interrupted_rendering_gives_the_same_images(photos, tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole, whole_crops = distill.render_images(photos, TOY, tmp_path / "whole")
    append = distill.RowStore.append

    def append_once(store, rows):
        if store.done > 0:
            raise KeyboardInterrupt
        append(store, rows)

    monkeypatch.setattr(distill.RowStore, "append", append_once)
    with pytest.raises(KeyboardInterrupt):
        distill.render_images(photos, TOY, tmp_path / "broken")
    monkeypatch.setattr(distill.RowStore, "append", append)
    resumed, resumed_crops = distill.render_images(photos, TOY, tmp_path / "broken")
    assert resumed.done == TOY.images + TOY.held_out_rows
    np.testing.assert_array_equal(whole.array, resumed.array)
    np.testing.assert_array_equal(whole_crops.array, resumed_crops.array)


def test_held_out_rows_come_from_other_photographs(photos, tmp_path, monkeypatch):
    calls: list[tuple[set[bytes], int]] = []
    render = transfer_images.render

    def recorded(rng, pool, count, size, share):
        calls.append(({photo.tobytes() for photo in pool}, count))
        return render(rng, pool, count, size, share)

    monkeypatch.setattr(transfer_images, "render", recorded)
    distill.render_images(photos, TOY, tmp_path)
    made, training, held_out = 0, set[bytes](), set[bytes]()
    for pool, count in calls:
        (training if made < TOY.images else held_out).update(pool)
        made += count
    assert training
    assert held_out
    assert not training & held_out


def test_row_store_refuses_another_recipe(tmp_path):
    distill.RowStore(tmp_path / "rows.npy", 4, (2,), np.uint8)
    with pytest.raises(ValueError, match="use another --out"):
        distill.RowStore(tmp_path / "rows.npy", 5, (2,), np.uint8)


def last_layers(folder: Path) -> tuple[distill.Stage, distill.StageData]:
    """A stage of the last block alone on random activations: no teacher, and quick to trace."""
    folder.mkdir()
    rng, rows = np.random.default_rng(1), TOY.images + TOY.held_out_rows
    seen = distill.RowStore(folder / "student.npy", rows, (2, 2, 56), np.float16)
    seen.append(rng.normal(size=(rows, 2, 2, 56)).astype(np.float16))
    targets, names = [], ("block_16_project_BN", "out_relu")
    for name, channels, dtype in zip(names, (320, 1280), (np.float16, np.uint8), strict=True):
        store = distill.RowStore(folder / f"{name}.npy", rows, (2, 2, channels), dtype)
        ones = np.ones(channels, np.float32)
        target = distill.Target(store, 0 * ones, ones, ones)
        store.append(target.encode(np.abs(rng.normal(size=(rows, 2, 2, channels)))))
        targets.append(target)
    stage = distill.Stage("late", "block_15_add", names, 64, TOY.batch, 3e-3)
    return stage, distill.StageData(seen, targets, TOY.held_out_rows, seed=(1, 2))


@pytest.mark.slow
def test_interrupted_stage_gives_the_same_weights(tmp_path, monkeypatch):
    stage, data = last_layers(tmp_path / "data")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    undisturbed = distill.random_student(TOY)
    distill.run_stage(undisturbed, stage, data, TOY, tmp_path / "a")

    train = distill.Trainer.train

    def train_until_killed(trainer, step):
        if step == 3:  # after the checkpoint of step 2: one step is lost and made again
            raise KeyboardInterrupt
        return train(trainer, step)

    resumed = distill.random_student(TOY)
    monkeypatch.setattr(distill.Trainer, "train", train_until_killed)
    with pytest.raises(KeyboardInterrupt):
        distill.run_stage(resumed, stage, data, TOY, tmp_path / "b")
    monkeypatch.setattr(distill.Trainer, "train", train)
    resumed = distill.random_student(TOY)
    distill.run_stage(resumed, stage, data, TOY, tmp_path / "b")

    before = distill.random_student(TOY).get_layer("Conv_1").get_weights()[0]
    wanted = undisturbed.get_layer("Conv_1").get_weights()[0]
    assert np.abs(wanted - before).max() > 1e-3  # it did learn
    for one, other in zip(undisturbed.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_learning_rate_rises_stays_and_ends_near_zero():
    stage = distill.Stage("late", None, (), samples=1000, batch=1, peak_learning_rate=1.0)
    rates = [distill.learning_rate(stage, step) for step in range(stage.steps)]
    assert rates[0] < 0.05
    assert rates[100:600] == [1.0] * 500
    assert rates[-1] < 0.01


def test_batches_of_an_epoch_visit_each_training_row_once(tmp_path):
    _, data = last_layers(tmp_path / "data")
    data.seen.array[:, 0, 0, 0] = np.arange(len(data.seen.array))
    visited = np.concatenate([data.training(step, 16).seen[:, 0, 0, 0] for step in range(3)])
    assert sorted(visited) == list(range(TOY.images))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """Random weights under the teacher's architecture."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.weights.h5"
    embedded.mobilenet_v2((224, 224, 3), alpha=1.0).save_weights(path)
    return path


@pytest.mark.slow
def test_command_goes_on_after_kill_and_writes_weights(photos, teacher, tmp_path, capsys):
    arguments = ["--images", str(photos), "--teacher", str(teacher), "--out", str(tmp_path)]
    for name in TOY.__dataclass_fields__:
        flag = "--transfer-images" if name == "images" else "--" + name.replace("_", "-")
        arguments += [flag, str(getattr(TOY, name))]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-m", "deploy.embedded_backbone.distill", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (tmp_path / "images.rows").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()

    distill.main(arguments)
    written = tmp_path / "embedded_weights.npz"
    digest = capsys.readouterr().out.split()[-1]
    net = embedded.mobilenet_v2((64, 64, 3), TOY.alpha)
    embedded.load_weights(net, written, digest)
    assert (tmp_path / "log.jsonl").read_text().count('"stage": "late"') >= 1
