"""The history of decisions about labels: one file, edited by the page and by people."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.errors import UsageError
from tasks.storage.corrections import Correction, decide, read_corrections, undo
from tasks.workspace import Workspace

CAT, DOG = "a" * 64, "b" * 64
WHEN = "2026-11-26T10:00:00+00:00"


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path / "w"))


def decided(sha256: str, label: str) -> Correction:
    return Correction(sha256=sha256, label=label, by="anna", when=WHEN, reason="review")


def standing(place: Workspace) -> dict[str, str]:
    return {sha256: row.label for sha256, row in read_corrections(place).standing().items()}


def test_the_last_decision_counts_and_each_one_is_kept(place: Workspace):
    assert read_corrections(place).rows == ()
    for sha256, label in ((CAT, "hat"), (DOG, "drop"), (CAT, 'shoe, "left"')):
        assert decide(place, decided(sha256, label))
    assert standing(place) == {CAT: 'shoe, "left"', DOG: "drop"}
    assert [row.line for row in read_corrections(place).rows] == [2, 3, 4]
    assert place.read_bytes("corrections.csv").decode("utf-8-sig").splitlines()[:2] == [
        "sha256,label,by,when,reason",
        f"{CAT},hat,anna,{WHEN},review",
    ]


def test_an_undo_is_a_decision_and_goes_back_one_by_one(place: Workspace):
    for label in ("hat", "shoe"):
        decide(place, decided(CAT, label))
    seen = []
    while undo(place, CAT, by="anna", when=WHEN):
        seen.append(standing(place).get(CAT))
    assert seen == ["hat", None]
    assert len(read_corrections(place).rows) == 4
    decide(place, decided(CAT, "boot"))
    assert standing(place) == {CAT: "boot"}


def test_who_has_not_seen_the_last_decision_does_not_overwrite_it(place: Workspace):
    assert decide(place, decided(CAT, "hat"), seen=0)
    assert not decide(place, decided(CAT, "shoe"), seen=0)
    assert not undo(place, CAT, by="b", when=WHEN, seen=0)
    assert decide(place, decided(DOG, "shoe"), seen=0)  # another image is another matter
    assert standing(place) == {CAT: "hat", DOG: "shoe"}


def test_many_pages_at_once_lose_nothing(place: Workspace):
    digests = [f"{number:064x}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda sha256: decide(place, decided(sha256, "hat"), seen=0), digests))
    assert sorted(standing(place)) == digests


def test_a_write_that_is_cut_off_changes_nothing(place: Workspace, monkeypatch: pytest.MonkeyPatch):
    decide(place, decided(CAT, "hat"))
    before = place.read_bytes("corrections.csv")

    def die(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        with pytest.raises(KeyboardInterrupt):
            decide(place, decided(DOG, "hat"))
    assert place.read_bytes("corrections.csv") == before
    assert decide(place, decided(DOG, "hat"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_spreadsheet_program_may_write_it(place: Workspace, encoding: str, delimiter: str):
    rows = [["Label", "SHA256", "note"], ["Schürze", CAT.upper(), "x"], [], ["drop", DOG]]
    place.write_bytes("corrections.csv", "\r\n".join(delimiter.join(row) for row in rows).encode(encoding))
    assert standing(place) == {CAT: "Schürze", DOG: "drop"}
    decide(place, decided(DOG, "Hüte"))
    assert standing(place) == {CAT: "Schürze", DOG: "Hüte"}
    assert place.read_bytes("corrections.csv").decode("utf-8-sig").count("\r\n") == 5


def test_rows_that_cannot_be_used_are_named_by_line_and_the_others_count(place: Workspace):
    text = f"sha256,label\n{CAT},hat\n1.2E+63,hat\n{DOG},\n{DOG}\n{DOG},shoe\n"
    place.write_bytes("corrections.csv", text.encode())
    found = read_corrections(place)
    assert standing(place) == {CAT: "hat", DOG: "shoe"}
    assert [fault[:6] for fault in found.faults] == ["line 3", "line 4", "line 5"]
    assert "its sha256 is '1.2e+63'" in found.faults[0]
    assert "its label is blank" in found.faults[1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"digest,class\n", "has no column sha256 and no column label"),
        (b"sha256,label\n\xe4\xfc,hat\n", "save it as 'CSV UTF-8'"),
        (b'sha256,label\n"' + b"a" * 200_000, "line 2, can't be read"),
    ],
    ids=["no header", "another encoding", "an open quote"],
)
def test_what_is_no_table_is_an_error_and_never_overwritten(place: Workspace, content: bytes, says: str):
    place.write_bytes("corrections.csv", content)
    with pytest.raises(UsageError, match=says):
        read_corrections(place)
    with pytest.raises(UsageError, match=says):
        decide(place, decided(CAT, "hat"))
    assert place.read_bytes("corrections.csv") == content
