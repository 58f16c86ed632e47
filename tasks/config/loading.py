"""The layers of the configuration: a TOML file, `HEADSTART_…` variables, then flags, later ones winning."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.config.schema import Config, known_keys, parse_config, unknown_key
from tasks.errors import ConfigError

ENV_PREFIX = "HEADSTART_"
# Variables that are flags of the command line, not keys of the schema; and those that the files in deploy/ read.
ENV_FLAGS = {
    *("HEADSTART_WORKSPACE", "HEADSTART_TRACEBACK", "HEADSTART_SIGNING_KEY", "HEADSTART_PUBLIC_KEY"),
    *("HEADSTART_CACHE", "HEADSTART_WEBHOOK", "HEADSTART_HOME", "HEADSTART_NAME", "HEADSTART_SOURCE"),
    "HEADSTART_POOL",
    *("HEADSTART_PHOTOS", "HEADSTART_TAG", "HEADSTART_SOURCE_URL", "HEADSTART_WORKSPACE_URL"),
    *("HEADSTART_SIGNING_KEY_FILE", "HEADSTART_PUBLIC_KEY_FILE"),
    "HEADSTART_UP_PID",  # set by `headstart up`, for the processes of its runs
}


def load_config(
    file: Path | None = None, *, environ: Mapping[str, str] | None = None, overrides: Sequence[str] = ()
) -> Config:
    """The configuration from all its layers.

    Args:
        file: a TOML file, or None.
        environ: the environment; only `HEADSTART_…` is read.
        overrides: `section.key=value` strings; a value is read as TOML and, where it is none, as a plain string.

    Raises:
        ConfigError: an unreadable file, an unknown key or variable (naming the nearest known one) or a value out of
            range.
    """
    tree: dict[str, Any] = _read_toml(file) if file else {}
    _read_environ(tree, environ or {})
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value, such as finetune.learning_rate=0.01; found {override!r}")
        _place(tree, key.strip().split("."), value.strip())
    return parse_config(tree)


def with_environment(config: Config, environ: Mapping[str, str]) -> Config:
    """A configuration that was given to the flow, above the `HEADSTART_…` variables of where the flow runs.

    So a variable counts whoever starts the run: a command, a deployment's worker, or the form in Prefect's UI. A key
    that was given wins. Raises ConfigError.
    """
    tree: dict[str, Any] = {}
    _read_environ(tree, environ)
    for section, keys in config.model_dump(by_alias=True, exclude_unset=True).items():
        tree[section] = {**tree.get(section, {}), **keys}
    return parse_config(tree)


def _read_environ(tree: dict[str, Any], environ: Mapping[str, str]) -> None:
    for variable, value in sorted(environ.items()):
        if variable.startswith(ENV_PREFIX) and variable not in ENV_FLAGS:
            _place(tree, _path(variable), value)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"can't read the configuration {file}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file} is not valid TOML: {exc}") from exc


def _path(variable: str) -> list[str]:
    """The path of the key that a variable sets: HEADSTART_FINETUNE__EPOCHS, ["finetune", "epochs"]."""
    path = variable.removeprefix(ENV_PREFIX).lower().split("__")
    keys = known_keys()
    if ".".join(path[:2]) in {*keys, *(key.split(".")[0] for key in keys)}:
        return path
    known = {ENV_PREFIX + key.upper().replace(".", "__"): f"{key!r}, set by " for key in keys} | dict.fromkeys(
        ENV_FLAGS, ""
    )
    [near] = difflib.get_close_matches(variable, known, n=1, cutoff=0)
    raise ConfigError(f"unknown variable {variable}; the nearest known one is {known[near]}{near}")


def _place(tree: dict[str, Any], path: list[str], value: str) -> None:
    for part in path[:-1]:
        branch = tree.setdefault(part, {})
        if not isinstance(branch, dict):
            raise ConfigError(unknown_key(".".join(path)))
        tree = branch
    tree[path[-1]] = _toml_value(value)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
