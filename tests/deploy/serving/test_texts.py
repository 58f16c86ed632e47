"""A server of a model for texts: `/classify`, the protocol, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http
from playwright.sync_api import expect

from deploy.serving.collecting import Collector
from deploy.serving.metrics import Metrics
from tasks.workspace import Workspace
from tests.browser import chromium
from tests.deploy.serving.running import running
from tests.texts import publish_moods

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    workspace = tmp_path_factory.mktemp("served")
    publish_moods(workspace, familiarity=True)
    with running(workspace, name="moods") as url:
        yield url


def test_a_text_is_classified(url: str):
    answer = httpx.post(f"{url}/classify", json={"text": "the ship was good"}).json()
    assert (answer["label"], answer["familiar"], answer["image"]) == ("good", True, None)
    assert [row["label"] for row in answer["classes"]] == ["good", "bad"]
    plain = httpx.post(f"{url}/classify?top=1", content="bad", headers={"Content-Type": "text/plain"}).json()
    assert [row["label"] for row in plain["classes"]] == ["bad"]
    assert httpx.post(f"{url}/classify", json={"text": "late"}).json()["familiar"] is False
    by_curl = {"Content-Type": "application/x-www-form-urlencoded"}  # what `curl -d` calls everything
    assert httpx.post(f"{url}/classify", content=b'{"text": "bad"}', headers=by_curl).json()["label"] == "bad"


@pytest.mark.parametrize(
    ("body", "kind", "status", "says"),
    [
        (b'{"text": 3}', "application/json", 400, "'text': a string, the text; found 3"),
        (b"{}", "application/json", 400, "'text': a string, the text; found nothing"),
        (b"[]", "application/json", 400, "the request has to be a JSON object"),
        (b"{", "application/json", 400, "JSON can't be read"),
        (b'{"text": " "}', "application/json", 400, "it is empty"),
        (b"\xff", "text/plain", 400, "not UTF-8"),
        (b"\xff\xd8\xff", "image/jpeg", 415, "send JSON"),
        (b"text=good", "application/x-www-form-urlencoded", 415, "send JSON"),
    ],
)
def test_what_is_no_text_is_refused_with_what_is_allowed(url: str, body: bytes, kind: str, status: int, says: str):
    answer = httpx.post(f"{url}/classify", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text


def test_tritonclient_sends_texts_as_bytes_and_as_json(url: str):
    client = tritonclient.http.InferenceServerClient(url.removeprefix("http://"))
    assert client.get_model_metadata("moods")["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    texts = np.array(["good ship", "a bad train was late", "very good"], object)
    for binary in (True, False):
        tensor = tritonclient.http.InferInput("text", [3], "BYTES")
        tensor.set_data_from_numpy(texts, binary_data=binary)
        found = client.infer("moods", [tensor])
        labels, probabilities = found.as_numpy("label"), found.as_numpy("probabilities")
        assert labels is not None
        assert labels.tolist() == [b"good", b"bad", b"good"]
        assert probabilities is not None
        assert probabilities.shape == (3, 2)


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        ({"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3]}, "'name': the input is named 'text'"),
        ({"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a"]}, "is 2 texts; found 1"),
        ({"name": "text", "datatype": "BYTES", "shape": [1], "data": [1]}, "'data': as many strings"),
        ({"name": "text", "datatype": "BYTES", "shape": [1]}, "neither 'data', a list of strings"),
        ({"name": "text", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]}, "'shape': [N] or [N, 1]"),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(url: str, tensor: dict, says: str):
    answer = httpx.post(f"{url}/v2/models/moods/infer", content=json.dumps({"inputs": [tensor]}), headers=JSON)
    assert (answer.status_code, says in answer.json()["error"]) == (400, True), answer.text


def test_texts_behind_the_json_that_are_cut_off_are_refused(url: str):
    header = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}]}
    encoded = json.dumps(header).encode()
    headers = {"Inference-Header-Content-Length": str(len(encoded))}
    answer = httpx.post(f"{url}/v2/models/moods/infer", content=encoded + b"\x09\0\0\0ab", headers=headers)
    assert (answer.status_code, "cut off" in answer.json()["error"]) == (400, True), answer.text


def test_a_share_of_the_texts_is_kept_as_what_to_label_next(tmp_path: Path):
    publish_moods(tmp_path)
    collector = Collector(Workspace(str(tmp_path)), "moods", 1.0, Metrics())
    with running(tmp_path, name="moods", collector=collector) as url:
        httpx.post(f"{url}/classify", json={"text": "a good ship"})
    [kept] = (tmp_path / "inbox" / "moods").iterdir()
    assert (kept.suffix, kept.read_text()) == (".txt", "a good ship")


def test_the_page_takes_a_text(url: str):
    with chromium() as browser:
        page = browser.new_page()
        page.goto(url)
        expect(page.locator("#drop")).to_be_hidden()
        page.locator("#text").fill("the ship was very bad")
        page.locator("#write button").click()
        expect(page.locator("#label")).to_have_text("bad")
        page.locator("#text").fill("late")
        page.locator("#text").press("Control+Enter")
        expect(page.locator("#unfamiliar")).to_be_visible()
        page.close()
