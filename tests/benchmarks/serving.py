"""How much of the machine serving gives to the model, and what publishing under load costs.

    uv run python -m tests.benchmarks.serving MODEL_DIR IMAGES [--seconds 20] [--concurrency 8] [--publish-every 2] \
        [--roll-back-every 5]

MODEL_DIR is a published version's folder, IMAGES a folder of JPEGs. Two figures are set beside each other, at the
same concurrency and on the same encoded images: bare ONNX Runtime with decoding, in threads of one process, and
`POST /classify` over HTTP. The client of the second takes its share of the same cores; how much is printed. On a
machine that does other work too, look at the requests per second of processor time, which both get alike.

With `--publish-every S` the version is published again every S seconds meanwhile, as a new one, and with
`--roll-back-every S` the one before is restored; no request may fail.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

from tasks.modality.images.content import decode
from tasks.networks.onnx_session import available_cores, open_session
from tasks.publish.rollback import roll_back
from tasks.storage.repository import next_version, write_version
from tasks.workspace import Workspace

WARM_UP_S = 2.0


@dataclass(frozen=True)
class Load:
    """What `concurrency` askers saw in `seconds`."""

    requests: int
    failed: int
    per_second: float
    p50_ms: float
    p99_ms: float
    longest_ms: float
    cores: float
    per_core_second: float


Question = Callable[[bytes], bool]  # asks about one encoded image; whether the answer was right
Asker = Callable[[], contextlib.AbstractContextManager[Question]]


def drive(ask: Asker, images: list[bytes], concurrency: int, seconds: float, works: psutil.Process) -> Load:
    """Asks from `concurrency` threads, each one question after the other, for `seconds` after a warm-up.

    Args:
        ask: called in each thread; opens what its questions need, and closes it.
        works: the process whose processor time is counted.
    """
    started = time.perf_counter() + WARM_UP_S
    ends = started + seconds

    def loop(index: int) -> list[tuple[float, bool]]:
        seen = []
        with ask() as question:
            for turn in count():
                began = time.perf_counter()
                if began >= ends:
                    break
                right = question(images[(index + turn * concurrency) % len(images)])
                if began >= started:
                    seen.append((time.perf_counter() - began, right))
        return seen

    with ThreadPoolExecutor(concurrency) as pool:
        loops = [pool.submit(loop, index) for index in range(concurrency)]
        time.sleep(WARM_UP_S)
        used_s = _processor_s(works)
        seen = [each for future in loops for each in future.result()]
        used_s = _processor_s(works) - used_s
    took_ms = 1000 * np.array([took for took, _ in seen])
    p50, p99 = np.percentile(took_ms, [50, 99])
    failed = sum(not right for _, right in seen)
    return Load(
        requests=len(seen),
        failed=failed,
        per_second=round(len(seen) / seconds, 1),
        p50_ms=round(p50, 1),
        p99_ms=round(p99, 1),
        longest_ms=round(took_ms.max(), 1),
        cores=round(used_s / seconds, 2),
        per_core_second=round(len(seen) / used_s, 1),
    )


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def bare(model: bytes) -> Asker:
    """ONNX Runtime and the decoder, as many at a time as there are cores: the most that this machine gives."""
    session = open_session(model)
    cores = threading.Semaphore(available_cores())

    def question(image: bytes) -> bool:
        with cores:
            return bool(session.run(["label"], {"image": decode(image)[None]}))

    return lambda: contextlib.nullcontext(question)


def over_http(url: str) -> Asker:
    """A client of bare sockets, kept alive, so that it takes little of the server's cores."""
    parts = urlsplit(url)

    @contextlib.contextmanager
    def ask() -> Iterator[Question]:
        with socket.create_connection((parts.hostname or "", parts.port or 0)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def question(image: bytes) -> bool:
                head = f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(image)}\r\n\r\n"
                connection.sendall(head.encode() + image)
                answer = _read_answer(connection)
                return answer.startswith(b"HTTP/1.1 200 ") and b'"label"' in answer

            yield question

    return ask


def _read_answer(connection: socket.socket) -> bytes:
    """One whole response with a Content-Length."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _receive(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += _receive(connection)
    return head + b"\r\n\r\n" + body


def _receive(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    if not part:
        raise SystemExit("the server closed the connection")
    return part


@contextlib.contextmanager
def server(workspace: Path, name: str) -> Iterator[tuple[str, psutil.Process]]:
    command = [
        sys.executable,
        "-m",
        "deploy.serving",
        name,
        "--workspace",
        str(workspace),
        "--port",
        "0",
        "--poll-s",
        "0.5",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"serving on (http://\S+)", line):
                break
        else:
            raise SystemExit("the server did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found[1], psutil.Process(process.pid)
        process.terminate()


@contextlib.contextmanager
def changing(
    workspace: Workspace, manifest: dict, content: bytes, publish_s: float, roll_back_s: float
) -> Iterator[Counter]:
    """Publishes the same content as new versions, and rolls back, every so many seconds (0: never); counts both."""
    stop, done = threading.Event(), Counter()
    name = manifest["name"]
    own = ("name", "version", "files", "restored", "replaced")  # of the version itself, not of what speaks for it
    evidence = {key: value for key, value in manifest.items() if key not in own}

    def publish() -> None:
        version = next_version(workspace, name)
        write_version(workspace, name, version, {"model.onnx": content}, evidence, "")

    def change() -> None:
        started = time.monotonic()
        turns = [(publish_s, "published", publish), (roll_back_s, "rolled back", lambda: roll_back(workspace, name))]
        while not stop.wait(0.05):
            for every_s, what, act in turns:
                if every_s and time.monotonic() - started > every_s * (done[what] + 1):
                    act()
                    done[what] += 1

    thread = threading.Thread(target=change)
    thread.start()
    yield done
    stop.set()
    thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--publish-every", type=float, default=0, metavar="S")
    parser.add_argument("--roll-back-every", type=float, default=0, metavar="S")
    options = parser.parse_args()

    images = [file.read_bytes() for file in sorted(options.images.rglob("*.jpg"))[:200]]
    manifest = json.loads((options.model_dir / "manifest.json").read_text())
    content = (options.model_dir / "model.onnx").read_bytes()
    own = psutil.Process()
    alone = drive(bare(content), images, options.concurrency, options.seconds, own)
    with tempfile.TemporaryDirectory() as scratch:
        workspace, name = Path(scratch), manifest["name"]
        shutil.copytree(options.model_dir, workspace / "models" / name / str(manifest["version"]))
        (workspace / "models" / name / "config.pbtxt").write_text("")
        with (
            server(workspace, name) as (url, process),
            changing(Workspace(scratch), manifest, content, options.publish_every, options.roll_back_every) as changes,
        ):
            client_s = _processor_s(own)
            served = drive(over_http(url), images, options.concurrency, options.seconds, process)
            client_s = _processor_s(own) - client_s
            memory_mb = process.memory_info().rss / 1e6
    result = {
        "cores": available_cores(),
        "concurrency": options.concurrency,
        "bare": asdict(alone),
        "served": asdict(served),
        "served_over_bare": round(served.per_second / alone.per_second, 3),
        "served_over_bare_per_core_second": round(served.per_core_second / alone.per_core_second, 3),
        "client_cores": round(client_s / (options.seconds + WARM_UP_S), 2),
        "server_memory_mb": round(memory_mb),
        "meanwhile": dict(changes),
    }
    print(json.dumps(result, indent=2))
    return 1 if served.failed or alone.failed else 0


if __name__ == "__main__":
    sys.exit(main())
