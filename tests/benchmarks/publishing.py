"""Publishes and rollbacks under a reader that polls in a tight loop, in a folder and on S3: time, and what it saw.

    uv run python -m tests.benchmarks.publishing [--turns 200]

Prints JSON. The model has three classes and takes no room: what is timed is the protocol. The S3 server is moto's, in
this process, and so are the writer and the reader: the three share an interpreter, and a real store is quicker to list
and slower to reach. Ends with status 1 where the reader saw a fault, or a version number that went down.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from typing import Any

from fsspec.config import conf

from tasks.storage.repository import versions
from tasks.workspace import Workspace
from tests.object_store import object_store
from tests.publish.turns import NAME, Reader, publish_and_roll_back


def measure(url: str, turns: int) -> dict[str, Any]:
    started = time.perf_counter()
    with Reader(Workspace(url)) as reader:
        took = publish_and_roll_back(Workspace(url), turns)
    return {
        "publishes": len(took.publishing) + 1,
        "rollbacks": len(took.rolling_back),
        "seconds": round(time.perf_counter() - started, 1),
        "publish_ms": _milliseconds(took.publishing),
        "rollback_ms": _milliseconds(took.rolling_back),
        "looks": len(reader.seen),
        "versions_seen": len(set(reader.seen)),
        "faults": reader.faults,
        "went_down": reader.seen != sorted(reader.seen),
        "versions_without_a_gap": versions(Workspace(url), NAME) == list(range(1, 2 * turns + 2)),
    }


def _milliseconds(took_s: list[float]) -> dict[str, float]:
    return {
        "median": round(1000 * statistics.median(took_s), 1),
        "median_of_the_last_tenth": round(1000 * statistics.median(took_s[-max(1, len(took_s) // 10) :]), 1),
        "slowest": round(1000 * max(took_s), 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=200, help="publishes, and rollbacks, on each store")
    turns = parser.parse_args().turns
    with tempfile.TemporaryDirectory() as folder, object_store(conf) as server:
        results = {"folder": measure(folder, turns), "s3": measure(server.workspace, turns)}
        results["s3"]["requests"] = server.requests
    print(json.dumps(results, indent=2))
    return 1 if any(result["faults"] or result["went_down"] for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
