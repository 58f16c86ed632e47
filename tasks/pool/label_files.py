"""A batch as files that people label from: Label Studio's import format, its labelling interface, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import pandas as pd

from tasks.modality.items import read_bytes

CHOICE = "label"
TAGS = {"image": "Image", "text": "Text"}  # of Label Studio, by the name of the item in a task's data


def label_studio_tasks(batch: pd.DataFrame, model: str, task: str) -> list[dict[str, Any]]:
    """Tasks with a prediction each, which a person confirms or changes.

    Format: https://labelstud.io/guide/predictions. Local files are served by Label Studio's local storage, whose root
    has to be a folder above them; those of object stores are named by their URL.

    Args:
        batch: see `tasks.pool.batches.SCHEMA`.
        model: what the prediction is called, such as 'clothing 3'.
        task: image or text.
    """
    return [
        {
            "data": {task: _shown(row["uri"], task), "path": row["path"], "reason": row["reason"]},
            "predictions": [
                {
                    "model_version": model,
                    "score": round(float(row["probability"]), 6),
                    "result": [
                        {
                            "from_name": CHOICE,
                            "to_name": task,
                            "type": "choices",
                            "value": {"choices": [row["label"]]},
                        }
                    ],
                }
            ],
        }
        for row in batch.to_dict("records")
    ]


def label_studio_interface(labels: Sequence[str], task: str) -> str:
    """Label Studio's labelling interface for these classes, which names what the tasks' predictions name."""
    choices = "\n".join(f"    <Choice value={quoteattr(label)}/>" for label in labels)
    return (
        f'<View>\n  <{TAGS[task]} name="{task}" value="${task}"/>\n'
        f'  <Choices name="{CHOICE}" toName="{task}" choice="single" showInLine="true">\n{choices}\n'
        "  </Choices>\n</View>\n"
    )


def label_table(batch: pd.DataFrame, task: str) -> pd.DataFrame:
    """The columns path (a full one, or a URL; of a text in a table its line), reason, label, probability,
    second_label, second_probability; and of texts, text."""
    columns = ["reason", "label", "probability", "second_label", "second_probability"]
    numbers = {name: batch[name].astype(float).round(4) for name in ("probability", "second_probability")}
    if task == "text":
        texts = [read_bytes(uri).decode(errors="replace") for uri in batch["uri"]]
        return batch.assign(**numbers, text=texts)[["path", *columns, "text"]]
    return batch.assign(**numbers, path=batch["uri"])[["path", *columns]]


def _shown(uri: str, task: str) -> str:
    """A text itself, or the address of an image."""
    if task == "text":
        return read_bytes(uri).decode(errors="replace")
    return uri if "://" in uri else f"/data/local-files/?d={quote(uri)}"
