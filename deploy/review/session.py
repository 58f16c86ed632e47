"""The cards of a model's latest run, each with what was decided about it.

Nothing is kept here: decisions are read from `corrections.csv` and written there at once. So a page may be loaded
again, several may be open, and the process may be killed at any moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tasks.errors import SourceError, UsageError
from tasks.modality.items import read_bytes
from tasks.modality.texts.content import decode_text
from tasks.modality.thumbnails import thumbnail
from tasks.runs import finished_runs, task_of
from tasks.storage.corrections import DROP, Correction, Corrections, decide, read_corrections, undo
from tasks.storage.quarantine import FILE as QUARANTINE
from tasks.storage.quarantine import QuarantineEntry, disputed, read_entries
from tasks.storage.snapshots import read_snapshot
from tasks.workspace import Workspace

CARDS = "review.json"  # of the review's artifact
LIKELY = 0.5  # probability of being wrong
SIDES_PX = {"small": 240, "large": 1200}


@dataclass(frozen=True, kw_only=True)
class Session:
    """What one process shows: it stays the same while people decide.

    `cards` are as `tasks.validate.cards.review_cards` makes them, without the places of their images; those are in
    `places`, by digest. What lies in several classes comes first (see `_conflict`): `wrong` is None, and `labels` has a
    {label, path} for each class. Its `copies` have the same pixels or words; a decision about it is about them, too.
    """

    workspace: Workspace
    name: str
    run_id: str
    source: str
    labels: tuple[str, ...]
    task: str  # of its items: `image` or `text`
    cards: Mapping[str, Mapping[str, Any]]  # by digest, the most doubtful first
    places: Mapping[str, str]
    max_bytes: int
    max_pixels: int

    def state(self) -> dict[str, Any]:
        """All that the page shows: the cards with their decisions, and the classes."""
        corrections = read_corrections(self.workspace)
        cards = [{**card, **self._decided(sha256, corrections)} for sha256, card in self.cards.items()]
        kept = {"name": self.name, "run": self.run_id, "source": self.source, "labels": self.labels}
        return {**kept, "task": self.task, "cards": cards}

    def decide(self, sha256: str, label: str, *, by: str, when: str, seen: int | None = None) -> bool:
        """Gives an image a label, its own one to confirm it, or DROP; one in several classes with all of its copies.

        Args:
            seen: see `tasks.storage.corrections.decide`.

        Returns:
            Whether it was written; it is not where somebody else decided about the image meanwhile.

        Raises:
            UsageError: there is no such card or class.
        """
        card = self._card(sha256)
        if label != DROP and label not in self.labels:
            raise UsageError(f"there is no class {label!r} here; the classes are {', '.join(self.labels)}")
        doubt = "" if card["wrong"] is None else f", {card['wrong']:.0%} likely wrong"
        reason = f"review of {card['label']}{doubt}, suggested {card['suggested']}"
        made = Correction(sha256=sha256, label=label, by=by, when=when, reason=reason)
        if not decide(self.workspace, made, seen):
            return False
        for copy in _same(card):
            decide(self.workspace, replace(made, sha256=copy["sha256"], reason=f"review of {copy['label']}"))
        return True

    def undo(self, sha256: str, *, by: str, when: str, seen: int | None = None) -> bool:
        """Takes the last decision about an image back. Returns and raises as `decide`."""
        card = self._card(sha256)
        before = read_corrections(self.workspace).standing()
        if not undo(self.workspace, sha256, by=by, when=when, seen=seen):
            return False
        for copy in (each["sha256"] for each in _same(card)):
            # Not where somebody decided otherwise about the copy alone.
            if copy in before and before[copy].label == before[sha256].label:
                undo(self.workspace, copy, by=by, when=when)
        return True

    def card(self, sha256: str) -> dict[str, Any]:
        """One card with its decision. Raises UsageError where there is none."""
        return {**self._card(sha256), **self._decided(sha256, read_corrections(self.workspace))}

    def item(self, sha256: str, size: str) -> tuple[bytes, str]:
        """An item of a card as the page shows it, and its media type: a text, or a picture of SIDES_PX at most.

        Raises:
            SourceError: it is none of a card, it can't be read, or it is another image by now.
            DecodeError: it can't be decoded.
        """
        if sha256 not in self.places or size not in SIDES_PX:
            raise SourceError("there is no such picture here")
        content = read_bytes(self.places[sha256], self.max_bytes)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise SourceError("the file is another one by now: run the retrain again")
        if self.task == "text":
            return decode_text(content).encode(), "text/plain; charset=utf-8"
        return thumbnail(content, SIDES_PX[size], quality=82, max_pixels=self.max_pixels), "image/jpeg"

    def _card(self, sha256: str) -> Mapping[str, Any]:
        if sha256 not in self.cards:
            raise UsageError(f"there is no such {self.task} in this review")
        return self.cards[sha256]

    def _decided(self, sha256: str, corrections: Corrections) -> dict[str, Any]:
        """The decision about an image, if it means something here, and the last line about it."""
        made = corrections.standing().get(sha256)
        known = made if made and made.label in (DROP, *self.labels) else None
        decision = known and {"label": known.label, "by": known.by, "line": known.line}
        return {"decision": decision, "seen": corrections.last_lines().get(sha256, 0)}


def open_session(workspace: Workspace, name: str) -> Session:
    """The review of a model's latest run that came as far.

    Raises:
        UsageError: there is none.
    """
    summary, path = _latest(workspace, name)
    found = workspace.read_json(path)
    table = read_snapshot(workspace, summary["snapshot"], ["sha256", "uri"])
    now = dict(zip(table["sha256"], table["uri"], strict=True))  # the source may have been moved since
    cards = {card["sha256"]: card for card in [*_conflicts(workspace, summary["run_id"]), *found["cards"]]}
    images = [each for card in cards.values() for each in (card, *card["copies"], *card["neighbours"])]
    ingest = summary["config"]["ingest"]
    return Session(
        workspace=workspace,
        name=name,
        run_id=summary["run_id"],
        source=summary["source"],
        labels=tuple(found["labels"]),
        task=task_of(summary),
        cards={sha256: _without_places(card) for sha256, card in cards.items()},
        places={each["sha256"]: now.get(each["sha256"], each["uri"]) for each in images},
        max_bytes=ingest["max_bytes"],
        max_pixels=ingest["max_pixels"],
    )


def _latest(workspace: Workspace, name: str) -> tuple[dict[str, Any], str]:
    for summary in finished_runs(workspace, name):
        path = f"{summary.get('artifacts', {}).get('review')}/{CARDS}"
        if summary.get("snapshot") and workspace.exists(path):
            return summary, path
    raise UsageError(
        f"no run of {name!r} in {workspace.url} has reviewed its labels; run headstart retrain SOURCE --name {name} "
        "(with --force where nothing is new)"
    )


def _conflicts(workspace: Workspace, run_id: str) -> Iterator[dict[str, Any]]:
    """A card for all that was left out because it lies in several classes; they come first."""
    for entries in disputed(read_entries(workspace, f"runs/{run_id}/{QUARANTINE}")):
        yield _conflict(entries)


def _conflict(entries: Sequence[QuarantineEntry]) -> dict[str, Any]:
    """The card of one file or text in several classes, or of several with the same pixels or words."""
    by_label: dict[str | None, QuarantineEntry] = {}
    by_digest: dict[str | None, QuarantineEntry] = {}
    for entry in entries:
        by_label.setdefault(entry.label, entry)
        by_digest.setdefault(entry.sha256, entry)
    given, other = list(by_label.values())[:2]
    copies = [entry for sha256, entry in by_digest.items() if sha256 != given.sha256]
    return {
        **_place(given),
        **{"split": "", "suggested": other.label},
        **dict.fromkeys(("wrong", "probability", "suggested_probability")),
        **{"labels": [{"label": label, "path": entry.path} for label, entry in by_label.items()]},
        **{"copies": [_place(entry) for entry in copies], "neighbours": []},
    }


def _place(entry: QuarantineEntry) -> dict[str, Any]:
    return {"sha256": entry.sha256, "path": entry.path, "uri": entry.uri, "label": entry.label}


def _same(card: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What a decision about a card is about beside its own image: the copies of one that lies in several classes."""
    return card["copies"] if card["wrong"] is None else ()


def _without_places(card: Mapping[str, Any]) -> dict[str, Any]:
    def plain(image: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in image.items() if key != "uri"}

    def all_plain(images: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [plain(image) for image in images]

    return {**plain(card), "copies": all_plain(card["copies"]), "neighbours": all_plain(card["neighbours"])}
