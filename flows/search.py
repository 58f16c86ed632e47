"""`--auto`: the tasks of a retrain, run for one combination of settings after another, and the choice among them.

Each trial is kept under the digest of all that it depends on, and extraction stores what it makes: a search that was
killed goes on where it was, and the retrain that follows finds the features of what was chosen.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from tasks.augment.task import choose_policy
from tasks.extract.task import extract_features, make_extractor
from tasks.finetune.choice import (
    RECORD,
    ROUNDS,
    candidates,
    choice_text,
    record_of,
    standing_choice,
    with_choice,
)
from tasks.finetune.task import try_extractor, try_head
from tasks.finetune.trial import Trial, best
from tasks.records import Run, Snapshot


def auto(run: Run, snapshot: Snapshot) -> tuple[Run, int]:
    """The run with the configuration that validation chose; unchanged where the configuration leaves nothing open.

    Returns:
        The run, and how many images the trials embedded.

    Raises:
        ConfigError: no backbone keeps the latency and size budget.
    """
    if not run.config.auto.enabled:
        return run, 0
    embedded = 0
    if not (record := standing_choice(run, snapshot)):
        trials, embedded = _search(run, snapshot)
        record = record_of(run, snapshot, trials)
    run.workspace.write_json(run.path(RECORD), record)
    print(choice_text(record, run.run_id), file=sys.stderr)
    return replace(run, config=with_choice(run.config, record)), embedded


def _search(run: Run, snapshot: Snapshot) -> tuple[list[Trial], int]:
    """The trials, and how many images were embedded: each counts once, however many feature extractors and views saw
    it."""
    trials: list[Trial] = []
    embedded = 0
    current: dict[str, Any] = {}
    for each in ROUNDS:
        tried = [trial.settings for trial in trials]
        new = [settings for settings in candidates(run.config, each, current) if settings not in tried]
        for settings in new:
            trial, images = _try(run, snapshot, settings)
            trials.append(trial)
            embedded = max(embedded, images)
        current = best(trials, run.config.auto).settings
    return trials, embedded


def _try(run: Run, snapshot: Snapshot, settings: dict[str, Any]) -> tuple[Trial, int]:
    attempt = replace(run, config=run.config.with_keys(settings))
    policy = choose_policy(attempt)
    extractor = make_extractor(attempt, snapshot, policy)
    if run.config.auto.latency_ms or run.config.auto.size_mb:
        cost = try_extractor(attempt, extractor)
        if not cost.fits(run.config.auto):
            return cost, 0
    features = extract_features(attempt, snapshot, extractor, policy)
    return try_head(attempt, snapshot, extractor, features), features.embedded
