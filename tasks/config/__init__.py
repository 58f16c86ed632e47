"""The configuration: one schema behind the TOML file, the environment, the flags and the form in Prefect's UI.

Layers, later ones winning: the defaults, a TOML file, `HEADSTART_…` variables (`__` between a section and its
key: `HEADSTART_FINETUNE__LEARNING_RATE=0.01`), then `--set section.key=value` and the other flags.

sections.py    each key: its meaning, unit, range and default
backbones.py   the names of networks
schema.py      all sections as one configuration
loading.py     its layers
"""

from tasks.config.backbones import BACKBONE_NAMES, EMBEDDED_TEXT, POOLED, is_onnx_file, known_name
from tasks.config.loading import ENV_FLAGS, ENV_PREFIX, load_config, with_environment
from tasks.config.schema import CHOSEN, FOR_TEXTS, Config, known_keys, parse_config
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

__all__ = [
    "BACKBONE_NAMES",
    "CHOSEN",
    "EMBEDDED_TEXT",
    "ENV_FLAGS",
    "ENV_PREFIX",
    "FOR_TEXTS",
    "POOLED",
    "Augment",
    "Auto",
    "Backbone",
    "Config",
    "Evaluate",
    "Export",
    "Extract",
    "Finetune",
    "Ingest",
    "Label",
    "Scale",
    "Section",
    "Split",
    "Validate",
    "is_onnx_file",
    "known_keys",
    "known_name",
    "load_config",
    "parse_config",
    "with_environment",
]
