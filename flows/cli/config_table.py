"""The configuration as a list for `headstart config`, and as the README's table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.config import Config


@dataclass(frozen=True)
class Key:
    name: str  # section.key
    default: Any
    meaning: str


def config_keys() -> Iterator[Key]:
    for section, field in Config.model_fields.items():
        defaults = getattr(Config(), section)
        for key, inner in type(defaults).model_fields.items():
            yield Key(
                f"{field.alias or section}.{key}", getattr(defaults, key), " ".join((inner.description or "").split())
            )


def config_lines() -> list[str]:
    return [f"{key.name} = {key.default!r}\n    {key.meaning}" for key in config_keys()]


def markdown_table() -> str:
    rows = [f"| `{key.name}` | `{key.default}` | {key.meaning} |" for key in config_keys()]
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows])
