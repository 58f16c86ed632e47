"""`--auto`: which settings are tried, in which order, and what is kept of the choice.

One thing at a time, each beside the best so far (coordinate descent), the cheapest first: all but one train a
classifier on pooled features, seconds each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.config import CHOSEN, POOLED, Config
from tasks.finetune.trial import Trial, best, optimism
from tasks.modality.augmentation import UNFROZEN_VIEWS
from tasks.networks.registry import get_backbone
from tasks.records import Run, Snapshot
from tasks.storage.repository import champion, read_manifest

RECORD = "auto.json"  # in the run's folder
ROUNDS = ("backbone", "head", "regularisation", "layers", "views")
HIDDEN_UNITS = (256, 0)
REGULARISATIONS = (
    {"finetune.dropout": 0.4, "finetune.mixup": 0.0},
    {"finetune.dropout": 0.6, "finetune.mixup": 0.0},
    {"finetune.dropout": 0.4, "finetune.mixup": 0.4},
)


def candidates(config: Config, step: str, current: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings that a step tries, beside those that it starts from.

    Args:
        step: one of `ROUNDS`.
        current: the best so far; empty in the first round.
    """
    if step == "backbone":
        start = {"backbone.boundary": POOLED, "augment.views": 0, "finetune.hidden_units": HIDDEN_UNITS[0]}
        return [{"backbone.name": name, **start, **REGULARISATIONS[0]} for name in config.backbones()]
    if step == "head":
        return [{**current, "finetune.hidden_units": units} for units in HIDDEN_UNITS]
    if step == "regularisation":
        return [{**current, **regularisation} for regularisation in REGULARISATIONS]
    viewed = {**current, "augment.views": UNFROZEN_VIEWS}
    if step == "layers":
        lower = get_backbone(current["backbone.name"]).boundary
        return [current, {**viewed, "backbone.boundary": lower}] if lower else [current]
    # Where the lower layers won they had the views; where not, their pass through the feature extractor made the pooled
    # ones, too.
    return [current, viewed] if current["backbone.boundary"] == POOLED else [current]


def record_of(run: Run, snapshot: Snapshot, trials: Sequence[Trial]) -> dict[str, Any]:
    """What is kept of a search: all that it tried and what it chose."""
    limits = run.config.auto
    chosen = best(trials, limits)
    return {
        "run_id": run.run_id,
        "snapshot": snapshot.id,
        "images": snapshot.images,
        "labels": list(snapshot.labels),
        "validation_images": len(chosen.losses),
        "chosen": chosen.settings,
        "optimism": round(optimism([trial for trial in trials if trial.fits(limits)]), 4),
        "trials": [
            {
                "settings": trial.settings,
                "loss": round(trial.loss, 4) if trial.losses else None,  # nothing was trained on what costs too much
                "accuracy": round(trial.accuracy, 4) if trial.losses else None,
                "latency_ms": trial.latency_ms,
                "size_mb": trial.size_mb,
                "seconds": trial.seconds,
                "fits": trial.fits(limits),
            }
            for trial in trials
        ],
    }


def standing_choice(run: Run, snapshot: Snapshot) -> dict[str, Any] | None:
    """The record of the champion's choice, where it still stands; None where there has to be a search.

    It stands while the configuration is the same, beside what was chosen, and so are the classes, and the images have
    not grown by `auto.again_at_growth` since it was made.
    """
    version = champion(run.workspace, run.name)
    lineage = read_manifest(run.workspace, run.name, version)["lineage"] if version is not None else {}
    record = lineage.get("auto")
    if not record or lineage["config_digest"] != run.config.digest() or record["labels"] != list(snapshot.labels):
        return None
    grown = snapshot.images >= record["images"] * (1 + run.config.auto.again_at_growth)
    return None if grown and snapshot.images > record["images"] else record


def with_choice(config: Config, record: dict[str, Any]) -> Config:
    """The configuration with what was chosen filled in; the backbones that there were to choose from stay in it."""
    chosen = {key: record["chosen"][key] for key in CHOSEN}
    return config.with_keys({**chosen, "auto.backbones": config.backbones()})


def choice_text(record: dict[str, Any], run_id: str) -> str:
    """The table of what was tried, for a person."""
    rows: list[tuple[str, ...]] = [("", *(key.split(".")[1] for key in CHOSEN), "loss", "accuracy", "ms", "MB", "s")]
    for trial in record["trials"]:
        mark = "*" if trial["settings"] == record["chosen"] else "" if trial["fits"] else "over budget"
        settings = (str(trial["settings"][key]) for key in CHOSEN)
        learnt = ("" if trial[key] is None else f"{trial[key]:.3f}" for key in ("loss", "accuracy"))
        cost = (f"{trial['latency_ms']:.1f}", f"{trial['size_mb']:.1f}", f"{trial['seconds']:.0f}")
        rows.append((mark, *settings, *learnt, *cost))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    made = "" if record["run_id"] == run_id else f" The choice of run {record['run_id']} stands."
    lines.append(
        f"* is used: the lowest loss of {len(record['trials'])} on {record['validation_images']} validation images "
        "(layers above a lower boundary were trained for a short while only).\n"
        "Validation flatters what it chose: chosen on half of it, accuracy on the other half was "
        f"{100 * record['optimism']:.1f} points lower. Test images took no part.{made}"
    )
    return "\n".join(lines)
