"""Predictions for a whole pool as one table: image, label, probability, familiarity."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.errors import UsageError
from tasks.modality.items import read_bytes
from tasks.networks.outputs import THRESHOLD
from tasks.pool.cut import CutModel
from tasks.pool.embedding import SeenPool, see_pool
from tasks.pool.scoring import predict_pool
from tasks.records import Run
from tasks.workspace import sync_folder

FORMATS = (".parquet", ".csv", ".jsonl")


def schema_of(task: str) -> pa.Schema:
    """The columns of the answers; the first is `image` or `text`."""
    return pa.schema(
        [
            *((task, pa.string()), ("label", pa.string()), ("probability", pa.float32())),
            ("familiarity", pa.float32()),  # null where the model does not say it
        ]
    )


BLOCK_ROWS = 8192


def check_answers_file(file: Path) -> None:
    """Raises UsageError where answers can't be written there, before they are made."""
    if file.suffix.lower() not in FORMATS:
        raise UsageError(f"--to takes a file ending with {', '.join(FORMATS)}; found {file}")
    if not file.absolute().parent.is_dir() or not os.access(file.absolute().parent, os.W_OK):
        raise UsageError(f"--to names a file in the folder {file.absolute().parent}, which can't be written")


def predict_to(run: Run, model: CutModel, file: Path, unknown_label: str | None = None) -> SeenPool:
    """Predicts every image of the run's source, and writes the answers, sorted by path, whole or not at all.

    The images' rows are kept, so an interrupted call is resumed, and a second one is quick.

    Args:
        unknown_label: for images that are not familiar; None keeps the likeliest class.

    Raises:
        SourceError: see `tasks.pool.listing.list_pool`; or the storage does not answer.
        UsageError: the file can't be written.
    """
    seen = see_pool(run, model)
    codes, sha256s = pd.factorize(seen.table["sha256"])
    predicted = predict_pool(run.workspace, model, list(sha256s))
    answers = np.array(model.labels, object)[predicted.label]
    if unknown_label:
        answers[predicted.familiarity < THRESHOLD] = unknown_label
    uris = seen.table["uri"].tolist()
    if model.task == "text":
        names = [read_bytes(uri).decode(errors="replace") for uri in uris]
    else:
        names = image_names(run.source, seen.table["path"].tolist(), uris)
    schema = schema_of(model.task)
    with _written_aside(file) as aside, _writer(aside, file.suffix.lower(), schema) as write:
        for start in range(0, len(codes), BLOCK_ROWS):
            block = codes[start : start + BLOCK_ROWS]
            columns = [names[start : start + BLOCK_ROWS], answers[block], predicted.probability[block]]
            familiarity = pa.array(predicted.familiarity[block], from_pandas=True)  # NaN becomes null
            write(pa.table([*map(pa.array, columns), familiarity], schema=schema))
    return seen


def image_names(source: str, paths: Sequence[str], uris: Sequence[str] | None = None) -> Sequence[str]:
    """Images of a pool as `headstart predict` names them: below the given folder, else as their table or URL does."""
    if "://" in source:
        return uris if uris is not None else paths
    if Path(source).expanduser().is_dir():
        return [str(Path(source) / path) for path in paths]
    return paths


@contextmanager
def _written_aside(file: Path) -> Iterator[Path]:
    """A path beside `file`, which takes its place when the block is through."""
    aside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(file)
        sync_folder(file.absolute().parent)
    except OSError as exc:
        raise UsageError(f"can't write {file}: {exc.strerror or exc}") from exc
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _writer(path: Path, suffix: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], Any]]:
    """Writes blocks of answers to a new file."""
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            yield writer.write_table
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if suffix == ".csv":
            lines = csv.DictWriter(file, schema.names)
            lines.writeheader()
            yield lambda table: lines.writerows(_rows(table))
        else:
            yield lambda table: file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(table))


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for row in table.to_pylist():
        shares = {name: round(row[name], 6) for name in ("probability", "familiarity") if row[name] is not None}
        yield {**row, **shares}
