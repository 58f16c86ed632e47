"""All images as evidence between champion and challenger, where the test split has too few to decide.

- *Test* images: both files, as on the test split alone.
- *Old* images, that both models were trained or validated on: cross-fitted predictions of both.
- *New* images, that arrived since the champion: its file never saw them, so its predictions are fair (Dawid 1984,
  "Present Position and Potential Developments", calls such evidence prequential); the challenger's are cross-fitted.

Cross-fitted predictions are not independent: each head shares most of its training images with the others, and each is
another model than the file. Their variance is taken 1 + K / (K - 1) = 2.25 times (K = 5 folds; Nadeau and Bengio 2003,
"Inference for the Generalization Error"), and images of one group of near-duplicates count as one draw.
`expectations/README.md` has the error rates that were measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tasks.evaluate.classes import current_names
from tasks.evaluate.comparison import Interval, Outcome, agree, interval_of, outcome_by
from tasks.evaluate.new_labels import NewLabels, Since, ask_champion, since
from tasks.evaluate.thresholds import ChampionPolicy
from tasks.records import CrossFitted, Decision, Run
from tasks.storage.corrections import read_corrections
from tasks.storage.tables import read_table


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Two models' predictions for the same images, fair to both; arrays of [N]."""

    champion_right: np.ndarray  # bool
    challenger_right: np.ndarray
    test: np.ndarray  # bool; predicted by the files
    new: np.ndarray  # bool; of the others, those that the champion never saw
    groups: np.ndarray  # int, equal for near-duplicates


@dataclass(frozen=True, kw_only=True)
class AllImages:
    """What all images say; written to `decision.json` as `all_images`."""

    outcome: Outcome
    images: Interval
    test: Interval
    old: Interval
    new: Interval
    won: int
    lost: int
    champion_accuracy: float
    challenger_accuracy: float
    agree: bool  # the test split and the cross-fitted images differ by no more than chance explains
    new_labels: NewLabels
    obstacles: tuple[str, ...] = ()  # to promoting an undecided challenger whose data only grew


def compare_all(
    run: Run,
    decision: Decision,
    challenger: CrossFitted,
    champion: CrossFitted | None,
    policy: ChampionPolicy,
    calibration_error: float,
) -> AllImages:
    """The paired comparison on all images of the classes that both models have.

    Args:
        champion: None where it is not known how it was trained: then old images are no evidence.
        calibration_error: what the champion's probabilities may be wrong by.
    """
    version = decision.champion_version
    assert version is not None  # or there is nothing undecided
    rename, data = run.config.validation.rename, since(run, version, challenger.features.snapshot)
    new_labels, by_file = ask_champion(run, version, data.arrived, policy.confidence, calibration_error)
    tested = _test_predictions(run, decision)
    theirs = _labels(run, champion, rename) if champion else pd.Series(dtype=object)
    predictions = pd.DataFrame(
        {
            "champion": pd.concat([theirs[theirs.index.isin(data.past.index)], by_file, tested["champion_predicted"]]),
            "challenger": pd.concat([_labels(run, challenger, {}), tested["predicted"]]),
        }
    ).dropna()
    rows = data.shared[data.shared.index.isin(predictions.index)]
    found = compare_pairs(_pairs(rows, predictions.loc[rows.index], data.arrived.index), new_labels, policy)
    obstacles = (*_not_grown(run, decision, data, policy), *signs_of_worse(policy, found))
    return replace(found, obstacles=obstacles)


def compare_pairs(pairs: Pairs, new_labels: NewLabels, policy: ChampionPolicy) -> AllImages:
    """The outcome by all images together, and what each kind of them says."""
    won = pairs.challenger_right & ~pairs.champion_right
    lost = pairs.champion_right & ~pairs.challenger_right

    def interval(chosen: np.ndarray) -> Interval:
        differences = won.astype(int) - lost
        return interval_of(differences[chosen], pairs.groups[chosen], ~pairs.test[chosen])

    images, test = interval(np.ones(len(won), bool)), interval(pairs.test)
    outcome = outcome_by(
        images,
        margin=policy.non_inferiority_margin,
        confidence=policy.confidence,
        min_images=policy.min_paired_images,
    )
    return AllImages(
        outcome=outcome,
        images=images,
        test=test,
        old=interval(~pairs.test & ~pairs.new),
        new=interval(~pairs.test & pairs.new),
        won=int(won.sum()),
        lost=int(lost.sum()),
        champion_accuracy=_mean(pairs.champion_right),
        challenger_accuracy=_mean(pairs.challenger_right),
        agree=agree(test, interval(~pairs.test), policy.confidence),
        new_labels=new_labels,
    )


def signs_of_worse(policy: ChampionPolicy, found: AllImages) -> list[str]:
    """What speaks for worse, though it decides nothing: then a challenger is not promoted because its data grew."""
    signs, labels = [], found.new_labels
    if found.images.difference < -policy.non_inferiority_margin / 2:
        signs.append("it did worse on all images together by more than half the margin")
    if labels.contradict and found.new.low(policy.confidence) <= 0:
        signs.append(f"{labels.sentence()}, and the challenger does not predict them better; look at these labels")
    return signs


def grew(better: int, changed: int, before: int, policy: ChampionPolicy) -> bool:
    """Whether data only grew, by numbers of images: more are new, or corrected by a person, than are gone or relabelled
    in the source, which are few."""
    return better > changed and changed <= policy.max_changed_share * before


def _pairs(rows: pd.DataFrame, predictions: pd.DataFrame, arrived: pd.Index) -> Pairs:
    labels = rows["label"].to_numpy()
    return Pairs(
        champion_right=predictions["champion"].to_numpy() == labels,
        challenger_right=predictions["challenger"].to_numpy() == labels,
        test=(rows["split"] == "test").to_numpy(),
        new=rows.index.isin(arrived),
        groups=pd.factorize(rows["group"])[0],
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _labels(run: Run, fitted: CrossFitted, rename: dict[str, str]) -> pd.Series:
    """The cross-fitted label of each image, by digest, in the current names of the classes."""
    table = read_table(run.workspace, fitted.path)
    logits = np.stack(table["logits"].to_list()) if len(table) else np.zeros((0, 1))
    names = current_names(fitted.features.snapshot.labels, rename)
    return pd.Series(np.array(names, object)[logits.argmax(axis=1)], table["sha256"])


def _test_predictions(run: Run, decision: Decision) -> pd.DataFrame:
    table = read_table(
        run.workspace, f"{decision.folder}/predictions.parquet", ["sha256", "split", "predicted", "champion_predicted"]
    )
    return table[table["split"] == "test"].set_index("sha256")


def _not_grown(run: Run, decision: Decision, data: Since, policy: ChampionPolicy) -> list[str]:
    """What keeps the data from having only grown, or the settings from being the champion's."""
    lineage, extractor = data.manifest["lineage"], decision.candidate.head.features.extractor
    found = []
    settings = {**lineage["config"]["finetune"], "backbone": lineage["recipe"]}
    today = {**run.config.finetune.model_dump(mode="json", exclude={"seed"}), "backbone": extractor.head_key}
    if other := sorted(key for key in today if settings.get(key) != today[key]):
        found.append(f"it was made with other settings than the champion ({', '.join(other)})")
    now = data.table["label"].reindex(data.past.index).to_numpy()
    differs = now != np.array(current_names(data.past["label"], run.config.validation.rename), object)
    corrected = differs & data.past.index.isin(list(read_corrections(run.workspace).standing()))
    changed = int((differs & ~corrected).sum())
    better = int((~data.table.index.isin(data.past.index)).sum() + corrected.sum())
    if not grew(better, changed, len(data.past), policy):
        found.append(
            f"its data did not only grow: {better} images are new or corrected by a person, {changed} are gone or "
            "relabelled in the source"
        )
    return found
