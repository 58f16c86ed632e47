import asyncio
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from fastapi import Request
from PIL import Image

from deploy.serving.limits import Limits
from deploy.serving.requests import PendingBytes, decode_image, read_body
from tasks.errors import RequestError
from tests.deploy.serving.models import colour_model, publish
from tests.deploy.serving.pictures import DIM, RGB, encoded
from tests.deploy.serving.running import running


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[httpx.Client]:
    workspace = tmp_path_factory.mktemp("served")
    publish(workspace, 1)
    with running(workspace) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def infer_body(pixels: np.ndarray, **changes) -> dict:
    tensor = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.ravel().tolist()}
    return {"inputs": [{**tensor, **changes}]}


@pytest.mark.parametrize("colour", list(RGB))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_classify_takes_an_image_file(client, colour, kind):
    answer = client.post("/classify", content=encoded(colour, kind)).json()
    assert answer["label"] == colour
    assert answer["version"] == 1
    assert answer["image"] == {"width_px": 64, "height_px": 48}
    assert answer["classes"][0] == {"label": colour, "probability": answer["probability"]}
    assert sum(each["probability"] for each in answer["classes"]) == pytest.approx(1, abs=1e-6)


def test_classify_takes_a_form_with_a_file_under_any_name(client):
    files = {"whatever": ("a name with spaces ü.jpg", encoded("green"), "image/jpeg")}
    assert client.post("/classify", files=files, data={"note": "x"}).json()["label"] == "green"


def test_classify_takes_what_curl_sends_by_default(client):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/classify", content=encoded("blue"), headers=headers).json()["label"] == "blue"


def test_classify_gives_as_many_classes_as_asked_for(client):
    assert len(client.post("/classify?top=2", content=encoded()).json()["classes"]) == 2
    assert len(client.post("/classify?top=99", content=encoded()).json()["classes"]) == 3


def test_classify_turns_a_photograph_upright(client):
    exif = Image.Exif()
    exif[274] = 6  # orientation: rotated by 90 degrees
    content = encoded("red", exif=exif)
    assert client.post("/classify", content=content).json()["image"] == {"width_px": 48, "height_px": 64}


@pytest.fixture(scope="module")
def knowing(tmp_path_factory) -> Iterator[httpx.Client]:
    """A client of a model that says how familiar an image is."""
    workspace = tmp_path_factory.mktemp("knowing")
    publish(workspace, 1, content=colour_model(familiarity=True))
    with running(workspace) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_an_answer_says_whether_the_image_is_familiar(knowing: httpx.Client):
    bright, dim = (knowing.post("/classify", content=encoded(colour)).json() for colour in ("red", "dim"))
    assert (bright["familiar"], dim["familiar"]) == (True, False)
    assert bright["familiarity"] > 0.9
    assert dim["familiarity"] < 0.1
    text = knowing.get("/metrics").text
    assert 'headstart_images_total{familiar="true"} 1.0' in text
    assert 'headstart_images_total{familiar="false"} 1.0' in text


def test_familiarity_is_an_output_of_the_v2_protocol(knowing: httpx.Client):
    outputs = [each["name"] for each in knowing.get("/v2/models/colours").json()["outputs"]]
    assert outputs == ["probabilities", "label", "familiarity"]
    assert knowing.get("/v2/models/colours/config").json()["output"][2]["data_type"] == "TYPE_FP32"
    pixels = np.stack([np.full((8, 8, 3), colour, np.uint8) for colour in (RGB["red"], DIM)])
    answer = knowing.post("/v2/models/colours/infer", json=infer_body(pixels)).json()
    assert [output["name"] for output in answer["outputs"]] == outputs
    bright, dim = answer["outputs"][2]["data"]
    assert bright > 0.9
    assert dim < 0.1
    asked = infer_body(pixels) | {"outputs": [{"name": "familiarity"}]}
    [only] = knowing.post("/v2/models/colours/infer", json=asked).json()["outputs"]
    assert (only["datatype"], only["shape"]) == ("FP32", [2])


def test_a_model_that_does_not_say_it_has_no_such_output(client: httpx.Client):
    answer = client.post("/classify", content=encoded("red")).json()
    assert (answer["familiarity"], answer["familiar"]) == (None, None)
    asked = infer_body(np.zeros((1, 4, 4, 3), np.uint8)) | {"outputs": [{"name": "familiarity"}]}
    refused = client.post("/v2/models/colours/infer", json=asked)
    assert refused.status_code == 400
    assert refused.json()["error"] == "version 1 has no output 'familiarity'; it has probabilities, label"


def test_infer_answers_json_with_json(client):
    pixels = np.stack([np.full((8, 8, 3), RGB[colour], np.uint8) for colour in RGB])
    answer = client.post("/v2/models/colours/infer", json={"id": "seven", **infer_body(pixels)}).json()
    probabilities, label = answer["outputs"]
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("colours", "1", "seven")
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [3, 3])
    assert (label["datatype"], label["shape"], label["data"]) == ("BYTES", [3], list(RGB))
    assert np.argmax(np.reshape(probabilities["data"], (3, 3)), axis=1).tolist() == [0, 1, 2]


def test_infer_takes_nested_data_and_one_output(client):
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    body = infer_body(pixels, data=pixels.tolist()) | {"outputs": [{"name": "label"}]}
    (output,) = client.post("/v2/models/colours/versions/1/infer", json=body).json()["outputs"]
    assert output["name"] == "label"


def test_classify_and_infer_agree_to_the_bit(client):
    content = encoded("green", "PNG")
    pixels = np.asarray(Image.open(io.BytesIO(content)))[None]
    classes = {
        each["label"]: each["probability"] for each in client.post("/classify", content=content).json()["classes"]
    }
    outputs = client.post("/v2/models/colours/infer", json=infer_body(pixels)).json()["outputs"]
    assert np.float32(outputs[0]["data"]).tolist() == [np.float32(classes[label]) for label in RGB]


def test_health_and_metadata(client):
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").json()["ready"] is True
    assert client.get("/v2").json()["name"] == "headstart"
    assert client.get("/v2/models/colours/versions/1/ready").status_code == 200
    assert client.get("/v2/models/colours").json()["versions"] == ["1"]
    assert client.post("/v2/repository/index").json() == [{"name": "colours", "version": "1", "state": "READY"}]


def test_head_is_answered_as_get_without_the_body(client):
    for path in ("/", "/about", "/v2/health/ready", "/v2/models/colours/versions/1"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) == len(client.get(path).content)
    assert client.head("/classify").status_code == 405


def test_metrics_count_requests_by_route_and_status(client):
    client.post("/classify", content=b"no image")
    text = client.get("/metrics").text
    assert 'headstart_requests_total{route="/classify",status="400"}' in text
    assert 'headstart_request_seconds_bucket{le="0.64",route="/classify"}' in text
    assert "headstart_model_version 1.0" in text
    assert "headstart_waiting_images 0.0" in text


def test_the_page_runs_no_script_but_its_own(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "<script>" not in page.text
    assert client.get("/page.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/page.css").status_code == 200


def test_without_a_model_it_is_live_and_not_ready(tmp_path):
    with running(tmp_path) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 503
        answer = client.post("/classify", content=encoded())
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert "no version of 'colours'" in answer.json()["error"]


def test_a_slow_body_is_given_up(tmp_path):
    publish(tmp_path, 1)

    def drip() -> Iterator[bytes]:
        yield b"\xff\xd8"
        time.sleep(1.5)
        yield b"\xff"

    with running(tmp_path, limits=Limits(timeout_s=0.3)) as url:
        answer = httpx.post(f"{url}/classify", content=drip(), timeout=60)
        assert answer.status_code == 408
        assert "0.3 s" in answer.json()["error"]
        assert httpx.post(f"{url}/classify", content=encoded()).status_code == 200


def test_a_fault_of_the_server_is_counted_and_tells_the_client_nothing(tmp_path, monkeypatch):
    publish(tmp_path, 1)

    def fail(*arguments: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr("deploy.serving.routes.decode_image", fail)
    with running(tmp_path) as url:
        answer = httpx.post(f"{url}/classify", content=encoded())
        assert (answer.status_code, answer.json()) == (500, {"error": "a fault in the server; its log says more"})
        assert 'headstart_requests_total{route="/classify",status="500"} 1.0' in httpx.get(f"{url}/metrics").text


def test_decoded_images_count_too(tmp_path):
    publish(tmp_path, 1)
    with running(tmp_path, limits=Limits(max_pending_bytes=100_000)) as url:
        assert httpx.post(f"{url}/classify", content=encoded(size_px=(400, 300))).status_code == 503
        assert httpx.post(f"{url}/classify", content=encoded(size_px=(100, 100))).status_code == 200


def test_all_requests_together_have_a_bound(tmp_path):
    publish(tmp_path, 1)
    with running(tmp_path, limits=Limits(max_pending_bytes=12_000)) as url:
        answer = httpx.post(f"{url}/classify", content=encoded("red", "BMP", (100, 100)))
        assert answer.status_code == 503
        assert httpx.post(f"{url}/classify", content=encoded("red")).status_code == 200


def test_pictures_of_many_pixels_wait_for_each_other(tmp_path, monkeypatch):
    """Ten at once, of which two fit: never more than two are decoded or predicted together."""
    publish(tmp_path, 1)
    lock, now, most = threading.Lock(), 0, 0

    def watched(image: Image.Image) -> np.ndarray:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return decode_image(image)

    monkeypatch.setattr("deploy.serving.routes.decode_image", watched)
    monkeypatch.setattr("deploy.serving.routes.available_cores", lambda: 10)
    limits = Limits(max_pixels_at_once=100_000)
    with running(tmp_path, limits=limits) as url, ThreadPoolExecutor(10) as pool:
        content = encoded(size_px=(250, 200))
        asked = [pool.submit(httpx.post, f"{url}/classify", content=content, timeout=60) for _ in range(10)]
        assert {each.result().status_code for each in asked} == {200}
    assert most == 2


def test_who_waits_too_long_for_large_pictures_is_told_so(tmp_path, monkeypatch):
    publish(tmp_path, 1)
    started = threading.Event()

    def slow(image: Image.Image) -> np.ndarray:
        started.set()
        time.sleep(1)
        return decode_image(image)

    monkeypatch.setattr("deploy.serving.routes.decode_image", slow)
    limits = Limits(max_pixels_at_once=1000, timeout_s=0.3)
    with running(tmp_path, limits=limits) as url, ThreadPoolExecutor(1) as pool:
        first = pool.submit(httpx.post, f"{url}/classify", content=encoded(), timeout=60)
        assert started.wait(30)
        answer = httpx.post(f"{url}/classify", content=encoded(), timeout=60)
        assert (answer.status_code, answer.json()["error"]) == (503, "larger images were under way for 0.3 s")
        assert first.result().status_code == 200


@pytest.mark.parametrize("length", ["9" * 5000, "²", "-1", "1_0", "+1", ""])
def test_a_length_that_is_no_number_is_never_a_fault(length: str):
    request = Request({"type": "http", "method": "POST", "headers": [(b"content-length", length.encode("latin-1"))]})
    account = PendingBytes(10).account()
    with account as held:
        if length:
            with pytest.raises(RequestError, match="Content-Length is no number"):
                asyncio.run(read_body(request, held, Limits()))
