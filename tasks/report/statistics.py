"""The statistics of the charts: confusions, reliability, changed predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.report.evidence import Prediction


@dataclass(frozen=True)
class ConfusedPair:
    """`count` images of class `label` were taken for `predicted`: `share` of the class."""

    label: str
    predicted: str
    count: int
    share: float


def confusion_counts(predictions: Sequence[Prediction]) -> Counter[tuple[str, str]]:
    """How many images of each (given label, predicted label)."""
    return Counter((p.label, p.predicted) for p in predictions)


def most_confused(predictions: Sequence[Prediction], limit: int = 12) -> list[ConfusedPair]:
    """The wrong (label, predicted) pairs, by count, then by share of the class."""
    of_class = Counter(p.label for p in predictions)
    pairs = [
        ConfusedPair(label, predicted, count, count / of_class[label])
        for (label, predicted), count in confusion_counts(predictions).items()
        if label != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.share, pair.label, pair.predicted))[:limit]


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions whose probability lies in [low, high): their mean probability, and their accuracy."""

    low: float
    high: float
    n: int
    confidence: float  # mean probability of the predicted class
    accuracy: float


def reliability_bins(claims: Sequence[tuple[float, bool]], bins: int = 10) -> list[ReliabilityBin]:
    """Equal-width bins of the predicted probabilities, without empty ones (Guo et al. 2017).

    Args:
        claims: the predicted class's probability, and whether it was right, of each image.
    """
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for claim in claims:
        members[min(int(claim[0] * bins), bins - 1)].append(claim)
    return [
        ReliabilityBin(
            low=index / bins,
            high=(index + 1) / bins,
            n=len(group),
            confidence=sum(claimed for claimed, _ in group) / len(group),
            accuracy=sum(right for _, right in group) / len(group),
        )
        for index, group in enumerate(members)
        if group
    ]


def flipped(predictions: Sequence[Prediction]) -> tuple[list[Prediction], list[Prediction]]:
    """(won, lost): images that only the challenger, and that only the champion, gets right; most confident first."""
    compared = [p for p in predictions if p.champion_predicted is not None]
    won = [p for p in compared if p.correct and p.champion_predicted != p.label]
    lost = [p for p in compared if not p.correct and p.champion_predicted == p.label]
    return sorted(won, key=lambda p: -p.probability), sorted(lost, key=lambda p: -p.probability)


def worst_mistakes(predictions: Sequence[Prediction], limit: int) -> list[Prediction]:
    """The most confident wrong predictions."""
    wrong = [p for p in predictions if not p.correct]
    return sorted(wrong, key=lambda p: (-p.probability, p.path))[:limit]


# Shares of answers that are kept; down to the surer half, below which a share of few images means little.
COVERAGES = tuple(round(1 - 0.025 * step, 3) for step in range(21))


def right_by_share(answers: Sequence[tuple[float, bool]]) -> list[float]:
    """The share right of the surest answers, at each of `COVERAGES` (risk against coverage: El-Yaniv & Wiener 2010).

    Args:
        answers: how sure each is, and whether it is right; at least one.
    """
    right = [correct for _, correct in sorted(answers, key=lambda answer: -answer[0])]
    kept = [max(1, round(share * len(right))) for share in COVERAGES]
    return [sum(right[:count]) / count for count in kept]
