"""What is served while a folder of photographs grows: `headstart retrain` at each step, beside two other policies.

    uv run python -m tests.benchmarks.growth CLOTHING [--orders 5] [--steps 150,200,300,450,700,1000,1500,3000]
        [--wrong 0.8] [--rows ROWS.jsonl] [--markdown FILE]

CLOTHING is a folder of `train/` and `validation/`, a subfolder a class. For each order of its photographs, drawn by a
seed, a folder grows step by step; the photographs beyond the last step are in no run, and all accuracies are on them.
At each step the product retrains on the embedded backbone, a process each, and the accuracy is measured of

- the served model: the newest version in the model repository;
- always-promote: this step's candidate;
- the test split alone: the newest candidate that a gate would have promoted that asks only the test split. Its verdicts
  are made again for the same candidates; the gates that need no champion count as they were.

With `--wrong`, that share of the labels of one batch, in the middle, is wrong: the files lie in another class's folder,
until the next step moves them to their right one.

Prints JSON; the exit status is 1 where an aim is missed: from 300 images on, the served model is on average at most 1
point worse than always-promote's, and none is more than 2 points worse than the one before it. `--rows` keeps each step
as it is measured; orders that are complete there are not measured again. An order takes ten minutes or more of 2 cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from shutil import copy2
from statistics import mean
from typing import Any

import numpy as np

from tasks.evaluate.comparison import compare_classes, outcome_of
from tasks.evaluate.thresholds import ChampionPolicy, load_gates
from tasks.networks.classifier import Classifier
from tasks.storage.repository import version_path
from tasks.storage.tables import read_table
from tasks.workspace import Workspace
from tests.benchmarks.copies import photographs
from tests.benchmarks.processes import Answer, environment, prefect_server, run

STEPS = (150, 200, 300, 450, 700, 1000, 1500, 3000)
ENDS = (0, 3, 4)  # promoted, refused by the gates, stopped by validation
POLICIES = ("served", "always_promote", "test_split_alone")
MOST_BEHIND, FROM_IMAGES = 0.01, 300  # behind always-promote, on average
MOST_WORSE = 0.02  # than the served model before
# On a busy machine five heads may take longer than the default budget, and then another rule decides.
CROSS_FIT_S = 600
BY_CHAMPION = ("champion", "class regressions")  # gates whose result depends on what is served
REASON_LENGTH = 160


@dataclass(frozen=True, kw_only=True)
class Step:
    """One retrain; accuracies on the photographs that no run sees, None before there is a model."""

    order: int
    images: int
    verdict: str
    evidence: str | None
    reason: str
    seconds: float
    cross_fit_s: float
    version: int | None
    served: float | None
    always_promote: float | None
    test_split_alone: float | None
    test_split_verdict: str


class Answers:
    """The classes that model files predict for photographs, each pair once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, Path], str] = {}

    def predict(self, model: Path, photos: Sequence[Path]) -> np.ndarray:
        content = model.read_bytes()
        digest = sha256(content).hexdigest()
        if new := [photo for photo in photos if (digest, photo) not in self._found]:
            classifier = Classifier(content)
            for photo, found in zip(new, classifier.classify_all([photo.read_bytes for photo in new]), strict=True):
                self._found[digest, photo] = classifier.labels[found.probabilities.argmax()]
        return np.array([self._found[digest, photo] for photo in photos], object)

    def accuracy(self, model: Path | None, photos: Sequence[Path]) -> float | None:
        if model is None:
            return None
        return float((self.predict(model, photos) == [photo.parent.name for photo in photos]).mean())


class TestSplitAlone:
    """The gate between champion and challenger as it is without cross-fitting, made again for the same candidates."""

    def __init__(self, policy: ChampionPolicy, answers: Answers) -> None:
        self.champion: Path | None = None
        self._policy, self._answers = policy, answers

    def judge(self, workspace: Workspace, summary: dict[str, Any], candidate: Path) -> str:
        """The verdict on a candidate, which becomes the champion if it is promoted."""
        decision = workspace.read_json(f"runs/{summary['run_id']}/decision.json")
        if any(gate["passed"] is False for gate in decision["gates"] if gate["name"] not in BY_CHAMPION):
            return "other gates"
        verdict = self._compare(workspace, summary) if self.champion else "first model"
        if verdict == "first model" or verdict in self._policy.promote:
            self.champion = candidate
        return verdict

    def _compare(self, workspace: Workspace, summary: dict[str, Any]) -> str:
        assert self.champion
        table = read_table(workspace, f"{summary['artifacts']['evaluate']}/predictions.parquet")
        known = Classifier(self.champion).labels  # a class of which the first steps had too few images is new later
        rows = table[(table["split"] == "test") & table["label"].isin(known)]
        labels = rows["label"].to_numpy()
        after = rows["predicted"].to_numpy() == labels
        before = self._answers.predict(self.champion, [Path(uri) for uri in rows["uri"]]) == labels
        policy = self._policy
        classes = compare_classes(labels.tolist(), before, after)
        if policy.refuse_class_regressions and any(row.p_value <= 1 - policy.confidence for row in classes):
            return "class regressions"
        return outcome_of(
            int((after & ~before).sum()),
            int((before & ~after).sum()),
            len(rows),
            margin=policy.non_inferiority_margin,
            confidence=policy.confidence,
            min_images=policy.min_paired_images,
        )


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one order grows."""

    source: Path
    workspace: Workspace
    env: dict[str, str]
    name: str

    def put(self, photo: Path, label: str) -> None:
        target = self._target(photo, label)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy2(photo, target)

    def move(self, photo: Path, label: str) -> None:
        self._target(photo, label).replace(self._target(photo, photo.parent.name))

    def retrain(self) -> Answer:
        command = [str(Path(sys.executable).parent / "headstart"), "retrain", str(self.source), "--name", self.name]
        command += ["--backbone", "embedded", "--workspace", self.workspace.path(""), "--json"]
        return run([*command, "--set", f"evaluate.cross_fit_s={CROSS_FIT_S}"], self.env, allowed=ENDS)

    def _target(self, photo: Path, label: str) -> Path:
        return self.source / label / f"{photo.parent.parent.name}-{photo.name}"


def climb(order: int, photos: list[Path], steps: Sequence[int], wrong: float, place: Place) -> Iterator[Step]:
    """Grows the folder of one order, with a retrain at each step."""
    rng = np.random.default_rng(order)
    drawn = [photos[index] for index in rng.permutation(len(photos))]
    unseen, answers = drawn[steps[-1] :], Answers()
    alone = TestSplitAlone(load_gates("gates", place.name).champion, answers)
    candidate: Path | None = None
    moved_away: dict[Path, str] = {}
    for number, (before, images) in enumerate(itertools.pairwise((0, *steps))):
        for photo, label in moved_away.items():
            place.move(photo, label)
        batch = drawn[before:images]
        moved_away = _wrong_folders(batch, wrong, photos, rng) if number == len(steps) // 2 else {}
        for photo in batch:
            place.put(photo, moved_away.get(photo) or photo.parent.name)
        answer = place.retrain()
        summary, again = answer.printed, "no candidate"
        if "export" in summary["artifacts"] and summary["verdict"] != "invalid-data":
            candidate = Path(place.workspace.path(f"{summary['artifacts']['export']}/model.onnx"))
            again = alone.judge(place.workspace, summary, candidate)
        version = summary["version"]
        served = version and Path(place.workspace.path(version_path(place.name, version))) / "model.onnx"
        accuracy = partial(answers.accuracy, photos=unseen)
        yield Step(
            order=order,
            images=images,
            verdict=summary["verdict"],
            evidence=summary.get("evidence"),
            reason="; ".join(summary["reasons"]),
            seconds=round(answer.seconds, 1),
            cross_fit_s=round(summary["timings_s"].get("cross_fit", 0.0), 1),
            version=version,
            served=accuracy(served or None),
            always_promote=accuracy(candidate),
            test_split_alone=accuracy(alone.champion),
            test_split_verdict=again,
        )


def _wrong_folders(batch: list[Path], share: float, photos: list[Path], rng: np.random.Generator) -> dict[Path, str]:
    """The wrong class of a share of the batch's photographs."""
    classes = sorted({photo.parent.name for photo in photos})
    chosen = rng.permutation(len(batch))[: round(share * len(batch))]
    return {
        batch[index]: classes[(classes.index(batch[index].parent.name) + rng.integers(1, len(classes))) % len(classes)]
        for index in chosen
    }


def measure(data: Path, folder: Path, given: argparse.Namespace) -> list[Step]:
    """All orders that `--rows` lacks, in one workspace, each with a model of its own: features are made once."""
    photos = photographs(data / "train") + photographs(data / "validation")
    if len(photos) <= given.steps[-1]:
        raise SystemExit(f"{data} has {len(photos)} photographs: none is left beyond the last step, {given.steps[-1]}")
    steps = read(given.rows) if given.rows else []
    complete = {step.order for step in steps if step.images == given.steps[-1]}
    kept = [step for step in steps if step.order in complete]
    with prefect_server(folder / "prefect") as (api_url, _):
        for order in range(given.orders):
            if order in complete:
                continue
            place = Place(
                source=folder / f"photographs-{order}",
                workspace=Workspace(str(folder / "workspace")),
                env=environment(folder / "prefect", api_url),
                name=f"order-{order}",
            )
            for step in climb(order, photos, given.steps, given.wrong, place):
                kept.append(step)
                print(json.dumps(asdict(step)), file=sys.stderr, flush=True)
                if given.rows:
                    lines = [json.dumps(asdict(each)) for each in kept]
                    given.rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return kept


def read(file: Path) -> list[Step]:
    if not file.exists():
        return []
    return [Step(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def summarise(steps: Sequence[Step]) -> dict[str, Any]:
    """Means over the orders at each step, and whether the aims are reached."""
    means = []
    for images in sorted({step.images for step in steps}):
        rows = [step for step in steps if step.images == images]
        means.append(
            {
                "images": images,
                "orders": len(rows),
                "promoted": sum(row.verdict == "promoted" for row in rows),
                "seconds": round(mean(row.seconds for row in rows), 1),
                "cross_fit_s": round(mean(row.cross_fit_s for row in rows), 1),
                "without_a_model": sum(row.served is None for row in rows),
                **{policy: _mean(row for row in (getattr(each, policy) for each in rows)) for policy in POLICIES},
            }
        )
    behind = [
        row
        for row in means
        if row["images"] >= FROM_IMAGES
        and (row["without_a_model"] or row["served"] < row["always_promote"] - MOST_BEHIND)
    ]
    worse = [
        {"order": after.order, "images": after.images, "difference": after.served - before.served}
        for before, after in itertools.pairwise(steps)
        if after.order == before.order
        and before.served is not None
        and after.served is not None
        and after.served < before.served - MOST_WORSE
    ]
    return {"means": means, "behind_always_promote": behind, "worse_than_the_one_before": worse}


def _mean(values: Iterator[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return mean(found) if found else None


def markdown(steps: Sequence[Step], summary: dict[str, Any]) -> str:
    lines = [
        "| images | served | always-promote | the test split alone | promoted | seconds; of them cross-fitting |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in summary["means"]:
        accuracies = " | ".join(_accuracy(row[policy]) for policy in POLICIES)
        lines.append(
            f"| {row['images']:,} | {accuracies} | {row['promoted']} of {row['orders']} "
            f"| {row['seconds']:.0f}; {row['cross_fit_s']:.0f} |"
        )
    for order in sorted({step.order for step in steps}):
        lines += [
            "",
            f"Order {order}:",
            "",
            "| images | verdict | served | always-promote | the test split alone | reason |",
            "| ---: | --- | ---: | ---: | --- | --- |",
        ]
        for step in steps:
            if step.order == order:
                by = f" by {step.evidence}" if step.evidence else ""
                lines.append(
                    f"| {step.images:,} | {step.verdict}{by} | {_accuracy(step.served)} "
                    f"| {_accuracy(step.always_promote)} | {_accuracy(step.test_split_alone)} "
                    f"({step.test_split_verdict}) | {step.reason[:REASON_LENGTH]} |"
                )
    return "\n".join(lines) + "\n"


def _accuracy(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _steps(text: str) -> list[int]:
    steps = [int(step) for step in text.split(",")]
    if steps != sorted(set(steps)) or steps[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} does not grow from step to step")
    return steps


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photographs", type=Path, help="folder with train/ and validation/")
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--steps", type=_steps, default=STEPS)
    parser.add_argument("--wrong", type=float, default=0.0, help="share of wrong labels in the batch in the middle")
    parser.add_argument("--rows", type=Path, metavar="JSONL", help="keeps the steps, to be resumed")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--folder", type=Path, help="where temporary files go (about 1 GB)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="headstart-growth-", dir=given.folder) as aside:
        steps = measure(given.photographs.resolve(), Path(aside), given)
    summary = summarise(steps)
    if given.markdown:
        given.markdown.write_text(markdown(steps, summary), encoding="utf-8")
    print(json.dumps(summary, indent=2))
    return 1 if summary["behind_always_promote"] or summary["worse_than_the_one_before"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
