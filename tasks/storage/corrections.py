"""Corrections: what people decided about labels, by image. `corrections.csv` in the workspace, read at every ingest.

    sha256,label,by,when,reason

A row is a decision about one image: the name of a class, or `drop`, which leaves the image out. The last decision of an
image counts. The file is a history: rows are only ever added. A row whose reason is `undo` takes the decision before it
back, and is kept, too. Naming the class that the source gives confirms it, so that its label is no issue any more.

It belongs to the workspace and not to a model: all models that are trained on an image have it under the same label. A
person may edit it, also in a spreadsheet program, which may write other separators or encodings. A row that can't be
used is left out by its line, and the run goes on; without its header the file is an error, since all decisions would be
lost without a word.

Each write replaces the whole file, so it may be interrupted at any moment: the decision is there, or it is not. A lock
of the operating system keeps two writers apart. Object stores have none: there one process may write at a time.
"""

from __future__ import annotations

import csv
import io
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tasks.errors import UsageError, WorkspaceError
from tasks.storage.tables import delimiter_of
from tasks.workspace import Workspace

FILE = "corrections.csv"
APPLIED = "corrections.json"  # in a run's folder: what they did there, see `tasks.ingest.corrected`
COLUMNS = ("sha256", "label", "by", "when", "reason")
DROP, UNDO = "drop", "undo"
LOCK = ".corrections.lock"
LOCK_TIMEOUT_S = 10
_DIGEST = re.compile("[0-9a-f]{64}")
_appending = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """One decision. `line` is its place in the file, from 1; 0 where it is not written yet."""

    sha256: str
    label: str  # a class, or DROP
    by: str = ""
    when: str = ""  # ISO 8601, UTC
    reason: str = ""
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """The file's rows in order, and a sentence for each row that can't be used."""

    rows: tuple[Correction, ...] = ()
    faults: tuple[str, ...] = ()

    def standing(self) -> dict[str, Correction]:
        """The decision that counts for each image, those made last at the end; none where all were taken back."""
        histories: dict[str, list[Correction]] = {}
        for row in self.rows:
            history = histories.setdefault(row.sha256, [])
            if row.reason == UNDO:
                del history[-1:]
            else:
                history.append(row)
        last = [history[-1] for history in histories.values() if history]
        return {row.sha256: row for row in sorted(last, key=lambda row: row.line)}

    def last_lines(self) -> dict[str, int]:
        """The line of each image's last row: who knows it knows all that was decided about the image."""
        return {row.sha256: row.line for row in self.rows}


def read_corrections(workspace: Workspace) -> Corrections:
    """All decisions; none where there is no file.

    Raises:
        UsageError: the file is no table with the columns `sha256` and `label`.
    """
    return _parse(_read_text(workspace), workspace.display(FILE))


def read_applied(workspace: Workspace, folder: str) -> dict[str, Any]:
    """What corrections did in a run, from its folder; empty where there were none."""
    path = f"{folder}/{APPLIED}"
    return workspace.read_json(path) if workspace.exists(path) else {}


def decide(workspace: Workspace, decision: Correction, seen: int | None = None) -> bool:
    """Adds a decision to the file.

    Args:
        seen: the line of the image's last row that whoever decides has seen (0: none); None doesn't mind.

    Returns:
        Whether it was written: it is not where somebody else decided about the image meanwhile.

    Raises:
        UsageError: see `read_corrections`.
        WorkspaceError: the file can't be written, or another process holds it.
    """
    with _alone(workspace):
        text = _read_text(workspace)
        known = _parse(text, workspace.display(FILE)).last_lines().get(decision.sha256, 0)
        if seen not in (None, known):
            return False
        # With a byte order mark, without which spreadsheet programs don't take it for UTF-8.
        workspace.write_bytes(FILE, _with_row(text, decision).encode("utf-8-sig"))
        return True


def undo(workspace: Workspace, sha256: str, *, by: str, when: str, seen: int | None = None) -> bool:
    """Takes the last decision about an image back, by a row of its own; the one before it counts again.

    Returns and raises as `decide`; False also where there is no decision to take back.
    """
    corrections = read_corrections(workspace)
    if sha256 not in corrections.standing():
        return False
    seen = corrections.last_lines()[sha256] if seen is None else seen
    return decide(workspace, Correction(sha256=sha256, label="", by=by, when=when, reason=UNDO), seen)


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    with _appending:
        if not workspace.is_local:
            yield
            return
        from filelock import FileLock, Timeout

        workspace.fs.makedirs(workspace.path(""), exist_ok=True)
        try:
            with FileLock(workspace.path(LOCK), timeout=LOCK_TIMEOUT_S):
                yield
        except Timeout:
            raise WorkspaceError(
                f"another process has been writing {workspace.display(FILE)} for {LOCK_TIMEOUT_S} s; try again"
            ) from None
        except OSError as exc:
            raise WorkspaceError(f"can't write {workspace.display(FILE)}: {exc.strerror or exc}") from exc


def _read_text(workspace: Workspace) -> str:
    if not workspace.exists(FILE):
        return ""
    content = workspace.read_bytes(FILE)
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as exc:
        raise UsageError(
            f"{workspace.display(FILE)} is not UTF-8: {exc.reason} at byte {exc.start}; save it as 'CSV UTF-8'"
        ) from None


def _parse(text: str, place: str) -> Corrections:
    if not text.strip():
        return Corrections()
    header, delimiter = _header(text)
    if missing := [name for name in COLUMNS[:2] if name not in header]:
        raise UsageError(
            f"{place} has no column {' and no column '.join(missing)}; its first line has to be {','.join(COLUMNS)}, "
            f"and is {text.splitlines()[0][:200]!r}"
        )
    rows, faults = [], []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    filled = (cells for cells in reader if any(cell.strip() for cell in cells))
    try:
        next(filled)  # the header
        for cells in filled:
            row = _row(dict(zip(header, cells, strict=False)), reader.line_num)
            if fault := _fault(row):
                faults.append(f"line {row.line}: {fault}")
            else:
                rows.append(row)
    except csv.Error as exc:
        raise UsageError(f"{place}, line {reader.line_num}, can't be read: {exc}; mend it or remove it") from exc
    return Corrections(rows=tuple(rows), faults=tuple(faults))


def _header(text: str) -> tuple[list[str], str]:
    """The columns' names in lower case, and the delimiter."""
    first = text.lstrip("\r\n").splitlines()[0]
    delimiter = delimiter_of(first)
    [cells] = csv.reader([first], delimiter=delimiter)
    return [cell.strip().lower() for cell in cells], delimiter


def _row(cells: dict[str, str], line: int) -> Correction:
    label = cells.get("label", "")
    return Correction(
        sha256=cells.get("sha256", "").strip().lower(),
        label=label if label.strip() else "",
        by=cells.get("by", "").strip(),
        when=cells.get("when", "").strip(),
        reason=cells.get("reason", "").strip(),
        line=line,
    )


def _fault(row: Correction) -> str | None:
    if not _DIGEST.fullmatch(row.sha256):
        return f"its sha256 is {row.sha256[:80]!r}; it has to be the 64 hexadecimal digits of an image's SHA-256"
    if not row.label and row.reason != UNDO:
        return f"its label is blank; give a class, {DROP!r}, or the reason {UNDO!r} to take the last decision back"
    return None


def _with_row(text: str, decision: Correction) -> str:
    """The file's text with one row more, in the file's own columns; what is there stays as it is."""
    header: Sequence[str] = COLUMNS
    delimiter, end = ",", "\n"
    if text.strip():
        header, delimiter = _header(text)
        end = "\r\n" if "\r\n" in text else "\n"
        text += "" if text.endswith(("\n", "\r")) else end
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end)
    if not text.strip():
        text = ""
        writer.writerow(COLUMNS)
    writer.writerow([getattr(decision, name) if name in COLUMNS else "" for name in header])
    return text + buffer.getvalue()
