"""A batch as files that people label from: Label Studio's import format, its labelling interface, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import pandas as pd

CHOICE, IMAGE = "label", "image"


def label_studio_tasks(batch: pd.DataFrame, model: str) -> list[dict[str, Any]]:
    """Tasks with a prediction each, which a person confirms or changes.

    Format: https://labelstud.io/guide/predictions. Local files are served by Label Studio's local storage, whose root
    has to be a folder above them; those of object stores are named by their URL.

    Args:
        batch: see `tasks.pool.batches.SCHEMA`.
        model: what the prediction is called, such as 'clothing 3'.
    """
    return [
        {
            "data": {IMAGE: _address(row["uri"]), "path": row["path"], "reason": row["reason"]},
            "predictions": [
                {
                    "model_version": model,
                    "score": round(float(row["probability"]), 6),
                    "result": [
                        {
                            "from_name": CHOICE,
                            "to_name": IMAGE,
                            "type": "choices",
                            "value": {"choices": [row["label"]]},
                        }
                    ],
                }
            ],
        }
        for row in batch.to_dict("records")
    ]


def label_studio_interface(labels: Sequence[str]) -> str:
    """Label Studio's labelling interface for these classes, which names what the tasks' predictions name."""
    choices = "\n".join(f"    <Choice value={quoteattr(label)}/>" for label in labels)
    return (
        f'<View>\n  <Image name="{IMAGE}" value="${IMAGE}"/>\n'
        f'  <Choices name="{CHOICE}" toName="{IMAGE}" choice="single" showInLine="true">\n{choices}\n'
        "  </Choices>\n</View>\n"
    )


def label_table(batch: pd.DataFrame) -> pd.DataFrame:
    """The columns path (a full one, or a URL), reason, label, probability, second_label, second_probability."""
    columns = ["reason", "label", "probability", "second_label", "second_probability"]
    numbers = {name: batch[name].astype(float).round(4) for name in ("probability", "second_probability")}
    return batch.assign(**numbers, path=batch["uri"])[["path", *columns]]


def _address(uri: str) -> str:
    return uri if "://" in uri else f"/data/local-files/?d={quote(uri)}"
