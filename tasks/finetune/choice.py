"""`--auto`: the settings to try, their order, and the record of the search.

Coordinate descent: each round varies one kind of setting of the best trial so far. The cheapest rounds come first: all
but one only train a classifier on pooled features, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.config import CHOSEN, FOR_TEXTS, POOLED, Config, is_onnx_file
from tasks.finetune.trial import Trial, best, optimism
from tasks.modality.images.augmentation import UNFROZEN_VIEWS
from tasks.networks.registry import get_backbone
from tasks.records import Run, Snapshot
from tasks.storage.repository import champion, read_manifest

RECORD = "auto.json"  # in the run's folder
ROUNDS = ("backbone", "head", "regularisation", "features", "heads", "layers", "views")
# By the task. Of features the widest first, of whose rows those of the others are copied.
HIDDEN_UNITS = {"image": (128, 0), "text": (FOR_TEXTS["finetune.hidden_units"], 0)}
FEATURES = {"image": (5, 2, "last"), "text": (FOR_TEXTS["backbone.features"], 1, "last")}
HEADS = (1, 3)
REGULARISATIONS = (
    {"finetune.dropout": 0.4, "finetune.mixup": 0.0},
    {"finetune.dropout": 0.6, "finetune.mixup": 0.0},
    {"finetune.dropout": 0.4, "finetune.mixup": 0.4},
)


def candidates(config: Config, step: str, current: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings that a round tries.

    Args:
        step: one of `ROUNDS`.
        current: the best settings so far; empty in the first round.
    """
    hidden_units, features = HIDDEN_UNITS[config.task], FEATURES[config.task]
    if step == "backbone":
        start = {"backbone.boundary": POOLED, "augment.views": 0, "finetune.hidden_units": hidden_units[0]}
        start |= {"finetune.heads": HEADS[0], "backbone.features": features[0]}
        return [{"backbone.name": name, **start, **REGULARISATIONS[0]} for name in config.backbones()]
    if step == "head":
        return [{**current, "finetune.hidden_units": units} for units in hidden_units]
    if step == "regularisation":
        return [{**current, **regularisation} for regularisation in REGULARISATIONS]
    if step == "features":
        return [{**current, "backbone.features": layers} for layers in features]
    if step == "heads":
        several = HEADS if current["finetune.hidden_units"] else HEADS[:1]
        return [{**current, "finetune.heads": heads} for heads in several]
    if config.task == "text":  # they have no other views, and no layers of theirs are trained
        return [current]
    viewed = {**current, "augment.views": UNFROZEN_VIEWS}
    if step == "layers":
        name = current["backbone.name"]
        lower = "" if is_onnx_file(name) else get_backbone(name).boundary
        return [current, {**viewed, "backbone.boundary": lower}] if lower else [current]
    # Trained layers above a lower boundary have the views already; otherwise that trial's extraction also made the
    # pooled features of the views.
    return [current, viewed] if current["backbone.boundary"] == POOLED else [current]


def search_record(run: Run, snapshot: Snapshot, trials: Sequence[Trial]) -> dict[str, Any]:
    """The record of a search: all trials and the choice."""
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
                "loss": round(trial.loss, 4) if trial.losses else None,  # not trained where it exceeds the budget
                "accuracy": round(trial.accuracy, 4) if trial.losses else None,
                "latency_ms": trial.latency_ms,
                "size_mb": trial.size_mb,
                "seconds": trial.seconds,
                "fits": trial.fits(limits),
            }
            for trial in trials
        ],
    }


def valid_choice(run: Run, snapshot: Snapshot) -> dict[str, Any] | None:
    """The record of the champion's search, if it is still valid; None where a new search is needed.

    It is valid while the classes and the rest of the configuration are unchanged, and the number of images has grown
    by less than `auto.again_at_growth` since.
    """
    version = champion(run.workspace, run.name)
    lineage = read_manifest(run.workspace, run.name, version)["lineage"] if version is not None else {}
    record = lineage.get("auto")
    if not record or lineage["config_digest"] != run.config.digest() or record["labels"] != list(snapshot.labels):
        return None
    if set(record["chosen"]) != set(CHOSEN):  # a search that decided other keys
        return None
    grown = snapshot.images >= record["images"] * (1 + run.config.auto.again_at_growth)
    return None if grown and snapshot.images > record["images"] else record


def with_choice(config: Config, record: dict[str, Any]) -> Config:
    """The configuration with the chosen settings; keeps the list of backbones to choose from."""
    chosen = {key: record["chosen"][key] for key in CHOSEN}
    return config.with_keys({**chosen, "auto.backbones": config.backbones()})


def choice_text(record: dict[str, Any], run_id: str) -> str:
    """The table of trials as text."""
    rows: list[tuple[str, ...]] = [("", *(key.split(".")[1] for key in CHOSEN), "loss", "accuracy", "ms", "MB", "s")]
    for trial in record["trials"]:
        flag = "*" if trial["settings"] == record["chosen"] else "" if trial["fits"] else "over budget"
        settings = (str(trial["settings"][key]).rsplit("/")[-1] for key in CHOSEN)  # a file without its folder
        results = ("" if trial[key] is None else f"{trial[key]:.3f}" for key in ("loss", "accuracy"))
        cost = (f"{trial['latency_ms']:.1f}", f"{trial['size_mb']:.1f}", f"{trial['seconds']:.0f}")
        rows.append((flag, *settings, *results, *cost))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    reused = (
        "" if record["run_id"] == run_id else f" This is the choice of run {record['run_id']}, which is still valid."
    )
    lines.append(
        f"* is used: the lowest loss of {len(record['trials'])} trials on {record['validation_images']} validation "
        "images (layers above a lower boundary were trained only briefly).\n"
        "The accuracy of the choice is optimistic: chosen on one half of validation, it was "
        f"{100 * record['optimism']:.1f} points lower on the other half. Test images were not used.{reused}"
    )
    return "\n".join(lines)
