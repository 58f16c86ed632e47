"""What is tried, in which order, what is chosen, and when a choice stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.config import CHOSEN, POOLED, Config, parse_config
from tasks.errors import ConfigError
from tasks.finetune import choice
from tasks.finetune.choice import ROUNDS, candidates, choice_text, search_record, valid_choice, with_choice
from tasks.finetune.trial import Trial, best, evaluated, optimism
from tasks.records import Snapshot
from tests.runs import make_run, make_snapshot_record

AUTO = parse_config({"auto": {"enabled": True, "backbones": ["mobilenet_v2", "embedded"]}})
SNAPSHOT = make_snapshot_record(make_run("w", "s"), labels=("a", "b"), images=100)

DEAR = Trial(settings=dict.fromkeys(CHOSEN), losses=[], correct=[], latency_ms=900, size_mb=500, seconds=0)


def trial(settings: dict[str, Any] | None = None, *, loss: float = 0.5, ms: float = 5, mb: float = 9) -> Trial:
    settings = settings or {"backbone.name": "embedded"}
    return Trial(
        settings=settings, losses=[loss] * 20, correct=[True] * 18 + [False] * 2, latency_ms=ms, size_mb=mb, seconds=1
    )


def searched(config: Config, loss_of: Any) -> list[Trial]:
    """A search over made-up losses."""
    trials: list[Trial] = []
    current: dict[str, Any] = {}
    for each in ROUNDS:
        tried = [done.settings for done in trials]
        trials += [trial(s, loss=loss_of(s)) for s in candidates(config, each, current) if s not in tried]
        current = best(trials, config.auto).settings
    return trials


def test_each_trial_settles_every_key_and_none_is_made_twice():
    trials = searched(AUTO, lambda s: 0.5)
    assert all(set(each.settings) == set(CHOSEN) for each in trials)
    assert len({str(each.settings) for each in trials}) == len(trials)
    assert all(AUTO.with_keys(each.settings) for each in trials)  # every value is in range


def test_the_search_finds_what_is_best_one_thing_at_a_time():
    wanted = {"backbone.name": "embedded", "finetune.hidden_units": 0, "backbone.boundary": "block_12_add"}
    trials = searched(AUTO, lambda s: 1 - 0.1 * sum(s[key] == value for key, value in wanted.items()))
    assert wanted.items() <= best(trials, AUTO.auto).settings.items()


def test_layers_are_unfrozen_only_of_the_chosen_backbone():
    trials = searched(AUTO, lambda s: 0.1 if s["backbone.name"] == "embedded" else 0.9)
    deep = [each.settings for each in trials if each.settings["backbone.boundary"] != POOLED]
    assert [settings["backbone.name"] for settings in deep] == ["embedded"]


def test_heads_are_averaged_before_anything_is_unfrozen_and_only_where_they_differ():
    trials = [each.settings for each in searched(AUTO, lambda s: 0.5 - 0.1 * (s["finetune.heads"] == 3))]
    lower = next(place for place, s in enumerate(trials) if s["backbone.boundary"] != POOLED)
    assert trials[lower]["finetune.heads"] == 3
    assert any(s["finetune.heads"] == 3 for s in trials[:lower])
    linear = searched(AUTO, lambda s: 0.1 if s["finetune.hidden_units"] == 0 else 0.9)
    assert {each.settings["finetune.heads"] for each in linear} == {1}


def test_fewer_layers_are_tried_of_the_chosen_backbone_before_heads_are_averaged():
    trials = [each.settings for each in searched(AUTO, lambda s: 0.5 - 0.1 * (s["backbone.features"] == "last"))]
    assert {s["backbone.features"] for s in trials} == {5, 2, "last"}
    assert next(s for s in trials if s["finetune.heads"] == 3)["backbone.features"] == "last"


def test_a_file_is_a_backbone_among_others_and_has_no_lower_boundary():
    config = AUTO.with_keys({"auto.backbones": ["mobilenet_v2", "/nets/lite2.onnx"]})
    trials = searched(config, lambda s: 0.1 if s["backbone.name"] == "/nets/lite2.onnx" else 0.9)
    assert best(trials, config.auto).settings["backbone.name"] == "/nets/lite2.onnx"
    assert {each.settings["backbone.boundary"] for each in trials} == {POOLED}
    record = search_record(make_run("w", "s"), SNAPSHOT, trials)
    assert " lite2.onnx " in choice_text(record, "r1")


def test_a_backbone_without_a_lower_boundary_keeps_its_classifier():
    config = AUTO.with_keys({"auto.backbones": ["convnext_tiny"]})
    assert {each.settings["backbone.boundary"] for each in searched(config, lambda s: 0.5)} == {POOLED}


def test_the_best_has_the_lowest_loss_within_the_budget():
    fast, good = trial(loss=0.4, ms=3, mb=5), trial(loss=0.3, ms=30, mb=90)
    limits = AUTO.auto.model_copy
    assert best([fast, good], AUTO.auto) is good
    assert best([fast, good], limits(update={"latency_ms": 10})) is fast
    assert best([fast, good], limits(update={"size_mb": 10})) is fast
    with pytest.raises(ConfigError, match=r"no backbone is within the budget.*embedded, takes 3\.0 ms and has 5\.0 MB"):
        best([fast, good], limits(update={"latency_ms": 1}))


def test_a_trial_is_evaluated_by_loss_and_hits_of_each_image():
    found = evaluated(DEAR, np.array([[2.0, 0.0], [2.0, 0.0]]), np.array([0, 1]), seconds=1)
    assert found.correct == [True, False]
    assert found.losses == pytest.approx([np.log(1 + np.exp(-2)), 2 + np.log(1 + np.exp(-2))], abs=1e-5)


def test_choosing_among_equals_is_optimistic_and_a_single_trial_is_not():
    """40 classifiers that are all right with probability 0.8: the one that looks best is no better than the others."""
    rng = np.random.default_rng(0)
    equal = [
        Trial(
            settings={},
            losses=np.where(right, 0.2, 1.6).tolist(),
            correct=right.tolist(),
            latency_ms=1,
            size_mb=1,
            seconds=1,
        )
        for right in rng.random((40, 200)) < 0.8
    ]
    assert 0.04 < optimism(equal) < 0.2
    assert abs(optimism(equal[:1])) < 0.01
    better = Trial(settings={}, losses=[0.01] * 200, correct=[True] * 200, latency_ms=1, size_mb=1, seconds=1)
    assert optimism([*equal, better]) == 0


def test_a_configuration_has_one_digest_before_and_after_its_choice():
    record = search_record(make_run("w", "photos", config={}), SNAPSHOT, searched(AUTO, lambda s: 0.5))
    chosen = with_choice(AUTO, record)
    assert chosen.digest() == AUTO.digest()
    assert chosen.backbones() == AUTO.backbones()
    assert chosen.with_keys({"finetune.seed": 3}).digest() != AUTO.digest()
    assert AUTO.with_keys({"auto.enabled": False, "auto.backbones": []}).digest() != AUTO.digest()
    other = AUTO.with_keys({"auto.backbones": []})  # chooses for the backbone that is named
    assert other.digest() != other.with_keys({"backbone.name": "embedded"}).digest()


@pytest.fixture
def champion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A run whose champion's manifest has the record of a choice."""
    run = make_run(tmp_path, "photos", config=AUTO.model_dump(by_alias=True))
    record = search_record(run, SNAPSHOT, searched(AUTO, lambda s: 0.5))
    lineage = {"auto": record, "config_digest": with_choice(AUTO, record).digest()}
    monkeypatch.setattr(choice, "champion", lambda workspace, name: 3)
    monkeypatch.setattr(choice, "read_manifest", lambda workspace, name, version: {"lineage": lineage})
    return run, record


def snapshot_of(images: int, labels: tuple[str, ...] = ("a", "b")) -> Snapshot:
    return make_snapshot_record(make_run("w", "s"), "t", labels=labels, images=images)


def test_a_choice_stands_while_little_is_new(champion: Any):
    run, record = champion
    assert valid_choice(run, SNAPSHOT) == record
    assert valid_choice(run, snapshot_of(124)) == record
    assert valid_choice(run, snapshot_of(60)) == record


def test_a_choice_is_made_again_for_much_new_data_other_classes_or_another_configuration(champion: Any):
    run, record = champion
    assert valid_choice(run, snapshot_of(125)) is None
    assert valid_choice(run, snapshot_of(100, ("a", "b", "c"))) is None
    other = make_run("w", "photos", config=run.config.with_keys({"finetune.seed": 1}).model_dump(by_alias=True))
    assert valid_choice(other, SNAPSHOT) is None
    del record["chosen"]["backbone.features"]  # of a search that did not decide it
    assert valid_choice(run, SNAPSHOT) is None


def test_without_a_champion_there_is_no_choice(tmp_path: Path):
    run = make_run(tmp_path, "photos", config=AUTO.model_dump(by_alias=True))
    assert valid_choice(run, SNAPSHOT) is None


def test_the_table_shows_all_that_was_tried_and_how_optimistic_the_choice_is():
    run = make_run("w", "photos", config={"auto": {"enabled": True, "latency_ms": 10}})
    trials = searched(AUTO, lambda s: 0.5)
    record = search_record(run, SNAPSHOT, [*trials, trial(trials[0].settings | {"finetune.dropout": 0.1}, ms=11)])
    text = choice_text(record, run.run_id)
    assert len(text.splitlines()) == 1 + len(record["trials"]) + 2
    assert sum(line.startswith("*") for line in text.splitlines()[: len(record["trials"]) + 1]) == 1
    assert "over budget" in text
    assert "20 validation images" in text
    assert "Test images were not used" in text
    assert "This is the choice of run r1, which is still valid" in choice_text(record, "r2")


def test_what_exceeds_the_budget_is_shown_and_was_not_trained(tmp_path: Path):
    config = AUTO.with_keys({"auto.latency_ms": 100})
    good = trial(dict.fromkeys(CHOSEN, "x"))
    record = search_record(
        make_run(tmp_path, "photos", config=config.model_dump(by_alias=True)), SNAPSHOT, [DEAR, good]
    )
    assert record["chosen"] == good.settings
    assert (record["trials"][0]["fits"], record["trials"][0]["loss"]) == (False, None)
    [line] = [line for line in choice_text(record, "r").splitlines() if line.startswith("over budget")]
    assert "900.0" in line


def test_texts_have_no_views_and_no_layers_to_unfreeze_and_wider_heads():
    config = parse_config({"auto": {"enabled": True}}).with_task("text")
    [start] = candidates(config, "backbone", {})
    assert (start["finetune.hidden_units"], start["backbone.features"]) == (256, 3)
    assert candidates(config, "layers", start) == candidates(config, "views", start) == [start]
    assert [each["backbone.features"] for each in candidates(config, "features", start)] == [3, 1, "last"]
