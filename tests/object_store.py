"""A real S3 server on loopback, which counts what it is asked for and fails when it is told to."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>"
)


class ObjectStore:
    """The server as a WSGI application around moto's. `fails(n)` says whether request number `n` is answered by 503."""

    def __init__(self) -> None:
        self._answer = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.requests = self.failed = self.sent_bytes = 0
        self.fails: Callable[[int], bool] = lambda number: False
        self.url = ""  # of the server
        self.workspace = ""  # in a bucket that is there

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        with self._lock:
            self.requests += 1
            fails = self.fails(self.requests)
            self.failed += fails
        if fails:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(SLOW_DOWN)))]
            start_response("503 Slow Down", headers)
            return [SLOW_DOWN] if environ["REQUEST_METHOD"] != "HEAD" else []
        content = b"".join(self._answer(environ, start_response))
        with self._lock:
            self.sent_bytes += len(content)
        return [content]

    @property
    def environ(self) -> dict[str, str]:
        """What another process needs in its environment to reach the server as `s3://`."""
        return {"FSSPEC_S3_ENDPOINT_URL": self.url, "FSSPEC_S3_KEY": "k", "FSSPEC_S3_SECRET": "s"}


@contextmanager
def object_store(settings: dict[str, Any]) -> Iterator[ObjectStore]:
    """A running server with one bucket; `settings` is fsspec's configuration, whose `s3` is set to reach it."""
    store = ObjectStore()
    server = make_server("127.0.0.1", 0, store, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.url = f"http://127.0.0.1:{server.server_port}"
    settings["s3"] = {"endpoint_url": store.url, "key": "k", "secret": "s"}
    bucket = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(bucket)
    store.workspace = f"s3://{bucket}/workspace"
    try:
        yield store
    finally:
        del settings["s3"]
        server.shutdown()
        thread.join()
