"""The cards of the latest run, and decisions that outlive the process."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from deploy.review.session import open_session
from tasks.errors import SourceError, UsageError
from tasks.storage.corrections import Correction, decide, read_corrections
from tasks.workspace import Workspace
from tests.deploy.review.reviews import first, make_review

WHO: dict[str, Any] = {"by": "anna", "when": "2026-11-26T10:00:00+00:00"}


@pytest.fixture
def session(tmp_path):
    return open_session(make_review(tmp_path), "shapes")


def test_a_decision_is_there_for_whoever_opens_it_next(session):
    card = first(session)
    assert (card["label"], card["suggested"], card["decision"], card["seen"]) == ("cat", "dog", None, 0)
    assert "uri" not in str(session.state())  # places of files are no matter of the page
    assert session.decide(card["sha256"], "dog", **WHO, seen=0)
    again = first(open_session(session.workspace, "shapes"))
    assert again["decision"] == {"label": "dog", "by": "anna", "line": 2}
    [row] = read_corrections(session.workspace).rows
    assert row.reason == "review of cat, 90% likely wrong, suggested dog"
    assert session.undo(card["sha256"], **WHO)
    assert first(session)["decision"] is None
    assert not session.undo(card["sha256"], **WHO)


def test_a_decision_that_means_nothing_here_leaves_the_card_open(session):
    sha256 = first(session)["sha256"]
    text = f"sha256,label\n{sha256},a class of another model\n"
    session.workspace.write_bytes("corrections.csv", text.encode())
    card = first(session)
    assert (card["decision"], card["seen"]) == (None, 2)
    assert session.decide(sha256, "cat", **WHO, seen=2)


@pytest.mark.parametrize(("sha256", "label"), [("0" * 64, "dog"), (None, "horse")])
def test_only_cards_and_classes_of_this_review_can_be_decided(session, sha256, label):
    with pytest.raises(UsageError, match="there is no"):
        session.decide(sha256 or first(session)["sha256"], label, **WHO)
    assert read_corrections(session.workspace).rows == ()


def test_a_file_in_two_classes_comes_first(tmp_path):
    session = open_session(make_review(tmp_path, conflict=True), "shapes")
    card = first(session)
    assert (card["label"], card["suggested"], card["wrong"], card["copies"]) == ("cat", "dog", None, [])
    assert card["labels"] == [{"label": "cat", "path": "cat/both.jpg"}, {"label": "dog", "path": "dog/both.jpg"}]
    assert session.decide(card["sha256"], "cat", **WHO)
    assert len(session.state()["cards"]) == 5


def test_the_same_picture_in_several_files_is_one_question_and_one_answer(tmp_path):
    session = open_session(make_review(tmp_path, same="pixels"), "shapes")
    card = first(session)
    assert [each["label"] for each in card["labels"]] == ["cat", "dog"]
    assert [(copy["path"], copy["label"]) for copy in card["copies"]] == [("dog/same.bmp", "dog")]
    [copy] = card["copies"]
    assert session.item(copy["sha256"], "small")[1] == "image/jpeg"
    assert session.decide(card["sha256"], "dog", **WHO, seen=0)
    standing = read_corrections(session.workspace).standing()
    assert {sha256: row.label for sha256, row in standing.items()} == {card["sha256"]: "dog", copy["sha256"]: "dog"}
    assert standing[copy["sha256"]].reason == "review of dog"
    assert not session.decide(card["sha256"], "cat", **WHO, seen=0)  # somebody decided meanwhile
    assert session.undo(card["sha256"], **WHO)
    assert read_corrections(session.workspace).standing() == {}


def test_undo_leaves_what_was_decided_about_a_copy_alone(tmp_path):
    session = open_session(make_review(tmp_path, same="pixels"), "shapes")
    card = first(session)
    copy = card["copies"][0]["sha256"]
    session.decide(card["sha256"], "dog", **WHO)
    decide(session.workspace, Correction(sha256=copy, label="cat"))
    assert session.undo(card["sha256"], **WHO)
    assert {sha256: row.label for sha256, row in read_corrections(session.workspace).standing().items()} == {
        copy: "cat"
    }


def test_pictures_are_small_and_only_those_of_the_cards(session, tmp_path):
    card = first(session)
    for sha256 in (card["sha256"], card["neighbours"][0]["sha256"], card["copies"][0]["sha256"]):
        with Image.open(io.BytesIO(session.item(sha256, "small")[0])) as image:
            assert (image.format, max(image.size)) == ("JPEG", 48)
    for sha256, size in (("0" * 64, "small"), (card["sha256"], "huge"), ("../x", "small")):
        with pytest.raises(SourceError, match="no such picture"):
            session.item(sha256, size)
    (tmp_path / "photos" / card["path"]).write_bytes(b"another")
    with pytest.raises(SourceError, match="another one by now"):
        session.item(card["sha256"], "small")


def test_without_a_run_it_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="run headstart retrain SOURCE --name shapes"):
        open_session(Workspace(str(tmp_path)), "shapes")
