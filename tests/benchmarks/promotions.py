"""How often challengers of known quality are promoted: real heads through the whole decision of the champion's gate.

For each size and repeat, a champion is trained on so many images, drawn by a seed from a finished run, and after it the
challengers of `SCENARIOS`. Both have a head trained on all their images (the file), and, where the test split does not
decide, heads cross-fitted in folds, as `tasks.finetune.cross_fit` trains them. The true difference is that of the files
on the images outside, by their right labels. The champion's gate alone judges: floors and class regressions, which
refuse more, are not asked, so that what is promoted is at most what this says of bad challengers.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from tasks import config as configuration
from tasks.evaluate.all_images import AllImages, Pairs, compare_pairs, grew, signs_of_worse
from tasks.evaluate.comparison import outcome_of
from tasks.evaluate.metrics import wilson_interval
from tasks.evaluate.new_labels import judge_new_labels
from tasks.evaluate.thresholds import Gates
from tasks.finetune.cross_fit import FEW_VALIDATION_IMAGES, FOLDS, folds_of
from tasks.finetune.data import Split
from tasks.finetune.head import train_head
from tasks.networks.calibration import fit_temperature
from tasks.split.assign import assign
from tasks.storage.assignments import no_assignments
from tasks.storage.feature_store import load_features
from tasks.storage.tables import read_table
from tasks.workspace import Workspace

SIZES = (100, 200, 500, 1000, 3000)
MOST_GROWTH = 0.5
OUTSIDE = 400  # images at least that the true difference is measured on
WORSE_BY, MOST_PROMOTED = 0.02, 0.05
BANDS = (-1.0, -0.04, -0.02, -0.01, 0.01, 0.02, 0.04, 1.0)  # of true differences
EVIDENCE = ("test split", "all images", "policy")
COLUMNS = ["sha256", "label", "split", "path", "group"]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What the challenger differs in from the champion."""

    name: str
    growth: float = 0.0  # new images / images
    wrong: float = 0.0  # share of the new images with a wrong label: for training, and for judging both
    flipped: float = 0.0  # share of the training images with a wrong label, for the challenger's training alone
    other_seed: bool = False


SCENARIOS = (
    Scenario(name="the same, another seed", other_seed=True),
    Scenario(name="15 % of its labels wrong", flipped=0.15),
    Scenario(name="35 % of its labels wrong", flipped=0.35),
    Scenario(name="25 % more", growth=0.25),
    Scenario(name="50 % more", growth=0.5),
    Scenario(name="25 % more, 80 % wrong", growth=0.25, wrong=0.8),
    Scenario(name="50 % more, 30 % wrong", growth=0.5, wrong=0.3),
    Scenario(name="5 % of its labels wrong", flipped=0.05),
)


class Images:
    """A finished run's images with their stored features; an image is named by its place, 0 to N - 1."""

    def __init__(self, workspace: Workspace, summary: dict[str, Any]) -> None:
        self.labels = np.array(summary["labels"], object)
        self.finetune = configuration.parse_config(summary["config"]).finetune
        self.table = read_table(workspace, f"snapshots/{summary['snapshot']}.parquet", COLUMNS)
        self.features = load_features(workspace, summary["lineage"]["recipes"][0], self.table["sha256"].tolist(), 0)
        self.widths = tuple(summary["lineage"]["features"]["extractor"]["widths"])
        index = {label: i for i, label in enumerate(self.labels)}
        self.targets = self.table["label"].map(index).to_numpy(np.int64)
        self.folds = folds_of(self.table["group"])
        self.groups = pd.factorize(self.table["group"])[0]
        self._place = pd.Series(np.arange(len(self.table)), self.table["sha256"])

    def divide(self, places: np.ndarray, targets: np.ndarray, earlier: pd.DataFrame) -> tuple[Divided, pd.DataFrame]:
        """The splits that the split stage gives, and the assignments for the set that grows from this one."""
        rows = self.table.iloc[places].assign(label=self.labels[targets[places]], split=None)
        found = assign(rows, earlier, configuration.Split(), f"{len(earlier)}")
        placed = self._place[found.table["sha256"]].to_numpy()
        splits = found.table["split"].to_numpy()
        chosen = {split: placed[splits == split] for split in ("train", "validation", "test")}
        return Divided(**chosen), found.assignments


@dataclass(frozen=True, kw_only=True)
class Divided:
    """Places of the images of each split."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Model:
    """A head trained on all images of a set, and cross-fitted heads of the same settings where they are asked for."""

    def __init__(self, images: Images, divided: Divided, targets: np.ndarray, finetune: configuration.Finetune) -> None:
        self.images, self.divided, self._targets, self._finetune = images, divided, targets, finetune
        # Float32 [N, C], of all images.
        self.logits, self._temperature = self._train(divided.train, divided.validation, np.arange(len(targets)))
        self.predicted = self.logits.argmax(axis=1)

    @cached_property
    def cross_fitted(self) -> np.ndarray:
        """Float32 [N, C]; NaN for images that are neither for training nor for validation."""
        folds, found = self.images.folds, np.full_like(self.logits, np.nan)
        train, validation = self.divided.train, self.divided.validation
        for fold in range(FOLDS):
            held_out = validation[folds[validation] != fold]
            asked = np.concatenate([train[folds[train] == fold], validation[folds[validation] == fold]])
            held_out = held_out if len(held_out) else validation
            found[asked], _ = self._train(train[folds[train] != fold], held_out, asked)
        return found

    def probabilities(self) -> np.ndarray:
        """Of all images, float32 [N, C], at the temperature that the file would have."""
        temperature = self._temperature
        if len(self.divided.validation) < FEW_VALIDATION_IMAGES:
            asked = np.concatenate([self.divided.train, self.divided.validation])
            temperature = fit_temperature(self.cross_fitted[asked], self._targets[asked])
        return softmax(self.logits / temperature, axis=1)

    def _train(self, train: np.ndarray, validation: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, float]:
        """The logits of a new head for some images, float32 [N, C], and its temperature."""
        taught, held_out = (
            Split(features=self.images.features[of], targets=self._targets[of], widths=self.images.widths)
            for of in (train, validation)
        )
        trained = train_head(taught, held_out, len(self.images.labels), self._finetune)
        logits = np.asarray(trained.model(self.images.features[asked].astype(np.float32), training=False))
        return logits, trained.temperature


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One decision, and what the challenger truly is; a line of the file of measurements."""

    size: int
    repeat: int
    scenario: str
    true_difference: float  # on the images outside
    outside: int
    test_images: int
    test_outcome: str
    evidence: str  # test split, all images, or policy
    outcome: str
    promoted: bool
    all_images: dict[str, Any] | None
    signs: list[str]


def measure(
    workspace: Workspace, summary: dict[str, Any], sizes: Sequence[int], repeats: int, gates: Gates, file: Path
) -> list[Pair]:
    """Adds to `file`, a JSON object a line, what it lacks: each scenario at each size, `repeats` times.

    Each champion and its challengers have a process of their own: Keras keeps 13 MB of every head.
    """
    spawn = multiprocessing.get_context("spawn")
    for repeat in range(repeats):
        for size in sizes:
            done = {pair.scenario for pair in read(file) if (pair.size, pair.repeat) == (size, repeat)}
            if len(done) < len(SCENARIOS):
                with spawn.Pool(1) as pool:
                    pool.apply(_write_set, (workspace, summary, size, repeat, gates, done, file))
    return read(file)


def _write_set(
    workspace: Workspace, summary: dict[str, Any], size: int, repeat: int, gates: Gates, done: set[str], file: Path
) -> None:
    with file.open("a", encoding="utf-8") as lines:
        for pair in _measure_set(Images(workspace, summary), size, repeat, gates, done):
            lines.write(json.dumps(asdict(pair)) + "\n")
            lines.flush()
            found = f"{pair.true_difference:+.3f}, {pair.outcome} by {pair.evidence}, promoted: {pair.promoted}"
            print(size, repeat, pair.scenario, found, file=sys.stderr, flush=True)


def read(file: Path) -> list[Pair]:
    if not file.exists():
        return []
    return [Pair(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def _measure_set(images: Images, size: int, repeat: int, gates: Gates, done: set[str]) -> Iterator[Pair]:
    """The pairs of one champion that are not done yet."""
    order = np.random.default_rng([repeat, size]).permutation(len(images.targets))
    grows = round((1 + MOST_GROWTH) * size) + OUTSIDE <= len(order)
    left = [each for each in SCENARIOS if each.name not in done and (grows or not each.growth)]
    if not left or size + OUTSIDE > len(order):
        return
    outside = order[round((1 + MOST_GROWTH * grows) * size) :]
    divided, assignments = images.divide(order[:size], images.targets, no_assignments())
    champion = Model(images, divided, images.targets, images.finetune)
    for scenario in left:
        rng = np.random.default_rng([repeat, size, SCENARIOS.index(scenario)])
        new = order[size : round((1 + scenario.growth) * size)]
        given = _with_wrong(images, new, scenario.wrong, rng)
        grown, _ = images.divide(np.concatenate([order[:size], new]), given, assignments)
        taught = np.where(np.isin(np.arange(len(order)), new), given, images.targets)
        flipped = _with_wrong(images, grown.train, scenario.flipped, rng)
        taught[grown.train] = np.where(scenario.flipped > 0, flipped, taught)[grown.train]
        seed = images.finetune.seed + scenario.other_seed * (1 + repeat)
        challenger = Model(images, grown, taught, images.finetune.model_copy(update={"seed": seed}))
        true = [(model.predicted == images.targets)[outside].mean() for model in (champion, challenger)]
        changed = int((flipped != images.targets).sum())
        only_grew = grew(len(new), changed, size, gates.champion)
        decided = _decide(champion, challenger, given, gates, only_grew)
        yield Pair(
            size=size,
            repeat=repeat,
            scenario=scenario.name,
            true_difference=float(true[1] - true[0]),
            outside=len(outside),
            test_images=len(grown.test),
            **decided,
        )


def _with_wrong(images: Images, places: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The labels of all images, with a share of those at `places` exchanged for another one."""
    targets = images.targets.copy()
    chosen = rng.permutation(places)[: round(share * len(places))]
    targets[chosen] = (targets[chosen] + rng.integers(1, len(images.labels), len(chosen))) % len(images.labels)
    return targets


def _decide(champion: Model, challenger: Model, given: np.ndarray, gates: Gates, only_grew: bool) -> dict[str, Any]:
    """The champion's gate, in the order of its evidence: the test split, all images, the policy.

    Args:
        given: the label that each image has in the challenger's set, int [N].
        only_grew: whether the challenger's data is the champion's and more.
    """
    policy, test = gates.champion, challenger.divided.test
    before, after = (model.predicted[test] == given[test] for model in (champion, challenger))
    outcome = outcome_of(
        int((after & ~before).sum()),
        int((before & ~after).sum()),
        len(test),
        margin=policy.non_inferiority_margin,
        confidence=policy.confidence,
        min_images=policy.min_paired_images,
    )
    by_test = {"test_outcome": outcome, "outcome": outcome, "evidence": "test split", "all_images": None, "signs": []}
    if outcome != "not-enough-data":
        return {**by_test, "promoted": outcome in policy.promote}
    found = _by_all_images(champion, challenger, given, gates)
    signs = signs_of_worse(policy, found)
    open_ = found.outcome == "not-enough-data"
    grown = open_ and policy.undecided == "promote-if-grown" and only_grew and not signs
    return {
        **by_test,
        "outcome": found.outcome,
        "evidence": "policy" if open_ else "all images",
        "all_images": asdict(found),
        "signs": signs,
        "promoted": grown or found.outcome in policy.promote,
    }


def _by_all_images(champion: Model, challenger: Model, given: np.ndarray, gates: Gates) -> AllImages:
    """As `tasks.evaluate.all_images.compare_all` takes the predictions of both for each image."""
    images, test = champion.images, challenger.divided.test
    others = np.concatenate([challenger.divided.train, challenger.divided.validation])
    known = np.concatenate([champion.divided.train, champion.divided.validation, champion.divided.test])
    new = others[~np.isin(others, known)]
    predicted = np.where(
        np.isin(np.arange(len(given)), others[np.isin(others, known)]),
        champion.cross_fitted.argmax(axis=1),
        champion.predicted,
    )
    asked = np.concatenate([others, test])
    theirs = np.concatenate([challenger.cross_fitted[others].argmax(axis=1), challenger.predicted[test]])
    probabilities = champion.probabilities()[new].max(axis=1)
    right, error = champion.predicted[new] == given[new], gates.calibration.max_error
    labels = judge_new_labels(probabilities, right, gates.champion.confidence, error)
    pairs = Pairs(
        champion_right=predicted[asked] == given[asked],
        challenger_right=theirs == given[asked],
        test=np.isin(asked, test),
        new=np.isin(asked, new),
        groups=images.groups[asked],
    )
    return compare_pairs(pairs, labels, gates.champion)


def summarise(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Promotion rates by scenario and size, by true difference and size, and of all that are truly worse."""
    sizes = sorted({pair.size for pair in pairs})
    return {
        "scenarios": [
            {"scenario": scenario.name, "size": size, **(_rate(chosen) or {})}
            for scenario in SCENARIOS
            for size in sizes
            if (chosen := [pair for pair in pairs if (pair.scenario, pair.size) == (scenario.name, size)])
        ],
        "by_difference": [
            {
                "from": low,
                "to": high,
                "sizes": {size: _rate([pair for pair in chosen if pair.size == size]) for size in sizes},
                "all": _rate(chosen),
            }
            for low, high in itertools.pairwise(BANDS)
            for chosen in [[pair for pair in pairs if low < pair.true_difference <= high]]
        ],
        "worse": _rate([pair for pair in pairs if pair.true_difference <= -WORSE_BY]),
        "most_promoted_of_the_worse": MOST_PROMOTED,
    }


def _rate(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    if not pairs:
        return None
    promoted = [pair for pair in pairs if pair.promoted]
    return {
        "pairs": len(pairs),
        "true_difference": float(np.mean([pair.true_difference for pair in pairs])),
        "promoted": len(promoted) / len(pairs),
        "promoted_interval": wilson_interval(len(promoted), len(pairs)),
        "promoted_by": {kind: sum(pair.evidence == kind for pair in promoted) / len(pairs) for kind in EVIDENCE},
        "by_test_split_alone": sum(pair.test_outcome in ("better", "equivalent") for pair in pairs) / len(pairs),
    }


def markdown(summary: dict[str, Any]) -> str:
    lines = [
        "| challenger | images | pairs | truly better by | promoted (95 % interval) | by test split, all images, "
        "policy | by the test split alone |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [f"| {row['scenario']} | {row['size']:,} | {_cells(row)} |" for row in summary["scenarios"]]
    if worse := summary["worse"]:
        lines.append(f"| *all that are at least {100 * WORSE_BY:.0f} points worse* | | {_cells(worse)} |")
    by_difference = summary["by_difference"]
    sizes = list(by_difference[0]["sizes"])
    lines += [
        "",
        "| truly better by | " + " | ".join(f"{size:,} images" for size in sizes) + " | all (95 % interval) |",
        "| --- |" + " ---: |" * (len(sizes) + 1),
    ]
    for row in by_difference:
        cells = [_share(row["sizes"][size]) for size in sizes]
        low, high = row["all"]["promoted_interval"] if row["all"] else (0, 0)
        cells.append(f"{_share(row['all'])} ({low:.0%} to {high:.0%})" if row["all"] else "")
        lines.append(f"| {_band(row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _share(rate: dict[str, Any] | None) -> str:
    return f"{rate['promoted']:.0%} of {rate['pairs']}" if rate else ""


def _band(row: dict[str, Any]) -> str:
    low, high = 100 * row["from"], 100 * row["to"]
    if row["from"] == BANDS[0]:
        return f"at most {high:+.0f} points"
    return f"more than {low:+.0f} points" if row["to"] == BANDS[-1] else f"{low:+.0f} to {high:+.0f} points"


def _cells(row: dict[str, Any]) -> str:
    low, high = row["promoted_interval"]
    kinds = ", ".join(f"{share:.0%}" for share in row["promoted_by"].values())
    return (
        f"{row['pairs']} | {100 * row['true_difference']:+.1f} | {row['promoted']:.0%} ({low:.0%} to {high:.0%}) "
        f"| {kinds} | {row['by_test_split_alone']:.0%}"
    )
