"""The kinds of items, images and texts, and what differs between them before a network sees them.

A third kind needs an entry in KINDS, the columns of its inspection (`tasks.storage.tables`), a suite in
`expectations/`, and a reader (`tasks.networks.classifier`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa

from tasks.config import Config, Ingest
from tasks.modality.images import inspection
from tasks.modality.texts import inspection as text_inspection
from tasks.storage.part_store import PartStore
from tasks.storage.tables import FACTS
from tasks.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of items.

    Attributes:
        item, items: what they are called in messages.
        substance: what two of them share that a person takes for the same.
        inspect: looks at the bytes of one; what is wrong with it is the result's `fault`.
        inspector: the version of that.
        store: where inspections are kept.
        schema: their columns.
        too_large: which rows of a catalogue are over a bound, and which.
        properties: those whose drift is tested, of the columns of a catalogue.
    """

    task: str
    item: str
    items: str
    substance: str
    inspect: Callable[[bytes, Ingest], Any]
    inspector: int
    store: Callable[[Workspace], PartStore]
    schema: pa.Schema
    too_large: Callable[[pd.DataFrame, Ingest], tuple[pd.Series, str]]
    properties: Mapping[str, Callable[[pd.DataFrame], pd.Series]]

    @cached_property
    def facts(self) -> list[str]:
        """The columns that an inspection fills in a catalogue."""
        return FACTS[self.task].names


KINDS = {
    "image": Kind(
        task="image",
        item="image",
        items="images",
        substance="pixels",
        inspect=lambda content, bounds: inspection.inspect(content, bounds.max_pixels),
        inspector=inspection.INSPECTOR,
        store=inspection.inspection_store,
        schema=inspection.SCHEMA,
        too_large=lambda table, bounds: (
            table["width_px"] * table["height_px"] > bounds.max_pixels,
            f"it has too many pixels (ingest.max_pixels: at most {bounds.max_pixels})",
        ),
        properties={
            "brightness": lambda table: table["brightness"],
            "contrast": lambda table: table["contrast"],
            "sharpness": lambda table: table["sharpness"],
            "side": lambda table: table[["width_px", "height_px"]].min(axis=1),
        },
    ),
    "text": Kind(
        task="text",
        item="text",
        items="texts",
        substance="words",
        inspect=lambda content, bounds: text_inspection.inspect(content, bounds.max_characters),
        inspector=text_inspection.INSPECTOR,
        store=text_inspection.inspection_store,
        schema=text_inspection.SCHEMA,
        too_large=lambda table, bounds: (
            table["characters"] > bounds.max_characters,
            f"it has too many characters (ingest.max_characters: at most {bounds.max_characters})",
        ),
        properties={
            "characters": lambda table: table["characters"],
            "letters": lambda table: table["letters"],
            "script": lambda table: table["script_share"],
        },
    ),
}


def kind_of(config: Config) -> Kind:
    """The kind of a run's items; images where nothing says which."""
    return KINDS[config.task]
