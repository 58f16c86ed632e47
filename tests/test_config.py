"""The layers of the configuration, and what it says of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.config import Config, known_keys, load_config, parse_config, with_environment
from tasks.errors import ConfigError


def test_later_layers_win(tmp_path: Path):
    file = tmp_path / "retrain.toml"
    file.write_text("[finetune]\nepochs = 3\nseed = 4\nbatch_size = 5\n")
    environ = {"HEADSTART_FINETUNE__SEED": "40", "HEADSTART_FINETUNE__BATCH_SIZE": "50", "HEADSTART_WORKSPACE": "w"}

    config = load_config(file, environ=environ, overrides=["finetune.batch_size=500"])

    assert (config.finetune.epochs, config.finetune.seed, config.finetune.batch_size) == (3, 40, 500)


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("finetune.learning_rat=0.1", "finetune.learning_rate"),
        ("learningrate=0.1", "finetune.learning_rate"),
        ("augment.polcy=flip", "augment.policy"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(override: str, nearest: str):
    with pytest.raises(ConfigError, match=f"unknown key .*nearest known one is '{nearest}'"):
        load_config(overrides=[override])


def test_an_unknown_variable_is_an_error_too():
    with pytest.raises(ConfigError, match=r"nearest known one is 'finetune\.epochs'"):
        load_config(environ={"HEADSTART_FINETUNE__EPOCH": "3"})


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("HEADSTART_FINETUNE__EPOCH", "'finetune.epochs', set by HEADSTART_FINETUNE__EPOCHS"),
        ("HEADSTART_VALIDATION__SUITE", "'validate.suite', set by HEADSTART_VALIDATE__SUITE"),
        ("HEADSTART_WORKSPAC", "HEADSTART_WORKSPACE"),
    ],
)
def test_an_unknown_variable_is_named_as_a_variable(variable: str, nearest: str):
    with pytest.raises(ConfigError, match=f"^unknown variable {variable}; the nearest known one is {nearest}$"):
        load_config(environ={variable: "3"})


def test_variables_are_read_as_toml():
    environ = {"HEADSTART_AUTO__BACKBONES": "['embedded']", "HEADSTART_VALIDATE__RENAME": '{old = "new"}'}

    config = load_config(environ=environ)

    assert (config.auto.backbones, config.validation.rename) == (["embedded"], {"old": "new"})


def test_a_default_and_the_same_value_given_have_one_digest():
    given = [f"{key}={Config().key(key)}" for key in ("validate.max_growth", "finetune.mixup", "auto.latency_ms")]
    assert load_config(overrides=["validate.max_growth=10", "finetune.mixup=0"]).digest() == Config().digest()
    assert load_config(overrides=given).digest() == Config().digest()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("finetune.learning_rate=2", "less than or equal to 1; found 2"),
        ("finetune.epochs=many", "valid integer.*found 'many'"),
        ("finetune.class_weights=cubic", "'balanced', 'sqrt' or 'none'"),
        ("finetune", "takes key=value"),
    ],
)
def test_a_bad_value_says_what_was_found_and_what_is_allowed(override: str, says: str):
    with pytest.raises(ConfigError, match=says):
        load_config(overrides=[override])


def test_a_file_that_is_no_toml_is_named(tmp_path: Path):
    file = tmp_path / "bad.toml"
    file.write_text("[finetune\n")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML"):
        load_config(file)
    with pytest.raises(ConfigError, match="can't read the configuration"):
        load_config(tmp_path / "absent.toml")


def test_the_digest_leaves_out_only_how_work_is_spread():
    plain = Config().digest()
    assert load_config(overrides=["extract.workers=3"]).digest() == plain
    assert load_config(overrides=["finetune.seed=18"]).digest() != plain


def test_every_key_says_what_it_means():
    from flows.cli.config_table import config_keys

    keys = list(config_keys())
    assert [key.name for key in keys] == known_keys()
    assert all(key.meaning for key in keys)


def test_what_the_deployments_file_reads_from_the_environment_is_no_key():
    places = {"HEADSTART_HOME": "/app", "HEADSTART_NAME": "hats", "HEADSTART_SOURCE": "/photos"}
    assert load_config(environ=places) == load_config()


def test_a_variable_counts_where_the_flow_runs_and_what_was_given_to_it_wins():
    environ = {"HEADSTART_FINETUNE__EPOCHS": "7", "HEADSTART_FINETUNE__DROPOUT": "0.1", "HEADSTART_WORKSPACE": "/w"}
    found = with_environment(parse_config({"finetune": {"epochs": 3}, "backbone": {"name": "embedded"}}), environ)
    assert (found.finetune.epochs, found.finetune.dropout, found.backbone.name) == (3, 0.1, "embedded")
    assert with_environment(Config(), {}) == Config()
    with pytest.raises(ConfigError, match="unknown variable HEADSTART_EPOCHS"):
        with_environment(Config(), {"HEADSTART_EPOCHS": "7"})


@pytest.mark.parametrize("name", ["MobileNetV2", "mobilenet-v2", "mobilenetv2", "mobilenet_v2"])
def test_a_backbone_may_be_named_as_papers_and_keras_do(name: str):
    config = load_config(overrides=[f"backbone.name={name}", f'auto.backbones=["{name}", "VGG16"]'])
    assert config.backbone.name == "mobilenet_v2"
    assert config.auto.backbones == ["mobilenet_v2", "vgg16"]
    assert config.digest() == load_config(overrides=['auto.backbones=["mobilenet_v2", "vgg16"]']).digest()


def test_a_section_that_is_null_has_its_defaults_and_may_be_set_by_a_variable():
    """As the form in Prefect's UI gives a section that nobody unfolded."""
    given = parse_config({"finetune": None, "validate": None, "backbone": {"name": "embedded"}})
    assert given == parse_config({"backbone": {"name": "embedded"}})
    found = with_environment(given, {"HEADSTART_FINETUNE__EPOCHS": "3"})
    assert (found.finetune.epochs, found.backbone.name) == (3, "embedded")
