"""The tables that travel between stages: their columns, and how they are read and written.

The catalogue is what ingest found and validation kept; a snapshot is a catalogue with every split filled. Both hold
one row for each distinct item (image or text), sorted by (sha256, label, path).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.workspace import Workspace

IMAGE_FACTS = pa.schema(
    [
        ("width_px", pa.int32()),  # upright
        ("height_px", pa.int32()),
        ("format", pa.string()),
        ("mode", pa.string()),
        ("brightness", pa.float32()),  # these three: see `tasks.modality.images.inspection`
        ("contrast", pa.float32()),
        ("sharpness", pa.float32()),
        ("phash", pa.binary(128)),  # `tasks.modality.images.inspection.perceptual_hash`
    ]
)
TEXT_FACTS = pa.schema(
    [
        ("characters", pa.int32()),  # these five: see `tasks.modality.texts.inspection`
        ("words", pa.int32()),
        ("script", pa.string()),
        ("script_share", pa.float32()),
        ("letters", pa.float32()),
        ("same_words", pa.binary(16)),
        ("minhash", pa.binary(256)),  # `tasks.modality.texts.shingles.minhash`
    ]
)
FACTS = {"image": IMAGE_FACTS, "text": TEXT_FACTS}
COMPARED = ("phash", "same_words", "minhash")  # what serves to compare items; a snapshot does without


def catalogue_schema(task: str) -> pa.Schema:
    """The columns of a catalogue of images or texts."""
    return pa.schema(
        [
            ("sha256", pa.string()),  # hex, of the encoded bytes
            ("label", pa.string()),
            ("split", pa.string()),  # as the source gives it; null where it gives none (a snapshot has no null)
            ("path", pa.string()),  # of the first of its copies, as the user knows it
            ("uri", pa.string()),  # what `tasks.modality.items.read_bytes` reads
            ("copies", pa.int32()),  # files with these very bytes
            ("size_bytes", pa.int64()),
            *FACTS[task],
            ("group", pa.string()),  # names the item's group of near-duplicates; null until validation has found them
        ]
    )


def snapshot_schema(task: str) -> pa.Schema:
    """The columns of a snapshot, which describe its items."""
    return pa.schema([field for field in catalogue_schema(task) if field.name not in COMPARED])


# What heads predict for images that they were not trained on.
LOGITS = pa.schema([("sha256", pa.string()), ("logits", pa.list_(pa.float32()))])


def read_table(workspace: Workspace, path: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A table of the workspace as a frame, its rows numbered from 0."""
    return pq.read_table(pa.BufferReader(workspace.read_bytes(path)), columns=columns and list(columns)).to_pandas()


def write_table(workspace: Workspace, path: str, table: pd.DataFrame, schema: pa.Schema) -> str:
    """Writes a frame's columns that are in `schema`, whole or not at all; returns the file's SHA-256."""
    arrow = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    buffer = io.BytesIO()
    pq.write_table(arrow, buffer, compression="zstd")
    content = buffer.getvalue()
    workspace.write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def delimiter_of(header: str) -> str:
    """The delimiter of a text table by its first line: the most frequent of those that spreadsheet programs write."""
    return max(",;\t|", key=header.count)
