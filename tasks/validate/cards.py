"""What a person is shown to review labels (`headstart review`): `review.json`, the most doubtful label first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tasks.storage.rows import Rows
from tasks.validate.label_issues import LabelErrors
from tasks.validate.neighbours import nearest

FILE = "review.json"
CARDS = 400
LEAST_WRONG = 0.02  # probability that a label is wrong, below which nobody is asked
NEIGHBOURS = 6
COPIES = 3
PLACE = ["sha256", "path", "uri", "label"]


def describe_rows(
    table: pd.DataFrame, rows: np.ndarray, errors: LabelErrors, targets: np.ndarray, labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows whose label is doubtful: {sha256, path, uri, split, label, suggested, wrong (the probability that the label
    is), probability (of the given label, by the features alone), suggested_probability}.

    Args:
        table: columns sha256, path, uri, split, label.
        rows: which of its rows, int [R], in the order of the result.
        targets: the given classes, int [N].
        labels: the classes' names, in index order.
    """
    suggested = errors.suggested[rows]
    found = table.loc[rows, ["sha256", "path", "uri", "split", "label"]].assign(
        suggested=np.array(labels, object)[suggested],
        wrong=errors.wrong[rows].round(4).astype(float),
        probability=errors.probabilities[rows, targets[rows]].round(4).astype(float),
        suggested_probability=errors.probabilities[rows, suggested].round(4).astype(float),
    )
    return found.to_dict("records")  # type: ignore[return-value]


def review_cards(
    table: pd.DataFrame,
    groups: pd.Series,
    features: np.ndarray | Rows,
    errors: LabelErrors,
    targets: np.ndarray,
    labels: Sequence[str],
    confirmed: np.ndarray,
) -> list[dict[str, Any]]:
    """Cards, the most doubtful label first: what `describe_rows` gives, and `neighbours`, the images with the most
    similar features, and `copies`, near-duplicates with another label: lists of {sha256, path, uri, label}.

    Args:
        groups: of near-duplicates, of each row.
        confirmed: bool [N]: a person has decided about the label, so nobody is asked again.
    """
    doubt = np.where(confirmed, 0, np.maximum(errors.wrong, _doubt_by_copies(table["label"], groups, errors.wrong)))
    order = np.argsort(-doubt, kind="stable")[:CARDS]
    rows = order[doubt[order] >= LEAST_WRONG]
    others, _ = nearest(features, rows, NEIGHBOURS)
    cards = describe_rows(table, rows, errors, targets, labels)
    shown = groups[groups.isin(groups.iloc[rows])]
    members = {name: part.index.to_numpy() for name, part in shown.groupby(shown)}
    for card, row, near in zip(cards, rows.tolist(), others, strict=True):
        copies = members[groups.iloc[row]]
        copies = copies[(table["label"].iloc[copies] != card["label"]).to_numpy()][:COPIES]
        card["copies"] = _places(table, copies)
        card["neighbours"] = _places(table, near[~np.isin(near, copies)])
    return cards


def _doubt_by_copies(given: pd.Series, groups: pd.Series, wrong: np.ndarray) -> np.ndarray:
    """0.5 for the most doubtful image of each group of near-duplicates with several labels, 0 for others, float [N].

    Of two copies with different labels one is wrong, and so it is as likely as not that the more doubtful one is.
    (Where a fixed camera takes many near-duplicates, both may be right: then a person says so.)
    """
    doubt = np.zeros(len(wrong))
    mixed = given.groupby(groups).transform("nunique").to_numpy() > 1
    if mixed.any():
        most = pd.Series(wrong, given.index)[mixed].groupby(groups[mixed]).idxmax()
        doubt[most.to_numpy()] = 0.5
    return doubt


def _places(table: pd.DataFrame, rows: np.ndarray) -> list[dict[str, str]]:
    return table.loc[rows, PLACE].to_dict("records")  # type: ignore[return-value]
