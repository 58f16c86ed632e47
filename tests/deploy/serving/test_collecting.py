"""`--collect`: what is kept of the images that are asked about, and what it never does."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
import typer.main
from PIL import Image

from deploy.serving import server
from deploy.serving.__main__ import main
from deploy.serving.collecting import Collector, is_chosen, parse_share
from deploy.serving.limits import CollectLimits
from deploy.serving.metrics import Metrics
from deploy.serving.model import Answer
from deploy.serving.model_slot import ModelSlot
from flows.cli.main import app
from tasks.errors import UsageError
from tasks.ingest.sources import list_source
from tasks.workspace import Workspace
from tests.deploy.serving.models import publish
from tests.deploy.serving.pictures import encoded
from tests.deploy.serving.running import running
from tests.photos import encoded as encoded_photo
from tests.photos import photo
from tests.runs import make_run

PATIENCE_S = 10
cli = typer.main.get_command(app)


@pytest.fixture(scope="module")
def slot(tmp_path_factory) -> ModelSlot:
    workspace = tmp_path_factory.mktemp("published")
    publish(workspace, 1)
    slot = ModelSlot(Workspace(str(workspace)), "colours")
    slot.refresh()
    return slot


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path / "w"))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def made() -> Iterator[list[Collector]]:
    made: list[Collector] = []
    yield made
    for collector in made:
        collector.close()


@pytest.fixture
def collect(place, metrics, made) -> Callable[..., Collector]:
    def make(share: float = 1.0, **limits) -> Collector:
        made.append(Collector(place, "colours", share, metrics, CollectLimits(**limits)))
        return made[-1]

    return make


def answers(slot: ModelSlot, count: int = 1) -> list[Answer]:
    return slot.infer(np.zeros((count, 8, 8, 3), np.uint8))


def jpegs(count: int) -> list[bytes]:
    return [encoded_photo(photo(seed)) for seed in range(count)]


def outcomes(metrics: Metrics) -> dict[str, float]:
    [found] = metrics.collected.collect()
    return {s.labels["outcome"]: s.value for s in found.samples if s.name.endswith("_total")}


def wait(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.5 %", 0.005), ("0.25", 0.25), ("100%", 1.0)])
def test_a_share(text, share):
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1%", "nan", "one", "1%%"])
def test_what_is_no_share_is_named(text):
    with pytest.raises(UsageError, match="above 0 and at most 100%"):
        parse_share(text)


def test_the_digest_decides_so_it_is_always_the_same_images():
    digests = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(20_000)]
    chosen = {sha256 for sha256 in digests if is_chosen(sha256, 0.1)}
    assert 1_850 < len(chosen) < 2_150
    assert {sha256 for sha256 in digests if is_chosen(sha256, 0.01)} < chosen


def test_images_of_both_protocols_are_kept_by_digest_with_the_answer(slot, place, metrics, collect):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 9, 7, 3), np.uint8)
    content = encoded("green")
    with running(slot.workspace.url, metrics=metrics, collector=collect()) as url:
        for _ in range(3):  # kept once
            assert httpx.post(f"{url}/classify", content=content).json()["label"] == "green"
        assert httpx.post(f"{url}/classify", content=b"no picture").status_code == 400
        tensor = {"name": "image", "shape": [2, 9, 7, 3], "datatype": "UINT8", "data": pixels.ravel().tolist()}
        assert httpx.post(f"{url}/v2/models/colours/infer", json={"inputs": [tensor]}).status_code == 200
        wait(lambda: outcomes(metrics).get("kept") == 3)
        text = httpx.get(f"{url}/metrics").text
        assert httpx.get(f"{url}/about").json()["collected_share"] == 1
    assert 'headstart_collected_images_total{outcome="kept"} 3.0' in text
    assert f"headstart_collected_bytes_total {float(sum(f.size_bytes for f in place.files('inbox/colours')))}" in text
    sha256 = hashlib.sha256(content).hexdigest()
    assert place.read_bytes(f"inbox/colours/{sha256}.jpg") == content
    told = place.read_json(f"inbox/colours.answers/{sha256}.json")
    assert (told["label"], told["version"], next(iter(told["probabilities"]))) == ("green", 1, "green")
    kept = [place.read_bytes(f.path) for f in place.files("inbox/colours") if f.name.endswith(".png")]
    decoded = [np.asarray(Image.open(io.BytesIO(png))) for png in kept]
    assert all(any((each == image).all() for each in decoded) for image in pixels)  # nothing is lost


def test_the_inbox_is_a_folder_of_images_and_nothing_else(slot, place, metrics, collect, tmp_path):
    collector = collect()
    for content in jpegs(3):
        collector.offer([content], answers(slot), "JPEG")
    wait(lambda: outcomes(metrics).get("kept") == 3)
    assert place.names("inbox") == ["colours", "colours.answers"]
    run = make_run(tmp_path / "other", place.path("inbox"))
    assert len(list_source(run).entries) == 3


@pytest.mark.parametrize(("limits", "kept"), [({"max_images": 2}, 2), ({"max_mb": 0.002}, 1)])
def test_it_keeps_no_more_than_it_may_also_after_a_restart(slot, place, metrics, collect, caplog, limits, kept):
    sent = jpegs(4)
    assert all(1000 < len(content) < 2000 for content in sent)
    for _ in range(2):
        collector = collect(**limits)
        for content in sent:
            collector.offer([content], answers(slot), "JPEG")
        collector.close()
    assert len(place.files("inbox/colours")) == kept
    assert outcomes(metrics)["dropped, full"] == 2 * (4 - kept)
    assert caplog.text.count("is full") == 2  # once a minute, of each


def test_what_is_too_old_goes_and_a_persons_own_files_stay(slot, place, metrics, collect):
    collector = collect()
    collector.offer([encoded()], answers(slot), "JPEG")
    collector.close()
    place.write_bytes("inbox/colours/mine.jpg", b"mine")
    long_ago = (datetime.now(UTC) - timedelta(days=11)).timestamp()
    for file in place.files("inbox"):
        os.utime(place.path(file.path), (long_ago, long_ago))
    collect(days=12)
    assert len(place.files("inbox/colours")) == 2
    collect(days=10)
    assert [file.name for file in place.files("inbox")] == ["mine.jpg"]


BOUNDS = ["--collect", "1%", "--collect-images", "7", "--collect-mb", "0.5", "--collect-days", "2"]


@pytest.mark.parametrize("main", [main, lambda given: cli(["serve", *given], standalone_mode=False)])
def test_both_commands_take_the_bounds(tmp_path, monkeypatch, main):
    started = []
    monkeypatch.setattr(server, "listen", lambda app, **_: started.append(app.state.server.collector))
    publish(tmp_path, 1)
    main(["colours", "--workspace", str(tmp_path), *BOUNDS])
    [collector] = started
    assert (collector.share, collector.limits) == (0.01, CollectLimits(max_images=7, max_mb=0.5, days=2))
    collector.close()


def test_a_bound_that_leaves_nothing_is_named(tmp_path, capsys):
    assert main(["colours", "--workspace", str(tmp_path), "--collect-days", "0"]) == 2
    assert "--collect-days takes a number above 0; found 0.0" in capsys.readouterr().err


def test_a_busy_collector_drops_and_never_waits(slot, place, metrics, collect, monkeypatch):
    monkeypatch.setattr(Workspace, "write_json", lambda *_: time.sleep(0.2))
    collector = collect(max_waiting=2)
    started = time.monotonic()
    for content in jpegs(40):
        collector.offer([content], answers(slot), "JPEG")
    assert outcomes(metrics)["dropped, busy"] >= 30
    collector.offer(np.zeros((1, 5000, 5000, 3), np.uint8), answers(slot))  # more bytes than may wait
    assert time.monotonic() - started < 2


def test_a_full_disk_is_a_warning_and_the_request_is_answered(slot, place, metrics, collect, monkeypatch, caplog):
    collector = collect()

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with running(slot.workspace.url, collector=collector) as url:
        for colour in ("red", "blue"):
            assert httpx.post(f"{url}/classify", content=encoded(colour)).json()["label"] == colour
        wait(lambda: outcomes(metrics).get("dropped, not written") == 2)
    assert caplog.text.count("No space left on device") == 1
    assert place.files("inbox") == []


def test_a_workspace_that_cannot_be_written_is_refused_at_the_start(tmp_path, metrics):
    (tmp_path / "w").write_text("a file, not a folder")
    with pytest.raises(UsageError, match=r"--collect keeps images in .*w/inbox/colours, which can't be written"):
        Collector(Workspace(str(tmp_path / "w")), "colours", 1.0, metrics)


def test_it_works_where_the_workspace_is_an_object_store(slot, metrics):
    place = Workspace("memory://collected/w")
    collector = Collector(place, "colours", 1.0, metrics)
    collector.offer([encoded()], answers(slot), "JPEG")
    collector.close()
    assert {file.path.rpartition("/")[0] for file in place.files("inbox")} == {"inbox/colours", "inbox/colours.answers"}
