"""`--auto`: the tasks of a retrain, run for one combination of settings after another, and the choice among them.

Each trial is kept under the digest of all that it depends on, and extraction stores what it makes: an
interrupted search resumes, and the retrain that follows finds the features of what was chosen.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from tasks.augment.task import choose_policy
from tasks.extract.task import copy_features, extract_features, make_extractor
from tasks.finetune.choice import (
    FEATURES,
    RECORD,
    ROUNDS,
    candidates,
    choice_text,
    search_record,
    valid_choice,
    with_choice,
)
from tasks.finetune.task import measure_cost, try_head
from tasks.finetune.trial import Trial, best
from tasks.orchestration import timed
from tasks.records import Run, Snapshot


def choose_settings(run: Run, snapshot: Snapshot) -> Run:
    """The run with the configuration that validation chose; unchanged where the configuration leaves nothing open.

    Raises:
        ConfigError: no backbone keeps the latency and size budget.
    """
    if not run.config.auto.enabled:
        return run
    with timed("auto"):
        record = valid_choice(run, snapshot) or search_record(run, snapshot, _search(run, snapshot))
    run.workspace.write_json(run.path(RECORD), record)
    print(choice_text(record, run.run_id), file=sys.stderr)
    return replace(run, config=with_choice(run.config, record))


def _search(run: Run, snapshot: Snapshot) -> list[Trial]:
    trials: list[Trial] = []
    current: dict[str, Any] = {}
    for each in ROUNDS:
        tried = [trial.settings for trial in trials]
        new = [settings for settings in candidates(run.config, each, current) if settings not in tried]
        trials += [_try(run, snapshot, settings) for settings in new]
        current = best(trials, run.config.auto).settings
    return trials


def _try(run: Run, snapshot: Snapshot, settings: dict[str, Any]) -> Trial:
    attempt = replace(run, config=run.config.with_keys(settings))
    policy = choose_policy(attempt)
    extractor = make_extractor(attempt, snapshot, policy)
    if run.config.auto.latency_ms or run.config.auto.size_mb:
        cost = measure_cost(attempt, extractor)
        if not cost.fits(run.config.auto):
            return cost
    if settings["backbone.features"] != FEATURES[run.config.task][0]:
        widest = replace(run, config=attempt.config.with_keys({"backbone.features": FEATURES[run.config.task][0]}))
        copy_features(attempt, snapshot, make_extractor(widest, snapshot, policy), extractor)
    return try_head(attempt, extract_features(attempt, snapshot, extractor, policy))
