"""Requests that no client should send: each gets a 4xx with a reason, and the next request is answered."""

import gzip
import io
import json
import os
import socket
import struct
import zlib
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from deploy.serving.protocol import InferRequest, parse_infer_request
from deploy.serving.routes import HeaderLength
from tasks.errors import RequestError
from tests.deploy.serving.pictures import encoded
from tests.deploy.serving.running import LIMITS

INFER = "/v2/models/colours/infer"
HEADER_LENGTH = "Inference-Header-Content-Length"
TENSOR = {"name": "image", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [0] * 12}


def infer(**changes) -> bytes:
    tensor = {key: value for key, value in {**TENSOR, **changes}.items() if value is not ...}
    return json.dumps({"inputs": [tensor]}).encode()


def asking(**request) -> bytes:
    return json.dumps({"inputs": [TENSOR], **request}).encode()


def binary_infer(size: object = 12, payload: bytes = b"\0" * 12, **changes) -> tuple[bytes, dict[str, str]]:
    header = infer(data=..., parameters={"binary_data_size": size}, **changes)
    return header + payload, {HEADER_LENGTH: str(len(header))}


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of that many pixels that says so in 70 bytes, and unpacks to nothing much."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def form(content: bytes, boundary: str = "b") -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode()


MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


# name: (path, body, headers, status, a part of the reason)
CASES = {
    "image-empty": ("/classify", b"", {}, 400, "empty"),
    "image-is-text": ("/classify", b"hello, I am a text", {}, 400, "not an image"),
    "image-is-html": ("/classify", b"<html></html>", {"Content-Type": "image/png"}, 400, "not an image"),
    "image-is-svg": ("/classify", b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, 400, "not an image"),
    "image-is-eps": ("/classify", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {}, 400, "not an image"),
    "image-truncated": ("/classify", encoded(size_px=(300, 200))[:-300], {}, 400, "truncated or damaged"),
    "image-header-only": ("/classify", encoded()[:20], {}, 400, ""),
    "image-random-after-magic": ("/classify", b"\xff\xd8\xff" + bytes(range(256)), {}, 400, ""),
    "image-png-cut": ("/classify", encoded("red", "PNG")[:60], {}, 400, ""),
    "image-bomb": ("/classify", bomb(), {}, 413, "60000x60000 pixels"),
    "image-too-many-pixels": ("/classify", encoded(size_px=(400, 300)), {}, 413, "400x300"),
    "image-strip": ("/classify", bomb(70_000, 1), {}, 400, "a side is longer than the 65535"),
    "image-too-many-bytes": ("/classify", b"\0" * 200_001, {}, 413, "200000 bytes"),
    "image-top-zero": ("/classify?top=0", encoded(), {}, 400, "'top'"),
    "image-top-text": ("/classify?top=many", encoded(), {}, 400, "'top'"),
    "image-top-negative": ("/classify?top=-1", encoded(), {}, 400, "'top'"),
    "image-top-astronomical": (f"/classify?top={'9' * 5000}", encoded(), {}, 400, "'top'"),
    "image-top-underscored": ("/classify?top=1_0", encoded(), {}, 400, "'top'"),
    "image-top-empty": ("/classify?top=", encoded(), {}, 400, "'top'"),
    "image-as-json": ("/classify", b"{}", {"Content-Type": "application/json"}, 415, "application/json"),
    "form-without-boundary": ("/classify", form(encoded()), {"Content-Type": "multipart/form-data"}, 400, "form"),
    "form-of-garbage": ("/classify", b"garbage", MULTIPART, 400, "form"),
    "form-cut-off": ("/classify", form(encoded())[:80], MULTIPART, 400, "form"),
    "form-without-a-file": (
        "/classify",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--b--\r\n',
        MULTIPART,
        400,
        "holds no file",
    ),
    "form-with-an-empty-file": ("/classify", form(b""), MULTIPART, 400, "empty"),
    "form-with-text": ("/classify", form(b"text"), MULTIPART, 400, "not an image"),
    "gzip-damaged": ("/classify", b"\x1f\x8bgarbage", {"Content-Encoding": "gzip"}, 400, "damaged"),
    "gzip-cut-off": ("/classify", gzip.compress(encoded())[:-9], {"Content-Encoding": "gzip"}, 400, "cut off"),
    "gzip-bomb": ("/classify", gzip.compress(b"\0" * 50_000_000), {"Content-Encoding": "gzip"}, 413, "unpacked"),
    "compression-unknown": ("/classify", encoded(), {"Content-Encoding": "br"}, 415, "gzip and deflate"),
    "json-empty": (INFER, b"", {}, 400, "JSON"),
    "json-cut-off": (INFER, infer()[:-5], {}, 400, "JSON"),
    "json-is-a-list": (INFER, b"[]", {}, 400, "object"),
    "json-is-null": (INFER, b"null", {}, 400, "null"),
    "json-not-utf8": (INFER, b'{"id": "\xff\xfe"}', {}, 400, "JSON"),
    "json-nan": (INFER, infer().replace(b"[0,", b"[NaN,"), {}, 400, "JSON"),
    "json-deep": (INFER, nested(5000), {}, 400, "JSON"),
    "json-deep-shape": (INFER, infer(shape=7).replace(b"7", nested(900)), {}, 400, "shape"),
    "json-deep-data": (INFER, infer(data=7).replace(b"7", nested(900)), {}, 400, "data"),
    "inputs-missing": (INFER, b"{}", {}, 400, "'inputs'"),
    "inputs-empty": (INFER, b'{"inputs": []}', {}, 400, "'inputs'"),
    "inputs-not-a-list": (INFER, b'{"inputs": {"name": "image"}}', {}, 400, "'inputs'"),
    "inputs-two": (INFER, json.dumps({"inputs": [TENSOR, TENSOR]}).encode(), {}, 400, "'inputs'"),
    "input-not-an-object": (INFER, b'{"inputs": [7]}', {}, 400, "'inputs'"),
    "input-of-another-name": (INFER, infer(name="pixels"), {}, 400, "'pixels'"),
    "input-without-a-name": (INFER, infer(name=...), {}, 400, "named 'image'"),
    "dtype-fp32": (INFER, infer(datatype="FP32"), {}, 400, "'FP32'"),
    "dtype-missing": (INFER, infer(datatype=...), {}, 400, "datatype"),
    "dtype-a-number": (INFER, infer(datatype=3), {}, 400, "datatype"),
    "shape-missing": (INFER, infer(shape=...), {}, 400, "shape"),
    "shape-of-three": (INFER, infer(shape=[2, 2, 3]), {}, 400, "[2, 2, 3]"),
    "shape-of-five": (INFER, infer(shape=[1, 1, 2, 2, 3]), {}, 400, "shape"),
    "shape-negative": (INFER, infer(shape=[-1, 2, 2, 3]), {}, 400, "none below 1"),
    "shape-two-negatives": (INFER, infer(shape=[1, -2, -2, 3]), {}, 400, "none below 1"),
    "shape-strip": (INFER, infer(shape=[1, 1, 65_536, 3], data=[]), {}, 413, "a side is longer than the 65535"),
    "shape-zero": (INFER, infer(shape=[0, 2, 2, 3], data=[]), {}, 400, "none below 1"),
    "shape-of-four-channels": (INFER, infer(shape=[1, 2, 2, 4]), {}, 400, "[1, 2, 2, 4]"),
    "shape-channels-first": (INFER, infer(shape=[1, 3, 2, 2]), {}, 400, "[1, 3, 2, 2]"),
    "shape-of-floats": (INFER, infer(shape=[1.0, 2, 2, 3]), {}, 400, "shape"),
    "shape-of-text": (INFER, infer(shape=["1", "2", "2", "3"]), {}, 400, "shape"),
    "shape-of-booleans": (INFER, infer(shape=[True, 2, 2, 3]), {}, 400, "shape"),
    "shape-a-text": (INFER, infer(shape="1,2,2,3"), {}, 400, "shape"),
    "shape-huge": (INFER, infer(shape=[1, 2**40, 2**40, 3]), {}, 413, "pixels"),
    "shape-huge-batch": (INFER, infer(shape=[2**50, 1, 1, 3]), {}, 413, "images"),
    "shape-overflowing": (INFER, infer(shape=[200, 300, 300, 3]), {}, 413, "values"),
    "data-missing": (INFER, infer(data=...), {}, 400, "'data'"),
    "data-too-short": (INFER, infer(data=[0] * 11), {}, 400, "11"),
    "data-too-long": (INFER, infer(data=[0] * 13), {}, 400, "13"),
    "data-ragged": (INFER, infer(data=[[0, 0], [0]]), {}, 400, "data"),
    "data-of-text": (INFER, infer(data=["0"] * 12), {}, 400, "whole numbers"),
    "data-of-floats": (INFER, infer(data=[0.5] * 12), {}, 400, "whole numbers"),
    "data-of-nulls": (INFER, infer(data=[None] * 12), {}, 400, "whole numbers"),
    "data-of-booleans": (INFER, infer(data=[True] * 12), {}, 400, "whole numbers"),
    "data-of-objects": (INFER, infer(data=[{}] * 12), {}, 400, "whole numbers"),
    "data-above-255": (INFER, infer(data=[256] * 12), {}, 400, "0..255"),
    "data-below-0": (INFER, infer(data=[-1] * 12), {}, 400, "0..255"),
    "data-astronomical": (INFER, infer(data=[10**30] * 12), {}, 400, ""),
    "data-a-text": (INFER, infer(data="AAAA"), {}, 400, "'data'"),
    "parameters-a-list": (INFER, infer(parameters=[]), {}, 400, "'parameters'"),
    "id-a-number": (INFER, asking(id=7), {}, 400, "'id'"),
    "output-unknown": (INFER, asking(outputs=[{"name": "logits"}]), {}, 400, "'logits'"),
    "outputs-empty": (INFER, asking(outputs=[]), {}, 400, "'outputs'"),
    "outputs-a-text": (INFER, asking(outputs="label"), {}, 400, "'outputs'"),
    "classification-negative": (
        INFER,
        asking(outputs=[{"name": "probabilities", "parameters": {"classification": -1}}]),
        {},
        400,
        "'classification'",
    ),
    "binary-too-short": (INFER, *binary_infer(payload=b"\0" * 11), 400, "11 bytes follow"),
    "binary-too-long": (INFER, *binary_infer(payload=b"\0" * 13), 400, "13 bytes follow"),
    "binary-size-unlike-the-shape": (INFER, *binary_infer(size=13, payload=b"\0" * 13), 400, "12 bytes"),
    "binary-size-negative": (INFER, *binary_infer(size=-12), 400, "'binary_data_size'"),
    "binary-size-a-text": (INFER, *binary_infer(size="12"), 400, "'binary_data_size'"),
    "binary-and-data": (
        INFER,
        infer(parameters={"binary_data_size": 12}) + b"\0" * 12,
        {HEADER_LENGTH: str(len(infer(parameters={"binary_data_size": 12})))},
        400,
        "both",
    ),
    "binary-unclaimed": (INFER, infer() + b"\0" * 4, {HEADER_LENGTH: str(len(infer()))}, 400, "4 bytes"),
    "header-length-beyond-the-body": (INFER, infer(), {HEADER_LENGTH: "99999"}, 400, "cut off"),
    "header-length-negative": (INFER, infer(), {HEADER_LENGTH: "-1"}, 400, "number of bytes"),
    "header-length-a-text": (INFER, infer(), {HEADER_LENGTH: "all"}, 400, "number of bytes"),
    "header-length-astronomical": (INFER, infer(), {HEADER_LENGTH: "9" * 5000}, 400, "number of bytes"),
    "header-length-signed": (INFER, infer(), {HEADER_LENGTH: "+9"}, 400, "number of bytes"),
    "header-length-empty": (INFER, infer(), {HEADER_LENGTH: ""}, 400, "number of bytes"),
    "header-length-zero": (INFER, infer(), {HEADER_LENGTH: "0"}, 400, "JSON"),
    "model-unknown": ("/v2/models/animals/infer", infer(), {}, 404, "'animals'"),
    "version-unknown": ("/v2/models/colours/versions/9/infer", infer(), {}, 404, "'9'"),
    "version-a-path": ("/v2/models/colours/versions/..%2f1/infer", infer(), {}, 404, ""),
    "route-unknown": ("/v2/models/colours/explain", infer(), {}, 404, "Not Found"),
    "method-wrong": ("/v2/health/live", b"", {}, 405, "Method Not Allowed"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_a_malformed_request_gets_a_reason_and_the_next_one_an_answer(url, case):
    path, body, headers, status, reason = CASES[case]
    answer = httpx.post(url + path, content=body, headers=headers, timeout=60)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    assert reason in answer.json()["error"]
    assert httpx.post(f"{url}/classify", content=encoded(), timeout=60).json()["label"] == "red"


def raw(url: str, request: bytes) -> bytes:
    """What the server answers to bytes of our own, until it closes the connection."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_gigabyte_announced_is_refused_before_it_is_sent(url):
    answer = raw(url, b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    assert b"1000000000 bytes" in answer


@pytest.mark.parametrize(
    "request_head",
    [
        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_a_400(url, request_head):
    assert raw(url, request_head).startswith(b"HTTP/1.1 400 ")
    assert httpx.get(f"{url}/v2/health/live").status_code == 200


def test_a_head_without_an_end_is_cut_short(url):
    answer = raw(url, b"GET / HTTP/1.1\r\n" + b"X-Filler: " + b"x" * 100_000)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"longer than 65536 bytes" in answer


def test_a_head_that_does_not_come_is_hung_up_on(url, monkeypatch):
    monkeypatch.setattr("deploy.serving.http_protocol.HEAD_TIMEOUT_S", 0.2)
    assert raw(url, b"GET / HTTP/1.1\r\nHost: x") == b""
    assert raw(url, b"") == b""


def test_a_body_cut_off_by_its_sender_leaves_the_server_well(url):
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nonly this")
    assert httpx.post(f"{url}/classify", content=encoded()).status_code == 200


def test_a_storm_of_malformed_requests_leaves_no_memory_behind(url):
    large = [case for case in CASES.values() if len(case[1]) > 1000]

    def storm() -> int:
        for _ in range(5):
            for path, body, headers, status, _ in large:
                assert httpx.post(url + path, content=body, headers=headers, timeout=60).status_code == status
        return psutil.Process(os.getpid()).memory_info().rss

    warmed = storm()
    assert storm() - warmed < 20_000_000


def parsed_or_refused(body: bytes, header_length: int | None) -> InferRequest | None:
    """None for a request that is refused as it should be; any other exception goes through."""
    try:
        return parse_infer_request(body, header_length, LIMITS)
    except RequestError as exc:
        refusal = exc
    assert refusal.http_status in (400, 413)
    assert str(refusal)
    return None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        st.binary(max_size=400),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
            lambda children: (
                st.lists(children, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["inputs", "name", "shape", "data", "parameters"]), children, max_size=4
                )
            ),
            max_leaves=30,
        ).map(lambda value: json.dumps(value).encode()),
    ),
    st.none() | st.integers(0, 500),
)
def test_any_bytes_are_parsed_or_refused_with_a_reason(body, header_length):
    request = parsed_or_refused(body, header_length)
    assert request is None or request.images.ndim == 4


@given(st.text(max_size=5) | st.integers(-5, 10**20).map(str))
def test_any_header_is_a_length_or_refused(text):
    if text.isascii() and text.isdigit() and len(text) <= 18:
        assert TypeAdapter(HeaderLength).validate_python(text) == int(text)
    else:
        with pytest.raises(ValidationError, match="has to be a number of bytes, 0 or more"):
            TypeAdapter(HeaderLength).validate_python(text)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_change_of_a_good_tensor_is_parsed_or_refused(data):
    junk = (
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.text(max_size=5)
        | st.lists(st.integers(), max_size=5)
    )
    key = data.draw(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]))
    tensor = {**TENSOR, key: data.draw(junk)}
    request = parsed_or_refused(json.dumps({"inputs": [tensor]}).encode(), None)
    assert request is None or (request.images.dtype, request.images.shape) == (np.uint8, (1, 2, 2, 3))


def test_there_are_at_least_forty_cases():
    assert len(CASES) >= 40
    assert len({json.dumps([path, body.hex(), headers]) for path, body, headers, *_ in CASES.values()}) == len(CASES)
    assert io.BytesIO(bomb()).getbuffer().nbytes < 200
