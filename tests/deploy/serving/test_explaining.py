"""`POST /explain`: where the evidence lies, and the nearest training items where they may be seen."""

from __future__ import annotations

import base64
import io
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from deploy.serving import explaining
from deploy.serving.hosts import AllowedHosts
from deploy.serving.limits import Limits
from tasks.pool.attribution import ImageAttributor
from tasks.pool.cut import cut_champion
from tasks.pool.embedding import embed_missing
from tasks.pool.training import training_items
from tests import photos
from tests.deploy.serving.models import publish
from tests.deploy.serving.pictures import RGB, encoded
from tests.deploy.serving.running import LIMITS, running
from tests.deploy.serving.test_reload import wait_for_version
from tests.pool.colours import NAME, publish_colours
from tests.texts import publish_moods


def trained(folder: Path) -> Path:
    """A workspace with a model, its snapshot and the rows of its training photographs, which lie in folder/photos."""
    run = publish_colours(folder)
    model = cut_champion(run.workspace, NAME)
    embed_missing(run, model, training_items(run.workspace, model))
    return folder / "w"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def url(workspace: Path) -> Iterator[str]:
    with running(workspace, limits=LIMITS) as url:
        yield url


def explain(url: str, content: bytes, status: int = 200, **headers: str) -> dict:
    answer = httpx.post(f"{url}/explain", content=content, headers=headers, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.json()


def sides(data: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).size


def test_a_photograph_has_its_heat_and_three_training_photographs(url: str):
    content = encoded("green")
    found, answer = explain(url, content), httpx.post(f"{url}/classify", content=content).json()
    assert [found[key] for key in ("model", "version", "label", "image")] == [
        answer[key] for key in ("model", "version", "label", "image")
    ]
    assert found["probability"] == pytest.approx(answer["probability"], abs=1e-6)
    assert np.shape(found["heat"]) == (7, 7)
    assert found["heat_map"].startswith("data:image/png;base64,")
    assert sides(found["heat_map"]) == (96, 72)
    assert [near["label"] for near in found["nearest"]] == ["green"] * 3
    assert all(near["picture"].startswith("data:image/jpeg;base64,") for near in found["nearest"])
    assert max(side for near in found["nearest"] for side in sides(near["picture"])) <= explaining.NEAR_PX
    assert found["nearest_missing"] is None


def test_the_heat_lies_where_the_evidence_does(url: str):
    halves = Image.new("RGB", (80, 80), (90, 90, 90))
    halves.paste(RGB["blue"], (0, 0, 40, 80))
    buffer = io.BytesIO()
    halves.save(buffer, "PNG")
    found = explain(url, buffer.getvalue())
    heat = np.array(found["heat"])
    assert found["label"] == "blue"
    assert heat[:, :2].min() > 0.1
    assert heat[:, :2].min() > 5 * np.abs(heat[:, -2:]).max()


def test_no_address_of_a_training_photograph_is_told_and_none_is_its_own_neighbour(url: str, workspace: Path):
    [own, *_] = sorted((workspace.parent / "photos" / "0red").glob("*.jpg"))
    answer = httpx.post(f"{url}/explain", content=own.read_bytes(), timeout=60)
    assert str(workspace.parent) not in answer.text
    assert own.name not in answer.text
    pictures = [near["picture"] for near in answer.json()["nearest"]]
    assert len(set(pictures)) == 3
    shown = explaining.preview(str(own), explaining.NEAR_PX)["picture"]
    assert shown not in pictures


@pytest.mark.parametrize(
    ("content", "kind", "status", "says"),
    [
        (b"only a text", "image/jpeg", 400, "not an image of a supported kind"),
        (b"", "image/jpeg", 400, "the file is empty"),
        (encoded()[:200], "image/jpeg", 400, "header can't be read"),
        (encoded("red", "PNG", (400, 400)), "image/png", 413, "400x400 pixels are more than the 100000 allowed here"),
        (bytes(300_000), "image/jpeg", 413, "more than the 200000 bytes allowed here"),
        (b"{}", "application/json", 415, "send an image file"),
    ],
)
def test_what_can_not_be_used_is_refused_as_by_classify(url: str, content: bytes, kind: str, status: int, says: str):
    headers = {"Content-Type": kind}
    answers = [httpx.post(f"{url}/{route}", content=content, headers=headers) for route in ("explain", "classify")]
    assert [answer.status_code for answer in answers] == [status] * 2
    assert answers[0].text == answers[1].text
    assert says in answers[0].text


def test_a_page_of_another_site_may_not_ask(url: str):
    assert "may not ask" in explain(url, encoded(), 403, Origin="http://evil.example")["error"]
    assert "none of its names" in explain(url, encoded(), 403, Host="evil.example")["error"]


@pytest.mark.parametrize("hosts", [AllowedHosts("0.0.0.0"), AllowedHosts(names=["models.example"])])
def test_other_machines_see_no_training_photograph_unless_they_may(workspace: Path, hosts: AllowedHosts):
    with running(workspace, hosts=hosts) as url:
        found = explain(url, encoded("blue"))
    assert (found["nearest"], found["label"]) == ([], "blue")
    assert found["heat_map"]
    assert "other machines can ask this server; start it with --show-training" in found["nearest_missing"]
    with running(workspace, hosts=hosts, show_training=True) as url:
        assert [near["label"] for near in explain(url, encoded("blue"))["nearest"]] == ["blue"] * 3


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_server_of_the_model_alone_has_the_heat_map_and_says_so(workspace: Path, tmp_path: Path, host: str):
    shutil.copytree(workspace / "models", tmp_path / "models")
    with running(tmp_path, hosts=AllowedHosts(host)) as url:
        found = explain(url, encoded("red"))
    assert (found["label"], found["nearest"]) == ("red", [])
    assert found["heat_map"]
    assert "this server can read the published model alone" in found["nearest_missing"]


def test_without_stored_rows_it_says_what_stores_them_and_stores_none_itself(tmp_path: Path):
    publish_colours(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with running(tmp_path / "w") as url:
        found = explain(url, encoded("red"))
    assert found["nearest"] == []
    assert "`headstart explain` stores them" in found["nearest_missing"]
    assert sorted(tmp_path.rglob("*")) == before


def test_another_file_in_the_place_of_a_training_photograph_is_not_shown(tmp_path: Path):
    workspace = trained(tmp_path)
    for number, path in enumerate(sorted((tmp_path / "photos" / "1green").iterdir())):
        if number % 2:
            path.unlink()
        else:
            photos.save(path, photos.photo(4242, hue=5))
    with running(workspace) as url:
        found = explain(url, encoded("green"))
    assert found["nearest"] == [{"label": "green", "picture": None, "text": None}] * 3


def test_each_version_is_cut_once_and_only_when_it_is_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cut: list[str] = []

    def cutting(content, manifest, tokenizer):
        cut.append(manifest["version"])
        return real(content, manifest, tokenizer)

    real = explaining.cut_model
    monkeypatch.setattr(explaining, "cut_model", cutting)
    publish(tmp_path, 1)
    with running(tmp_path, poll_s=0.05) as url:
        httpx.post(f"{url}/classify", content=encoded("red"))
        assert cut == []
        assert [explain(url, encoded("red"))["label"] for _ in range(2)] == ["red"] * 2
        publish(tmp_path, 2)
        wait_for_version(url, 2)
        found = [explain(url, encoded("red")) for _ in range(2)]
    assert [(each["version"], each["label"]) for each in found] == [(2, "green")] * 2  # its answers turn with it
    assert cut == [1, 2]


def test_a_file_that_changed_since_it_was_verified_is_not_loaded(tmp_path: Path):
    folder = publish(tmp_path, 1)
    with running(tmp_path) as url:
        shutil.copy(publish(tmp_path / "aside", 2) / "model.onnx", folder)
        assert "version 1 can't be read again" in explain(url, encoded("red"), 503)["error"]
        assert httpx.post(f"{url}/classify", content=encoded("red")).json()["label"] == "red"


def test_explanations_take_turns_and_answers_do_not_wait_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    publish(tmp_path, 1)
    begun, released = threading.Event(), threading.Event()
    real = ImageAttributor.__call__

    def slow(self, pixels):
        begun.set()
        released.wait(60)
        return real(self, pixels)

    monkeypatch.setattr(ImageAttributor, "__call__", slow)
    # Of pixels there is room for one picture and its neighbour: who waits for a turn has to hold none.
    limits = Limits(timeout_s=1.0, max_pixels_at_once=2 * 64 * 48)
    with running(tmp_path, limits=limits) as url, ThreadPoolExecutor(3) as pool:
        first = pool.submit(explain, url, encoded(), 503)
        assert begun.wait(60)
        others = [pool.submit(explain, url, encoded(), 503) for _ in range(2)]
        assert httpx.post(f"{url}/classify", content=encoded("blue")).json()["label"] == "blue"
        assert "no explanation within 1 s" in first.result()["error"]
        assert all("within 1 s" in each.result()["error"] or "for 1 s" in each.result()["error"] for each in others)
        released.set()
        assert explain(url, encoded("blue"))["label"] == "blue"


def test_without_a_model_there_is_nothing_to_explain(tmp_path: Path):
    with running(tmp_path) as url:
        assert "can be served yet" in explain(url, encoded(), 503)["error"]


def test_of_a_text_the_words_that_speak_for_its_class(tmp_path: Path):
    publish_moods(tmp_path)
    with running(tmp_path, name="moods") as url:
        found = httpx.post(f"{url}/explain", json={"text": "the ship  was good"}, timeout=60).json()
        empty = httpx.post(f"{url}/explain", json={"text": " "})
        picture = httpx.post(f"{url}/explain", content=encoded(), headers={"Content-Type": "image/jpeg"})
    assert (found["label"], found["image"], found["heat"], found["heat_map"]) == ("good", None, None, None)
    assert [each["word"] for each in found["words"]] == ["the", "ship", "was", "good"]
    assert max(found["words"], key=lambda each: each["weight"])["word"] == "good"
    assert "The training texts are not known here" in found["nearest_missing"]
    assert (empty.status_code, picture.status_code) == (400, 415)
