"""Batches: every row once an epoch, in an order that the seed decides, whether the rows fit into memory or not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.config import Finetune
from tasks.finetune import batches as module
from tasks.finetune.batches import Batches, Sampling
from tasks.finetune.data import Split
from tasks.finetune.head import build_head, rooted_moments, train_head, weights_digest
from tasks.storage.rows import Rows
from tests.benchmarks.scale import write_rows

COUNT, WIDTH = 1000, 8


def numbered() -> Split:
    """Each row tells its number, and its target is its number modulo 3."""
    numbers = np.arange(COUNT)
    return Split(features=np.repeat(numbers[:, None], WIDTH, axis=1).astype(np.float16), targets=numbers % 3)


def on_disk(split: Split) -> Split:
    rows = Rows(len(split.targets), split.features.shape[1], split.features.dtype)
    rows[:] = split.features[:]
    return Split(features=rows, targets=split.targets)


def epoch(batches: Batches) -> np.ndarray:
    """The rows' numbers in the order of one epoch; what comes with each row is checked."""
    parts = [batches[index] for index in range(len(batches))]
    for features, targets, weights in parts:
        assert (targets == np.eye(3)[features[:, 0].astype(int) % 3]).all()
        assert (weights == features[:, 0] % 3 + 1).all()
    batches.on_epoch_end()
    return np.concatenate([features[:, 0] for features, _, _ in parts]).astype(int)


@pytest.fixture(params=["one pool", "many pools"])
def pools(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "many pools":
        monkeypatch.setattr(module, "POOL_BYTES", 200 * WIDTH * 2)
        monkeypatch.setattr(module, "BLOCK_BYTES", 10 * WIDTH * 2)
    return request.param


def made(split: Split, **options) -> Batches:
    return Batches(split, np.array([1, 2, 3], np.float32), 32, Sampling(**options) if options else None)


def test_an_epoch_has_every_row_once_in_an_order_of_its_own(pools: str):
    batches = made(on_disk(numbered()), seed=5)
    first, second = epoch(batches), epoch(batches)
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert (first != second).any()
    assert (epoch(made(numbered(), seed=5)) == first).all()
    assert (epoch(made(numbered(), seed=6)) != first).any()


def test_neighbours_are_spread(pools: str):
    order = epoch(made(numbered(), seed=0))
    assert (np.abs(np.diff(order)) == 1).mean() < 0.02
    assert abs(np.corrcoef(order, np.arange(COUNT))[0, 1]) < 0.25


def test_without_a_seed_the_order_is_the_rows_own(pools: str):
    batches = made(on_disk(numbered()))
    for _ in range(2):
        assert (epoch(batches) == np.arange(COUNT)).all()


def test_few_rows_are_repeated(pools: str):
    order = epoch(made(numbered(), seed=1, times=3))
    assert (np.bincount(order) == 3).all()


def rare() -> Split:
    """As `numbered`, but only rows 0, 100, 200, … have class 0."""
    split = numbered()
    return Split(features=split.features, targets=np.where(np.arange(COUNT) % 100 == 0, 0, 1 + split.targets % 2))


def test_balanced_sampling_shows_each_class_as_often_and_its_rows_evenly(pools: str):
    batches = Batches(on_disk(rare()), np.ones(3, np.float32), 32, Sampling(seed=1, balanced=True))
    epochs = []
    for _ in range(2):
        parts = [batches[index] for index in range(len(batches))]
        batches.on_epoch_end()
        order = np.concatenate([features[:, 0] for features, _, _ in parts]).astype(int)
        assert (np.concatenate([targets for _, targets, _ in parts]).argmax(axis=1) == rare().targets[order]).all()
        assert sorted(np.bincount(rare().targets[order])) == [333, 333, 334]
        times = np.bincount(order, minlength=COUNT)
        for target in range(3):
            assert np.ptp(times[rare().targets == target]) <= 1
        epochs.append(order)
    assert (np.unique(epochs[0]) != np.unique(epochs[1])).any(), "the same rows of a common class were left out twice"


def test_mixup_blends_rows_targets_and_weights_in_one_share(pools: str):
    """A row is its number and a target its class: with weights that are linear in the target, all three must agree."""
    split = numbered()
    split = Split(features=split.features, targets=np.where(np.arange(COUNT) < COUNT // 2, 0, 2))
    values = np.array([1, 5, 3], np.float32)
    batches = Batches(on_disk(split), values, 32, Sampling(seed=3, mixup=0.4))
    features, targets, weights = (np.concatenate(parts) for parts in zip(*(batches[i] for i in range(20)), strict=True))
    assert np.allclose(targets.sum(axis=1), 1)
    assert np.allclose(targets @ values, weights, rtol=1e-5)
    assert (targets.max(axis=1) >= 0.5).all()
    blended = (targets.max(axis=1) < 0.999).mean()
    assert 0.3 < blended < 0.6  # half of the pairs are of one class
    first, again = (Batches(split, values, 32, Sampling(seed=3, mixup=0.4))[4] for _ in range(2))
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
    # The number of a row of class 0 is below 500, of class 2 above: the share can be read from the row, too.
    share = targets[:, 2]
    low, high = share * COUNT / 2, share * COUNT + (1 - share) * COUNT / 2
    assert ((features[:, 0] >= low - 1) & (features[:, 0] <= high + 1)).all()


def test_rows_are_prepared_and_dropout_leaves_their_mean(pools: str):
    split = Split(features=np.full((400, 64), 4, np.float16), targets=np.zeros(400, np.int64))
    options = Sampling(seed=1, dropout=0.4)
    batches = Batches(on_disk(split), np.ones(1, np.float32), 32, options, prepare=np.sqrt)
    features = np.concatenate([batches[index][0] for index in range(len(batches))])
    dropped = features == 0
    assert dropped.mean() == pytest.approx(0.4, abs=0.01)
    np.testing.assert_allclose(features[~dropped], 2 / (1 - 102 / 256), rtol=1e-3)
    assert (batches[3][0] == batches[3][0]).all()
    before = batches[3][0]
    batches.on_epoch_end()
    assert ((batches[3][0] == 0) != (before == 0)).any()


def test_rows_on_disk_and_in_memory_give_the_same_weights_to_the_bit(pools: str):
    small = Finetune(epochs=2, hidden_units=8, batch_size=32)
    digests = {
        weights_digest(train_head(make(numbered()), make(numbered()), 3, small).model)
        for make in (on_disk, lambda split: split)
    }
    assert len(digests) == 1


def test_the_moments_are_those_of_the_whole():
    values = np.random.default_rng(0).normal(size=(5000, 16)).astype(np.float16)
    mean, variance = rooted_moments(on_disk(Split(features=values, targets=np.zeros(5000, np.int64))).features)
    rooted = np.sign(values) * np.sqrt(np.abs(values.astype(np.float64)))
    assert mean == pytest.approx(rooted.mean(axis=0), abs=1e-6)
    assert variance == pytest.approx(rooted.var(axis=0), rel=1e-5)
    assert build_head(values, 3, Finetune()).input_shape == (None, 16)


PEAK = """
import sys
from pathlib import Path
from tasks.finetune import batches
from tests.benchmarks.scale import LABELS, measure_head, peak_rss_mb
from tests.runs import make_run, make_snapshot_record
batches.POOL_BYTES = 16 << 20
for folder, snapshot in zip(map(Path, sys.argv[1::2]), sys.argv[2::2]):
    measure_head(folder, make_snapshot_record(make_run(folder, "photos"), snapshot, labels=LABELS), 1)
    print(peak_rss_mb())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what a process's peak memory was")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path):
    """60,000 rows more are 154 MB: were they held in memory once, it would show. Both are of several pools."""
    command: list[str | Path] = [sys.executable, "-c", PEAK]
    for count in (10_000, 70_000):
        command += [tmp_path / str(count), write_rows(tmp_path / str(count), count).id]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peaks = [int(line) for line in done.stdout.split()]
    assert peaks[1] - peaks[0] < 150, f"{peaks} MB"
