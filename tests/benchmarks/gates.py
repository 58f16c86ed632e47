"""How often the champion's gate is wrong: on retrains that differ in nothing but the seed, and on drawn pairs.

    uv run python -m tests.benchmarks.gates [--workspace W --name N] [--only retrains,drawn,promotions]
        [--retrains 40] [--draws 10000] [--pairs PAIRS.jsonl] [--repeats 20] [--sizes 100,200,500,1000,3000]

- `retrains`: heads trained on the stored features of a finished run (by default the demo's digits, in a temporary
  workspace), each with a seed of its own. In every ordered pair one is the champion and the other the challenger, on
  the run's test images: whoever is called *better* is so by chance. Beside it, what a bare `>=` would promote, and what
  heads are like that were trained on fewer labels: how much worse, and how often they disagree with the first.
- `drawn`: test sets drawn from a multinomial: the true difference in accuracy, the share of images that only one of the
  two gets right (their disagreement), and the number of images are given; the verdict is `outcome_of`, with the
  thresholds of `expectations/gates.toml`.
- `promotions`: real heads, better and worse ones, through the whole decision: the test split, all images by
  cross-fitting, and the policy for what stays open (`tests/benchmarks/promotions.py`). A head takes a second or more,
  and a champion with its challengers has about 40. What is measured is kept in `--pairs`, from which it is resumed.

Prints JSON; `--markdown expectations/README.md` writes the tables there, between their markers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.config import parse_config
from tasks.evaluate.comparison import outcome_of
from tasks.evaluate.metrics import wilson_interval
from tasks.evaluate.thresholds import ChampionPolicy, load_gates
from tasks.finetune.data import Split
from tasks.finetune.head import train_head
from tasks.runs import finished_runs
from tasks.storage.feature_store import load_features
from tasks.storage.tables import read_table
from tasks.workspace import Workspace
from tests.benchmarks import promotions

SECTIONS = ("retrains", "drawn", "promotions")
DISAGREEMENTS = (0.06, 0.1, 0.15, 0.2, 0.3)
TEST_IMAGES = (100, 340, 1000)
LABEL_SHARES = (0.5, 0.25, 0.125)


@contextmanager
def finished_run(workspace: str | None, name: str) -> Iterator[tuple[Workspace, dict[str, Any]]]:
    """A workspace and the summary of its model's newest run; without one, the demo's."""
    with tempfile.TemporaryDirectory(prefix="gates-") as folder:
        if workspace is None:
            command = [sys.executable, "-m", "flows.cli", "demo", "--workspace", folder]
            subprocess.run(command, check=True, stdout=sys.stderr)
        place = Workspace(workspace or folder)
        summary = next((each for each in finished_runs(place, name) if each["snapshot"]), None)
        if summary is None:
            raise SystemExit(f"{name} has no finished run in {workspace}")
        yield place, summary


class Retrains:
    """Trains heads on one run's stored features."""

    def __init__(self, workspace: Workspace, summary: dict[str, Any]) -> None:
        self.config = parse_config(summary["config"])
        self.labels = summary["labels"]
        table = read_table(workspace, f"snapshots/{summary['snapshot']}.parquet", ["sha256", "label", "split"])
        index = {label: place for place, label in enumerate(self.labels)}
        self.splits = {}
        self.widths = tuple(summary["lineage"]["features"]["extractor"]["widths"])
        for split, rows in table.groupby("split"):
            features = load_features(workspace, summary["lineage"]["recipes"][0], rows["sha256"].tolist(), 0)
            targets = rows["label"].map(index).to_numpy(np.int64)
            self.splits[split] = Split(features=features, targets=targets, widths=self.widths)

    def right(self, seed: int, share: float = 1.0) -> np.ndarray:
        """Which test images a head with this seed gets right, bool [N]; `share` of the training images is used."""
        train = self.splits["train"]
        kept = np.random.default_rng(0).permutation(len(train.targets))[: round(share * len(train.targets))]
        fewer = replace(train, features=train.features[kept], targets=train.targets[kept])
        config = self.config.finetune.model_copy(update={"seed": seed})
        model = train_head(fewer, self.splits["validation"], len(self.labels), config).model
        logits = np.asarray(model(self.splits["test"].features.astype(np.float32), training=False))
        return logits.argmax(axis=1) == self.splits["test"].targets


def measure_retrains(trained: Retrains, count: int, policy: ChampionPolicy) -> dict[str, Any]:
    answers = []
    for seed in range(count):
        answers.append(trained.right(seed))
        print(f"seed {seed}: {answers[-1].mean():.4f}", file=sys.stderr, flush=True)
    pairs = list(itertools.permutations(answers, 2))
    in_turn = list(itertools.pairwise(answers))
    return {
        "retrains": count,
        "test_images": len(answers[0]),
        "accuracy": _spread([right.mean() for right in answers]),
        "disagreement": _spread([(a != b).mean() for a, b in pairs]),
        "each_against_the_one_before": _shares([verdict(a, b, policy) for a, b in in_turn]),
        "every_ordered_pair": _shares([verdict(a, b, policy) for a, b in pairs]),
        "bare_at_least_as_good_promotes": float(np.mean([b.mean() >= a.mean() for a, b in pairs])),
        "trained_on_fewer_labels": [
            {
                "share": share,
                "difference": float(fewer.mean() - answers[0].mean()),
                "disagreement": float((fewer != answers[0]).mean()),
                "verdict": verdict(answers[0], fewer, policy),
            }
            for share in LABEL_SHARES
            for fewer in [trained.right(0, share)]
        ],
    }


def verdict(champion: np.ndarray, challenger: np.ndarray, policy: ChampionPolicy) -> str:
    won, lost = int((challenger & ~champion).sum()), int((champion & ~challenger).sum())
    return _outcome(won, lost, len(champion), policy)


def measure_drawn(difference: float, disagreement: float, n: int, draws: int, policy: ChampionPolicy) -> dict[str, Any]:
    """Verdicts on `draws` test sets of `n` images on which the challenger is truly better by `difference`."""
    shares = [(disagreement + difference) / 2, (disagreement - difference) / 2, 1 - disagreement]
    counted = Counter(map(tuple, np.random.default_rng(0).multinomial(n, shares, size=draws).tolist()))
    outcomes: Counter[str] = Counter()
    for (won, lost, _), times in counted.items():
        outcomes[_outcome(won, lost, n, policy)] += times
    promoted = sum(outcomes[each] for each in policy.promote)
    return {
        "difference": difference,
        "disagreement": disagreement,
        "test_images": n,
        "draws": draws,
        "better": outcomes["better"] / draws,
        "promoted": promoted / draws,
        "promoted_interval": wilson_interval(promoted, draws),
    }


def _outcome(won: int, lost: int, n: int, policy: ChampionPolicy) -> str:
    margin, confidence, least = policy.non_inferiority_margin, policy.confidence, policy.min_paired_images
    return outcome_of(won, lost, n, margin=margin, confidence=confidence, min_images=least)


def _shares(verdicts: list[str]) -> dict[str, float]:
    return {each: count / len(verdicts) for each, count in sorted(Counter(verdicts).items())}


def _spread(values: list[float]) -> dict[str, float]:
    return {"least": float(min(values)), "mean": float(np.mean(values)), "most": float(max(values))}


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| truly better by | test images | disagreement | called better | promoted (95 % interval) |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        low, high = row["promoted_interval"]
        lines.append(
            f"| {100 * row['difference']:+.0f} points | {row['test_images']:,} | {row['disagreement']:.0%} "
            f"| {row['better']:.2%} | {row['promoted']:.2%} ({low:.2%} to {high:.2%}) |"
        )
    return "\n".join(lines) + "\n"


def write_table(file: Path, marker: str, table: str) -> None:
    """Replaces what a Markdown file has between `<!-- marker -->` and `<!-- /marker -->`."""
    text = file.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise SystemExit(f"{file} has no single place between <!-- {marker} --> and <!-- /{marker} -->")
    file.write_text(pattern.sub(lambda found: found[1] + table + found[2], text), encoding="utf-8")


def _sections(text: str) -> list[str]:
    wanted = text.split(",")
    if unknown := set(wanted) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    return wanted


def main() -> None:
    parser = argparse.ArgumentParser(description="How often the champion's gate is wrong.")
    parser.add_argument("--workspace", help="one with a finished run; by default the demo is run")
    parser.add_argument("--name", default="digits", help="the model's name there")
    parser.add_argument("--only", type=_sections, default=SECTIONS, metavar=",".join(SECTIONS))
    parser.add_argument("--retrains", type=int, default=40)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--pairs", type=Path, metavar="JSONL", help="keeps the pairs of `promotions`, to be resumed")
    parser.add_argument("--repeats", type=int, default=20, help="champions of each size; 0 only reads --pairs")
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=promotions.SIZES)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="with the tables' markers")
    given = parser.parse_args()
    gates = load_gates("gates", given.name)
    policy, tables = gates.champion, {}
    measured: dict[str, Any] = {}
    if "drawn" in given.only:
        measured["drawn"] = [
            measure_drawn(difference, disagreement, n, given.draws, policy)
            for difference, sizes in ((0.0, TEST_IMAGES), (-0.02, TEST_IMAGES), (0.04, (1000,)), (-0.04, (1000,)))
            for n, disagreement in itertools.product(sizes, DISAGREEMENTS)
        ]
        tables["drawn"] = markdown(measured["drawn"])
    if {"retrains", "promotions"} & set(given.only):
        with finished_run(given.workspace, given.name) as (workspace, summary), tempfile.TemporaryDirectory() as aside:
            if "retrains" in given.only:
                measured["retrains"] = measure_retrains(Retrains(workspace, summary), given.retrains, policy)
            if "promotions" in given.only:
                file = given.pairs or Path(aside) / "pairs.jsonl"
                pairs = promotions.measure(workspace, summary, given.sizes, given.repeats, gates, file)
                measured["promotions"] = promotions.summarise(pairs)
                tables["promotions"] = promotions.markdown(measured["promotions"])
    if given.markdown:
        for marker, table in tables.items():
            write_table(given.markdown, marker, table)
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
