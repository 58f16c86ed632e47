"""What a whole retrain needs, prepared in the background while the main thread waits for Prefect's server.

Great Expectations takes 3 s to import, TensorFlow 3 s and the trunk's export 4 s, of one core; Prefect's ephemeral
server takes 4 s of another to start, and 10 s where its database has to be made. A run with nothing new needs neither
library nor a trunk, so this starts early only where work is likely.
"""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.artifacts import Run
from tasks.augment.policy import policy_of
from tasks.backbones.trunk import trunk_of
from tasks.errors import HeadstartError
from tasks.extract import ahead
from tasks.extract.export import ensure_exported
from tasks.ingest.sources import Listing, list_source
from tasks.summary import looks_new
from tasks.validate import suite

log = logging.getLogger(__name__)

# One thread at a time: of two that turn standard error aside, the second would put back what the first turned it to.
_preparing = threading.Lock()

# Keras first, as the stages import it: two threads that enter its circle with TensorFlow from different ends each wait
# for the other, and Python breaks the deadlock by handing out half-made modules.
HEAVY = ("keras", "tensorflow", "tf2onnx", "albumentations", "onnxruntime")


_looked = threading.Event()


def preload_if_new(run: Run, force: bool, listing: Listing | None = None) -> None:
    """`preload` before anything is read, where much work is likely. A process looks once: the command, before the flow.

    Args:
        listing: what a local source lists, where that is known already.
    """
    if _looked.is_set():
        return
    _looked.set()
    local = "://" not in run.source and not run.source.startswith("tfds:")
    try:
        if force or looks_new(run, listing or (list_source(run) if local else None)):
            preload(run)
    except HeadstartError as exc:
        log.debug("nothing is prepared: %s", exc)  # the stage that needs it meets the same fault, and reports it


def preload(run: Run) -> threading.Thread:
    """Starts exporting the run's trunk, where it has none yet, and importing the heavy libraries.

    Call it from the main thread, after this module's own imports: pyarrow comes with those, and its allocator has
    crashed where it was first loaded by a thread that ended (apache/arrow 25.0).

    Both are only brought forward: a stage that comes to them first does them itself, and a fault shows there.
    """
    _looked.set()
    thread = threading.Thread(target=_prepare, args=(run, ahead.start(run)), name="preload", daemon=True)
    thread.start()
    return thread


def _prepare(run: Run, exporting: subprocess.Popen[bytes] | None) -> None:
    try:
        with _preparing:
            suite.preload()
            if exporting:  # it has the second core; what is imported here is needed after the trunk only
                exporting.wait()
            with _without_banner():
                for module in HEAVY:
                    importlib.import_module(module)
        ensure_exported(run, trunk_of(run, policy_of(run.config)))
    except Exception as exc:  # noqa: BLE001 - the stage that needs it meets the same fault, and reports it
        log.debug("nothing was prepared: %s", exc)


@contextmanager
def _without_banner() -> Iterator[None]:
    """Keeps what TensorFlow's C++ says at its import (oneDNN is on, no GPU) off standard error; no variable does.

    It writes to the file descriptor, so that is turned aside for the block; what anything else wrote follows after.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            aside.seek(0)
            said = [line for line in aside if not line.startswith((b"I0000", b"WARNING: All log messages before absl"))]
            os.write(2, b"".join(line for line in said if b"\r" not in line))
