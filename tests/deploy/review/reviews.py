"""A finished run with doubtful labels on real small photographs, laid out without running the stages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.review.app import create_app
from deploy.review.session import Session, open_session
from tasks.modality.items import uri_of_text
from tasks.storage.quarantine import LeftOut, quarantine
from tasks.storage.tables import snapshot_schema
from tasks.workspace import Workspace
from tests.deploy.serving.running import running_app
from tests.photos import photo, save
from tests.runs import keep_snapshot, make_run

LABELS = ("cat", "dog", "<b>owl</b>")
TOKEN = "t" * 32
RUN_ID = "20260102T030405-shapes-abcdef"


def make_review(folder: Path, cards: int = 4, conflict: bool = False, same: str | None = None) -> Workspace:
    """A workspace whose last run has so many cards, all labelled cat and rather dogs, half of them likely wrong.

    Args:
        conflict: a file lies in two classes.
        same: the digest of the pixels that two files in two classes have.
    """
    run = make_run(folder / "w", folder / "photos", RUN_ID)
    paths = [save(folder / f"photos/cat/{n}.jpg", photo(n, hue=n)) for n in range(cards + 3)]
    rows = [{"sha256": digest(path), "path": f"cat/{path.name}", "uri": str(path), "label": "cat"} for path in paths]
    neighbours = rows[cards : cards + 2]
    found = [
        {**row, "split": ("train", "test")[n % 2], "suggested": "dog"}
        | {"wrong": 0.9 if n < cards / 2 else 0.2, "probability": 0.1, "suggested_probability": 0.7}
        | {"copies": [{**rows[-1], "label": "dog"}] if n == 0 else [], "neighbours": neighbours}
        for n, row in enumerate(rows[:cards])
    ]
    table = snapshot_schema("image").empty_table().to_pandas().reindex(range(len(rows)))
    table[["copies", "size_bytes", "width_px", "height_px"]] = 1
    table = table.assign(**{name: [row[name] for row in rows] for name in rows[0]}, split="train", group="g")
    snapshot = keep_snapshot(run, table)
    run.workspace.write_json("artifacts/review/k/review.json", {"labels": LABELS, "cards": found})
    summary = {
        "run_id": RUN_ID,
        "source": run.source,
        "snapshot": snapshot.id,
        "artifacts": {"review": "artifacts/review/k"},
    }
    summary |= {"config": run.config.model_dump(by_alias=True)}
    run.workspace.write_json(run.path("summary.json"), summary)
    if conflict:
        both = save(folder / "photos/dog/both.jpg", photo(99))
        left_out = [
            LeftOut(f"{label}/both.jpg", digest(both), label, "two labels", True, str(both)) for label in ("cat", "dog")
        ]
        quarantine(run, left_out)
    if same:
        files = [save(folder / f"photos/{label}/same.{ending}", photo(98)) for label, ending in SAME]
        left_out = [
            LeftOut(f"{label}/{file.name}", digest(file), label, "two labels", True, str(file), same)
            for (label, _), file in zip(SAME, files, strict=True)
        ]
        quarantine(run, left_out)
    return run.workspace


SAME = (("cat", "png"), ("dog", "bmp"))


def make_text_review(folder: Path, same_words: Sequence[str] = ()) -> Workspace:
    """A workspace whose last run has one doubtful text, with two that resemble it.

    Args:
        same_words: texts that were left out because their words are the same, under one label after the other.
    """
    run = make_run(folder / "w", folder / "moods.csv", RUN_ID, config={"ingest": {"task": "text"}})
    texts = ("the ship was <b>late</b>", "a good ship", "very late\u2028again")
    rows = [
        {"sha256": sha256_of(text), "path": f"line {n}", "uri": uri_of_text(text)} | {"label": "good_mood"}
        for n, text in enumerate(texts, start=2)
    ]
    table = snapshot_schema("text").empty_table().to_pandas().reindex(range(len(rows)))
    table[["copies", "size_bytes", "characters"]] = 1
    table = table.assign(**{name: [row[name] for row in rows] for name in rows[0]}, split="train", group="g")
    snapshot = keep_snapshot(run, table)
    card = {**rows[0], "split": "train", "suggested": "bad", "wrong": 0.9, "probability": 0.1}
    card |= {"suggested_probability": 0.7, "copies": [], "neighbours": rows[1:]}
    run.workspace.write_json("artifacts/review/k/review.json", {"labels": ("good_mood", "bad"), "cards": [card]})
    summary = {"run_id": RUN_ID, "source": run.source, "snapshot": snapshot.id}
    summary |= {"artifacts": {"review": "artifacts/review/k"}, "config": run.config.model_dump(by_alias=True)}
    run.workspace.write_json(run.path("summary.json"), summary)
    labels = ("good_mood", "bad")
    left_out = [
        LeftOut(f"line {n}", sha256_of(text), labels[n % 2], "two labels", True, uri_of_text(text), "words")
        for n, text in enumerate(same_words, start=10)
    ]
    quarantine(run, left_out)
    return run.workspace


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def reviewing(workspace: Workspace, by: str = "anna") -> Iterator[tuple[str, Session]]:
    """A real server's address, with the token, and its session."""
    session = open_session(workspace, "shapes")
    with running_app(create_app(session, TOKEN, by=by)) as url:
        yield f"{url}/{TOKEN}/", session


def first(session: Session) -> dict[str, Any]:
    return session.state()["cards"][0]
