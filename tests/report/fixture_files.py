"""What the stages of a run wrote: the summary, the decision, the training, the findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.records import Run
from tasks.storage.quarantine import LeftOut

SNAPSHOT = "5f0c3a9be2d14477a1c8"


def _accuracy(rows: list[dict[str, Any]], split: str) -> dict[str, float]:
    judged = [row for row in rows if row["split"] == split]
    share = sum(row["predicted"] == row["label"] for row in judged) / max(1, len(judged))
    return {"accuracy": share, "macro_f1": share - 0.006, "ece": 0.021, "n": len(judged)}


def summary(run: Run, labels: Sequence[str], rows: list[dict[str, Any]], verdict: str) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "verdict": verdict,
        "reasons": _reasons(verdict),
        "name": run.name,
        "version": 3,
        "model": "models/clothing/3/model.onnx",
        "report": run.path("report.html"),
        "snapshot": SNAPSHOT,
        "images": {"total": 3409, "new": 30, "quarantined": 3, "embedded": 60},
        "metrics": {"test": _accuracy(rows, "test"), "validation": _accuracy(rows, "validation")},
        "timings_s": {
            "total": 41.2,
            "ingest": 2.1,
            "validate": 8.4,
            "extract": 18.3,
            "finetune": 5.9,
            "evaluate": 3.8,
            "export": 1.9,
            "publish": 0.3,
        },
        "labels": list(labels),
        "source": run.source,
        "started_at": run.started_at,
        "config": run.config.model_dump(mode="json", by_alias=True),
        "lineage": {
            "snapshot": SNAPSHOT,
            "recipe": "9b1d7c02e4aa",
            "head_digest": "d41d8cd98f00b204e9800998ecf8427e",
            "config_digest": run.config.digest(),
            "libraries": {"keras": "3.15.1", "onnxruntime": "1.31.1", "tensorflow": "2.21.0"},
        },
    }


def _reasons(verdict: str) -> list[str]:
    return {
        "promoted": ["test accuracy is not worse than the champion's by 2 points or more (one-sided 95 %)"],
        "refused": [
            "min_class_recall: 'skirt' has recall 0.42 on test, below the floor of 0.50",
            "not_worse_than_champion: 4.1 points worse than version 2 on the same 372 images",
        ],
        "unchanged": ["no image is new since run 20261120T093000-clothing-77aa01, and the configuration is the same"],
        "invalid-data": ["38 % of all files are quarantined; at most 20 % may be (validate.max_quarantined_share)"],
    }[verdict]


def decision(
    labels: Sequence[str], rows: list[dict[str, Any]], verdict: str, champion_accuracy: float | None
) -> dict[str, Any]:
    refused = verdict == "refused"
    compared = champion_accuracy is not None
    gate = lambda name, passed, value, threshold, reason, interval=None: {  # noqa: E731 - a table reads best so
        "name": name,
        "passed": passed,
        "value": value,
        "threshold": threshold,
        "reason": reason,
        "interval": interval,
        "evidence": "model.onnx on 372 test images",
    }
    return {
        "promote": verdict == "promoted",
        "verdict": verdict,
        "reasons": _reasons(verdict),
        "gates": [
            gate("min_accuracy", True, 0.9032, 0.8, "test accuracy 0.9032 is at least 0.80"),
            gate(
                "min_class_recall",
                not refused,
                0.42 if refused else 0.71,
                0.5,
                "the lowest recall is that of 'skirt'",
                [0.31, 0.55] if refused else [0.6, 0.8],
            ),
            gate(
                "onnx_parity",
                True,
                3.1e-7,
                1e-4,
                "labels agree on all 372 images; probabilities within 3.1e-07",
            ),
            gate(
                "not_worse_than_champion",
                (not refused) if compared else None,
                0.011 if compared else None,
                -0.02 if compared else None,
                "11 won, 7 lost of 372; McNemar p = 0.48" if compared else "there is no champion yet",
            ),
        ],
        "metrics": {"test": _accuracy(rows, "test"), "validation": _accuracy(rows, "validation")},
        "champion_version": 2 if compared else None,
        "comparison": _comparison() if compared else None,
        "all_images": _all_images() if compared else None,
        "per_class": {},
        "class_comparisons": _class_comparisons(labels) if compared else [],
        "calibration": {
            "temperature": 0.87,
            "test_before": 0.081,
            "test": 0.021,
            "test_by_chance": 0.033,
            "validation_cross_fitted": 0.024,
        },
        "robustness": [
            {
                "kind": kind,
                "strength": strength,
                "n": 48,
                "accuracy_before": 0.9375,
                "accuracy": 0.9375 - drop,
                "drop": drop,
                "interval": [drop - 0.06, drop + 0.06],
            }
            for kind, strength, drop in (("JPEG", "quality 60", 0.0), ("rotation", "5 degrees to either side", 0.0417))
        ],
        "latency": {
            "runs": 87,
            "image_size_px": 224,
            "median_ms": 6.9,
            "p95_ms": 7.2,
            "interval_ms": [7.1, 8.1],
        },
        "size_bytes": 9_412_345,
    }


def _comparison() -> dict[str, Any]:
    return {
        "outcome": "equivalent",
        "n": 372,
        "won": 11,
        "lost": 7,
        "champion_accuracy": 0.892,
        "challenger_accuracy": 0.903,
        "difference": 0.011,
        "low": -0.009,
        "high": 0.031,
        "p_value": 0.4807,
    }


def _all_images() -> dict[str, Any]:
    def interval(n: int, difference: float, error: float) -> dict[str, Any]:
        return {"n": n, "difference": difference, "error": error}

    return {
        "outcome": "better",
        "images": interval(3409, 0.018, 0.006),
        "test": interval(372, 0.011, 0.012),
        "old": interval(2737, 0.016, 0.007),
        "new": interval(300, 0.043, 0.021),
        "won": 121,
        "lost": 60,
        "champion_accuracy": 0.872,
        "challenger_accuracy": 0.89,
        "agree": True,
        "new_labels": {"n": 300, "accuracy": 0.83, "expected": 0.86, "contradict": False},
        "obstacles": [],
    }


def _class_comparisons(labels: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"label": label, "n": 37, "won": place, "lost": 3, "p_value": min(1.0, 0.2 * (place + 1))}
        for place, label in enumerate(labels[:20])
    ]


def learning_curve(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "points": [
            {"images": images, "accuracy": share} for images, share in ((682, 0.752), (1364, 0.801), (2727, 0.836))
        ],
        "gain": 0.035,
        "gain_interval": [0.026, 0.044],
        "next_gain": 0.025,
        "classes": [
            {"label": label, "images": 112, "recall": 0.71, "gain": 0.07, "gain_interval": [0.02, 0.12]}
            for label in labels[:2]
        ],
    }


def history() -> dict[str, Any]:
    epochs = [
        {
            "epoch": epoch,
            "loss": 1.9 * 0.86**epoch + 0.5,
            "accuracy": 0.97 - 0.5 * 0.8**epoch,
            "val_loss": 1.7 * 0.85**epoch + 0.68 + 0.004 * max(0, epoch - 18),
            "val_accuracy": 0.905 - 0.36 * 0.74**epoch + 0.004 * ((epoch * 7) % 3 - 1),
            "learning_rate": 0.003,
        }
        for epoch in range(1, 27)
    ]
    return {"epochs": epochs, "best_epoch": 18, "temperature": 0.8731}


def expectations() -> list[dict[str, Any]]:
    met = {"severity": "stop", "success": True, "unexpected_count": 0, "examples": []}
    return [
        {
            **met,
            "expectation": "expect_table_row_count_to_be_between",
            "column": None,
            "observed": 3409,
            "note": "There are images at all",
        },
        {
            **met,
            "expectation": "expect_column_values_to_not_be_null",
            "column": "label",
            "observed": "0 % null",
            "note": "",
        },
        {
            "expectation": "expect_column_values_to_be_between",
            "column": "width_px",
            "severity": "warn",
            "success": False,
            "observed": 0.1,
            "unexpected_count": 4,
            "examples": [{"path": f"hat/{width}.jpg", "value": width} for width in (31, 28, 30, 12)],
            "note": "Images are at least 32 px wide",
            "allowed": "at least 32",
        },
    ]


def suspects(labels: Sequence[str], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            **{key: row[key] for key in ("sha256", "path", "uri", "label")},
            "split": ("train", "test")[index % 2],
            "suggested": labels[(labels.index(row["label"]) + 1) % len(labels)],
            "probability": 0.0312,
            "suggested_probability": 0.9154 - index / 100,
        }
        for index, row in enumerate(rows[:30])
    ]


def left_out(rows: list[dict[str, Any]]) -> list[LeftOut]:
    truncated = "the image is truncated or damaged: image file is truncated ({} bytes not processed)"
    blank = "contrast is 0.0, expected at least 0.01 (not-blank: standard deviation of grey, 0 (blank) to 0.5)"
    return [
        LeftOut("hat/half.jpg", "aa" * 32, "hat", truncated.format(12)),
        LeftOut("hat/<b>bold</b>.jpg", "ab" * 32, "hat", truncated.format(7)),
        LeftOut("shirt/notes.jpg", "ac" * 32, "shirt", "not an image of a supported kind (JPEG, PNG)"),
        LeftOut("shirt/grey.jpg", "ad" * 32, "shirt", blank, releasable=True, uri=rows[0]["uri"]),
    ]
