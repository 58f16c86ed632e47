"""A run that died is gone on with: under its own identity, and without repeating what it had finished.

    unfinished/<name>.json            the run that had begun to make a model of this name, until it came to its end
    runs/<run_id>/done/<stage>.json   what a finished stage came to, and a digest of what it was given

Images, inspections and features need none of this: their stores are asked what is there. It is for what lies in a
run's own folder: a trained head, an exported file, a decision. A process may die at any line: a stage whose result was
not entered yet is done again, and comes to the same.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from importlib.metadata import version
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from tasks.lineage import LIBRARIES
from tasks.records import Catalogue, Run
from tasks.storage.assignments import read_assignments, write_assignments
from tasks.workspace import Workspace

log = logging.getLogger(__name__)
F = TypeVar("F", bound=Callable[..., Any])


def unfinished_run(run: Run, catalogue: Catalogue, fingerprint: str, owner: str) -> Run | None:
    """The run that died before this one, to be gone on with: None where there is none with the same work before it.

    Args:
        fingerprint: of all that the outcome depends on (`flows.summary.fingerprint`).
        owner: the orchestrator's id of the run. A local workspace's lock tells that a run is dead. An object store has
            none: there a run is gone on with by its own retry alone.
    """
    begun = _read_begun(run)
    if begun is None or begun["work"] != _work(run, catalogue, fingerprint):
        return None
    if not run.workspace.is_local and begun["owner"] != owner:
        return None
    log.info("going on with run %s, which did not come to its end", begun["run_id"])
    return replace(run, run_id=begun["run_id"], started_at=begun["started_at"])


def begin(run: Run, catalogue: Catalogue, fingerprint: str, owner: str) -> None:
    """Enters that a run has work to do. What an earlier one met first and did not finish with, this one did."""
    begun = _read_begun(run)
    if begun is not None and begun["run_id"] != run.run_id:
        assignments = read_assignments(run)
        if (assignments["run_id"] == begun["run_id"]).any():
            renamed = assignments["run_id"].replace(begun["run_id"], run.run_id)
            write_assignments(run, assignments.assign(run_id=renamed))
    work = {"work": _work(run, catalogue, fingerprint), "owner": owner}
    run.workspace.write_json(_path(run), {"run_id": run.run_id, "started_at": run.started_at, **work})


def end(run: Run) -> None:
    """Enters that a run came to its end."""
    run.workspace.remove(_path(run))


def unfinished_runs(workspace: Workspace) -> set[str]:
    """The identities of the runs that will be gone on with."""
    return {workspace.read_json(f"unfinished/{file}")["run_id"] for file in workspace.names("unfinished")}


def resumable(stage: str, function: F) -> F:
    """The stage's function `(run, …)`, whose result is kept, and taken from there where the same run comes again.

    Its result is JSON or one of the values in `tasks.records`, as its annotation says.
    """
    kind = get_type_hints(function)["return"]

    @functools.wraps(function)
    def once(run: Run, *given: Any) -> Any:
        path = run.path(f"done/{stage}.json")
        inputs = _digest(given)
        if run.workspace.exists(path):
            kept = run.workspace.read_json(path)
            result = _restored(kind, kept["result"])
            if kept["inputs"] == inputs and all(map(run.workspace.exists, _files(result))):
                log.info("%s: finished before the run was interrupted", stage)
                return result
        result = function(run, *given)
        run.workspace.write_json(path, {"inputs": inputs, "result": _tree(result, every_field=True)})
        return result

    return once  # type: ignore[return-value]


def _path(run: Run) -> str:
    return f"unfinished/{run.name}.json"


def _read_begun(run: Run) -> dict[str, str] | None:
    return run.workspace.read_json(_path(run)) if run.workspace.exists(_path(run)) else None


def _work(run: Run, catalogue: Catalogue, fingerprint: str) -> str:
    """The digest of what a run has to do: what its outcome depends on, where the files lie, and the libraries."""
    table = hashlib.sha256(run.workspace.read_bytes(catalogue.table_path)).hexdigest()
    parts = [fingerprint, table, run.source, *map(version, LIBRARIES)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _digest(given: Any) -> str:
    return hashlib.sha256(json.dumps(_tree(given, every_field=False)).encode()).hexdigest()


def _tree(value: Any, every_field: bool) -> Any:
    """Dataclasses as JSON has them: with every field, or with those that are compared, which make a value that one."""
    if is_dataclass(value):
        kept = (each.name for each in fields(value) if every_field or each.compare)
        return {name: _tree(getattr(value, name), every_field) for name in kept}
    return [_tree(item, every_field) for item in value] if isinstance(value, list | tuple) else value


def _restored(kind: Any, value: Any) -> Any:
    """What JSON holds, as the values that it was made from; numbers stay the integers and floats that they were."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{name: _restored(hints[name], item) for name, item in value.items()})  # type: ignore[operator]
    if get_origin(kind) is tuple:
        return tuple(_restored(get_args(kind)[0], item) for item in value)
    return value


def _files(result: Any) -> list[str]:
    """The files of the workspace that a result names; those of each where it has several."""
    if isinstance(result, tuple):
        return [path for each in result for path in _files(each)]
    return (
        [getattr(result, each.name) for each in fields(result) if each.name.endswith("_path")]
        if is_dataclass(result)
        else []
    )
