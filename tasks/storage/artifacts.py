"""One memo: what a stage made is kept under the key of what it was made from.

    artifacts/<stage>/<key>/<file>          what the stage wrote
    artifacts/<stage>/<key>/artifact.json   the record that it returned, and the SHA-256 of each file; written last

A key is the digest of the records that the stage was given, of the configuration and the rules that it reads, and of
the versions of its code and of the libraries. So the same work is never done twice: not by a run that resumes one that
was interrupted, not by a retry, not by a trial of settings that were tried before. A process may die at any line: an
artifact without its artifact.json is not finished and is made again, to the same content.

What is read is verified, once a process: an artifact with a file that does not have its digest is dropped with a
warning, and made again. Rows for each image are kept in the feature store instead (`tasks.storage.feature_store`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, TypeAdapter

from tasks.records import Run
from tasks.storage.digests import file_digest, has_digest
from tasks.storage.lineage import library_versions
from tasks.workspace import Workspace

log = logging.getLogger(__name__)
F = TypeVar("F", bound=Callable[..., Any])

RECORD = "artifact.json"
KEY_DIGITS = 32  # of a SHA-256, in hexadecimal

# The folders of the artifacts that the current run is made of, by stage.
_used: ContextVar[dict[str, str] | None] = ContextVar("artifacts_in_use", default=None)


@dataclass(frozen=True)
class Artifact:
    """One folder of `artifacts/`, finished or not."""

    workspace: Workspace
    stage: str
    key: str

    @property
    def folder(self) -> str:
        return f"artifacts/{self.stage}/{self.key}"

    def path(self, file: str) -> str:
        return f"{self.folder}/{file}"

    def read(self) -> Any | None:
        """The record, as JSON has it; None where the artifact is not finished, or was damaged and is dropped."""
        if not self.workspace.exists(self.path(RECORD)):
            return None
        try:
            kept = self.workspace.read_json(self.path(RECORD))
            damaged = [file for file, sha256 in kept["files"].items() if not self._is_sound(file, sha256)]
            record = kept["record"]
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged, record = [RECORD], None
        if not damaged:
            return record
        log.warning("%s is damaged (%s): dropped, and made again", self.folder, ", ".join(damaged))
        self.workspace.remove(self.folder)
        return None

    def finish(self, record: Any) -> None:
        """Writes the record, with the digests of all files: from now on the artifact is there."""
        names = [file.path.removeprefix(f"{self.folder}/") for file in self.workspace.files(self.folder)]
        digests = {name: file_digest(self.workspace, self.path(name)) for name in names if _is_content(name)}
        self.workspace.write_json(self.path(RECORD), {"record": record, "files": digests})

    def _is_sound(self, file: str, sha256: str) -> bool:
        try:
            return has_digest(self.workspace, self.path(file), sha256)
        except FileNotFoundError:
            return False


def kept(stage: str, function: F, *, version: int = 1, reads: Callable[..., Any] = lambda run, *given: None) -> F:
    """A stage's function `(run, *records)`, done once for each key.

    The function writes its files with `run.path`, which leads into the artifact's folder, and returns a record, some of
    whose fields may be records that it was given: those are not kept with it. A record that is `missing` what was asked
    for (see `CrossFitted`) is not kept at all: the next who asks may have more luck.

    Args:
        version: of the function: raised when the same inputs would give another result.
        reads: given the same arguments, what else the result depends on: configuration and rules, as JSON or pydantic
            models.
    """
    kind = get_type_hints(function)["return"]

    @functools.wraps(function)
    def once(run: Run, *given: Any) -> Any:
        key = _digest([stage, version, library_versions(), _identity(reads(run, *given)), _identity(given)])
        artifact = Artifact(run.workspace, stage, key)
        if (used := _used.get()) is not None:
            used[stage] = artifact.folder
        if (record := artifact.read()) is not None:
            log.info("%s: up to date", stage)
            return _restored(kind, record, given)
        result = function(replace(run, artifact=artifact.folder), *given)
        if not getattr(result, "missing", ""):
            artifact.finish(_as_json(kind, result, given))
        return result

    return once  # type: ignore[return-value]


@contextmanager
def artifacts_in_use() -> Iterator[dict[str, str]]:
    """Collects the folder of each artifact that the block asks for, by stage: what a run is made of."""
    used: dict[str, str] = {}
    token = _used.set(used)
    try:
        yield used
    finally:
        _used.reset(token)


def current_artifacts() -> dict[str, str]:
    """What `artifacts_in_use` has collected so far; empty outside such a block."""
    return dict(_used.get() or {})


def _digest(identity: Any) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def _identity(value: Any) -> Any:
    """A value as JSON, of records those fields that are compared."""
    if is_dataclass(value):
        return {each.name: _identity(getattr(value, each.name)) for each in fields(value) if each.compare}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _identity(item) for key, item in value.items()}
    return [_identity(item) for item in value] if isinstance(value, list | tuple) else value


def _as_json(kind: Any, result: Any, given: tuple[Any, ...]) -> Any:
    """A result as JSON; of a record those fields that are not records it was made from."""
    if not is_dataclass(kind):
        return TypeAdapter(kind).dump_python(result, mode="json")
    hints = get_type_hints(kind)
    own = {each.name: getattr(result, each.name) for each in fields(kind)}
    return {
        name: TypeAdapter(hints[name]).dump_python(value, mode="json")
        for name, value in own.items()
        if not _among(value, given)
    }


def _restored(kind: Any, record: Any, given: tuple[Any, ...]) -> Any:
    """The result that `_as_json` had, made from these equal records."""
    if not is_dataclass(kind):
        return TypeAdapter(kind).validate_python(record)
    hints = get_type_hints(kind)
    values = {name: TypeAdapter(hints[name]).validate_python(value) for name, value in record.items()}
    for name in (each.name for each in fields(kind) if each.name not in record):
        types = tuple(each for each in get_args(hints[name]) or (hints[name],) if isinstance(each, type))
        matching = [value for value in given if is_dataclass(value) and isinstance(value, types)]
        if matching:  # else it is newer than the artifact, and has a default
            values[name] = matching[0]
    return kind(**values)  # type: ignore[operator]


def _among(value: Any, given: tuple[Any, ...]) -> bool:
    return is_dataclass(value) and any(value is each for each in given)


def _is_content(name: str) -> bool:
    """Whether a file belongs to an artifact: it is not its record, and no write that was interrupted."""
    return name != RECORD and not name.rsplit("/", 1)[-1].startswith(".")
