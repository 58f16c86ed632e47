"""Starts what a whole retrain needs in the background, while the main thread waits for Prefect's server, or for a run
(`flows.standby`).

Great Expectations takes 3 s to import, TensorFlow 5 s and the trunk's export 3 s, of one core; Prefect's ephemeral
server takes 4 s of another to start, and 10 s where its database has to be made. A run with nothing new needs none of
this, so it starts early only where work is likely.
"""

from __future__ import annotations

import importlib
import logging
import threading
from dataclasses import replace

from flows.summary import looks_new
from tasks.errors import HeadstartError
from tasks.evaluate.parity import prepare_reference
from tasks.evaluate.thresholds import load_gates
from tasks.extract.export import ensure_exported
from tasks.finetune.rehearsal import rehearse
from tasks.ingest.entries import Listing
from tasks.ingest.sources import list_source
from tasks.modality.images.augmentation import policy_of
from tasks.networks import keras_process
from tasks.networks.extractor import extractor_of
from tasks.records import Run
from tasks.report.page import load_template
from tasks.validate import suite

log = logging.getLogger(__name__)

# What the last stages import, of no use to the first.
LATER = ("sklearn.utils.extmath", "sklearn.metrics")

_looked = threading.Event()


def preload_if_new(run: Run, force: bool, listing: Listing | None = None) -> None:
    """Calls `preload` before anything is read, where much work is likely; only once a process.

    Args:
        listing: of a local source, where it is known already.
    """
    if _looked.is_set():
        return
    _looked.set()
    local = "://" not in run.source and not run.source.startswith("tfds:")
    try:
        if force or looks_new(run, listing or (list_source(run) if local else None)):
            preload(run)
    except HeadstartError as exc:
        log.debug("nothing is prepared: %s", exc)  # the stage that needs it raises the same error


def preload(run: Run, *, ahead: bool = False) -> threading.Thread:
    """Starts the Keras process, with the export of the run's feature extractor where it has none yet, and imports heavy
    libraries.

    Call it from the main thread, after this module's own imports: pyarrow comes with those, and its allocator has
    crashed where it was first loaded by a thread that ended (apache/arrow 25.0).

    A stage that needs any of it earlier does it itself, and raises its errors.

    Args:
        ahead: nothing waits for it yet, so the training is rehearsed, too, which costs more than it saves.
    """
    _looked.set()
    thread = threading.Thread(target=_prepare, args=(run, ahead), name="preload", daemon=True)
    thread.start()
    return thread


def _prepare(run: Run, ahead: bool) -> None:
    try:
        keras_process.start()
        policy = policy_of(run.config)
        extractor = extractor_of(run, policy)
        suite.preload()
        importlib.import_module("onnxruntime")
        if policy.views:
            importlib.import_module("albumentations")
        extractor = ensure_exported(run, extractor)
        if replace(extractor, precision=run.config.backbone.precision).in_keras:
            images = load_gates(run.config.evaluate.gates, run.name).parity.images
            keras_process.call(prepare_reference, run, extractor, images)
        for module in LATER:
            importlib.import_module(module)
        load_template(run.config.task)
        if ahead:
            keras_process.call(rehearse, run.config.finetune)
    except Exception as exc:  # noqa: BLE001 - the stage that needs it raises the same error
        log.debug("nothing was prepared: %s", exc)
