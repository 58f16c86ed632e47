"""The whole configuration, as the TOML file, the environment, the flags and the form in Prefect's UI have it."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from tasks.config.backbones import BACKBONE_NAMES, EMBEDDED_TEXT
from tasks.config.sections import (
    Augment,
    Auto,
    Backbone,
    Evaluate,
    Export,
    Extract,
    Finetune,
    Ingest,
    Label,
    Scale,
    Section,
    Split,
    Validate,
)
from tasks.errors import ConfigError

# What `--auto` decides.
CHOSEN = (
    "backbone.name",
    "backbone.boundary",
    "backbone.features",
    "augment.views",
    "finetune.hidden_units",
    "finetune.heads",
    "finetune.dropout",
    "finetune.mixup",
)

# Defaults that texts do better with. On 10,003 questions to a bank (77 intents, a distilled BERT of six blocks), of
# 2,508 that were held out, 0.924 were right with what images had then, 0.934 with these (means of two seeds). Twice
# the hidden units for 25 epochs come to 0.935 in twice the time; two or three averaged heads to 0.931.
FOR_TEXTS = {
    "backbone.features": 3,
    "finetune.epochs": 20,
    "finetune.batch_size": 128,
    "finetune.hidden_units": 256,
}

SHOWN = ("backbone",)  # sections whose keys the form shows from the beginning
FIELDS = {"validate": "validation"}  # where a section's name is taken in pydantic


def _fold_sections(schema: dict[str, Any]) -> None:
    """Lets a person unfold each section but SHOWN in the form in Prefect's UI, which would have 69 fields otherwise.

    Of alternatives (`anyOf`) the form shows one at a time, and begins with the default: null, which has no fields.
    """
    for name, section in schema["properties"].items():
        if name not in SHOWN:
            definition = {"$ref": section["$ref"]}
            folded = {"type": "null", "title": "Default"}
            meaning = inspect.getdoc(Config.model_fields[FIELDS.get(name, name)].annotation)  # type: ignore[arg-type]
            section.clear()
            section |= {"title": name.title(), "description": meaning, "anyOf": [folded, definition], "default": None}


class Config(Section):
    """Everything that shapes a retrain, beside its source, its name and its workspace."""

    model_config = ConfigDict(json_schema_extra=_fold_sections)

    backbone: Backbone = Backbone()
    ingest: Ingest = Ingest()
    validation: Validate = Field(default=Validate(), alias="validate")
    split: Split = Split()
    augment: Augment = Augment()
    extract: Extract = Extract()
    finetune: Finetune = Finetune()
    auto: Auto = Auto()
    export: Export = Export()
    evaluate: Evaluate = Evaluate()
    label: Label = Label()
    scale: Scale = Scale()

    @model_validator(mode="before")
    @classmethod
    def _without_folded(cls, tree: Any) -> Any:
        """The form gives null for a section that nobody unfolded."""
        return {key: value for key, value in tree.items() if value is not None} if isinstance(tree, dict) else tree

    @property
    def task(self) -> Literal["image", "text"]:
        """What the items are; images until a source says otherwise (`with_task`)."""
        return "text" if self.ingest.task == "text" else "image"

    @property
    def suite(self) -> str:
        """The suite of expectations for the items: its name, or a file's path."""
        return f"{self.task}s" if self.validation.suite == "auto" else self.validation.suite

    def with_task(self, task: Literal["image", "text"]) -> Config:
        """This configuration for items of a kind, with what goes by it filled in.

        Raises:
            ConfigError: it asks for a network of the other kind.
        """
        keys: dict[str, Any] = {"ingest.task": task}
        if task == "text":
            given = {f"{section}.{key}" for section in ("backbone", "finetune") for key in self._given(section)}
            keys |= {key: value for key, value in FOR_TEXTS.items() if key not in given}
            if self.backbone.name in (Backbone().name, "embedded"):
                keys["backbone.name"] = EMBEDDED_TEXT
        tree = self.model_dump(by_alias=True, exclude_unset=True)  # what nobody set stays so
        for name, value in keys.items():
            section, key = name.split(".")
            tree.setdefault(section, {})[key] = value
        found = parse_config(tree)
        for name in found.backbones():
            if not name.endswith(".onnx") and (name == EMBEDDED_TEXT) != (task == "text"):
                if name in BACKBONE_NAMES:
                    fault = f"the backbone {name} takes {'texts' if name == EMBEDDED_TEXT else 'images'}"
                else:
                    fault = f"{name} is no backbone of texts"
                raise ConfigError(
                    f"{fault}, and the source holds {task}s: give --backbone FILE.onnx of an encoder of {task}s"
                    + (f", or none for {EMBEDDED_TEXT}" if task == "text" else "")
                )
        return found

    def _given(self, section: str) -> set[str]:
        """The keys of a section that somebody set."""
        return getattr(self, section).model_fields_set if section in self.model_fields_set else set()

    def digest(self) -> str:
        """SHA-256 of what can change a model: all but how and where the work is spread, and what is labelled next.

        Where the choice is automatic, the keys that it decides change nothing: so a configuration has the same digest
        before its choice and after.
        """
        undecided = {**dict.fromkeys(CHOSEN), "auto.backbones": self.backbones()}
        config = self.with_keys(undecided) if self.auto.enabled else self
        spread = {"extract": {"engine", "workers", "shard_images"}, "label": True, "scale": True}
        shaping = config.model_dump(by_alias=True, exclude=spread)
        return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()

    def with_keys(self, values: Mapping[str, Any]) -> Config:
        """This configuration with other values of some keys (`section.key`); None puts a default back.

        Raises:
            ConfigError: an unknown key, or a value out of range.
        """
        tree = self.model_dump(by_alias=True)
        for name, value in values.items():
            section, key = name.split(".")
            if value is None:
                del tree[section][key]
            else:
                tree[section][key] = value
        return parse_config(tree)

    def key(self, name: str) -> Any:
        """The value of one key, `section.key`."""
        section, key = name.split(".")
        return self.model_dump(by_alias=True)[section][key]

    def backbones(self) -> list[str]:
        """The backbones that may come to be used."""
        return (self.auto.backbones if self.auto.enabled else []) or [self.backbone.name]


def parse_config(tree: Mapping[str, Any]) -> Config:
    """The configuration from nested mappings. Raises ConfigError."""
    try:
        return Config.model_validate(tree)
    except ValidationError as exc:
        raise ConfigError("\n".join(_describe(error) for error in exc.errors())) from None


def known_keys() -> list[str]:
    """Every key, as `section.key`, in the schema's order."""
    return [
        f"{section.alias or name}.{key}"
        for name, section in Config.model_fields.items()
        for key in section.annotation.model_fields  # type: ignore[union-attr]
    ]


def _describe(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return unknown_key(key)
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}; found {error['input']!r}"


def unknown_key(key: str) -> str:
    known = known_keys()
    candidates = known + [name.rsplit(".", 1)[-1] for name in known] + list({k.split(".")[0] for k in known})
    near = difflib.get_close_matches(key, candidates, n=1, cutoff=0)
    full = next((name for name in known if near and (name == near[0] or name.endswith(f".{near[0]}"))), near[0])
    return f"unknown key {key!r}; the nearest known one is {full!r} (`headstart config` lists all)"
