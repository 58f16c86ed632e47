"""What the review's server answers, and to whom."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from deploy.review.session import Session
from tasks.storage.corrections import read_corrections
from tests.deploy.review.reviews import TOKEN, first, make_review, reviewing


@pytest.fixture
def review(tmp_path) -> Iterator[tuple[str, Session]]:
    with reviewing(make_review(tmp_path)) as served:
        yield served


@pytest.fixture
def session(review) -> Session:
    return review[1]


@pytest.fixture
def client(review) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=review[0]) as client:
        yield client


def ask(client: httpx.Client, path: str, **body) -> httpx.Response:
    return client.post(path, json=body)


def test_decide_undo_and_a_page_that_is_behind(client, session):
    sha256 = first(session)["sha256"]
    done = ask(client, "decide", sha256=sha256, label="dog", seen=0)
    assert (done.status_code, done.json()["card"]["decision"]["label"]) == (200, "dog")
    behind = ask(client, "decide", sha256=sha256, label="drop", seen=0)
    assert (behind.status_code, behind.json()["card"]["decision"]["label"]) == (409, "dog")
    assert ask(client, "undo", sha256=sha256, seen=0).status_code == 409
    undone = ask(client, "undo", sha256=sha256, seen=behind.json()["card"]["seen"])
    assert (undone.status_code, undone.json()["card"]["decision"]) == (200, None)
    assert client.get("state").json()["cards"][0]["seen"] == 3
    assert [row.by for row in read_corrections(session.workspace).rows] == ["anna", "anna"]


@pytest.mark.parametrize("path", ["", "page.css", "page.js", "state", "item/small/x"])
def test_every_answer_keeps_others_out(client, path):
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert (headers["referrer-policy"], headers["x-content-type-options"]) == ("no-referrer", "nosniff")


@pytest.mark.parametrize("path", ["/", "/state", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/state", "//state", "/%00/", "/ü/state"])
def test_without_the_token_there_is_nothing(review, path):
    answer = httpx.get(review[0].replace(f"/{TOKEN}/", path))
    assert answer.status_code == 404
    assert TOKEN not in answer.text


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:9"}, {"Origin": "null"}],
)
def test_another_name_or_another_page_is_refused_with_the_token_even(client, session, headers):
    body = {"sha256": first(session)["sha256"], "label": "dog", "seen": 0}
    assert client.post("decide", json=body, headers=headers).status_code == 403
    assert client.get("state", headers=headers).status_code == 403
    assert read_corrections(session.workspace).rows == ()


def test_its_own_page_may_ask(client, session):
    body = {"sha256": first(session)["sha256"], "label": "dog", "seen": 0}
    own = str(client.base_url).partition(f"/{TOKEN}")[0]
    assert client.post("decide", json=body, headers={"Origin": own}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"sha256": "0" * 64, "label": "dog", "seen": 0}, 400),
        ({"sha256": "x", "label": "dog", "seen": 0}, 400),
        ({"sha256": None, "label": "dog", "seen": -1}, 400),
        ({"sha256": None, "label": "dog", "seen": "0"}, 400),
        ({"sha256": None, "label": "x" * 20_000, "seen": 0}, 413),
        ({"sha256": None, "label": "dog", "seen": 0, "by": "somebody else"}, 400),
    ],
)
def test_what_is_no_decision_is_refused(client, session, body, status):
    if "sha256" in body:
        body = {**body, "sha256": body["sha256"] or first(session)["sha256"]}
    answer = client.post("decide", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert read_corrections(session.workspace).rows == ()


def test_a_decision_is_json_and_of_known_length(client, session):
    text = f'{{"sha256": "{first(session)["sha256"]}", "label": "dog", "seen": 0}}'
    assert client.post("decide", content=text, headers={"Content-Type": "text/plain"}).status_code == 400
    assert client.post("decide", content=iter([text.encode()])).status_code == 413


def test_pictures_and_their_faults(client, session, tmp_path):
    card = first(session)
    answer = client.get(f"item/large/{card['sha256']}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    (tmp_path / "photos" / card["path"]).unlink()
    gone = client.get(f"item/large/{card['sha256']}")
    assert gone.status_code == 404
    assert "can't read" in gone.json()["error"]


def test_a_file_that_a_person_broke_is_named(client, session):
    session.workspace.write_bytes("corrections.csv", b"nonsense\n")
    answer = ask(client, "decide", sha256=next(iter(session.cards)), label="dog", seen=0)
    assert answer.status_code == 400
    assert "has no column sha256" in answer.json()["error"]
