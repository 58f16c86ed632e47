"""Heavy imports in the background, while the main thread waits for Prefect's server.

Great Expectations takes 7 s to import and TensorFlow 6 s, of one core; Prefect's ephemeral server takes 8 s of
another to start. A run with nothing new needs neither library, so they are loaded early only where work is likely.
"""

from __future__ import annotations

import importlib
import threading

from tasks.validate import suite

# After Great Expectations, in the order in which the stages need them.
HEAVY = ("albumentations", "tensorflow", "keras", "tf2onnx", "onnxruntime")


def preload() -> threading.Thread:
    """Starts importing what a whole retrain needs; a failure shows where a stage imports the same module."""
    thread = threading.Thread(target=_import_all, name="preload", daemon=True)
    thread.start()
    return thread


def _import_all() -> None:
    try:
        suite.preload()
        for module in HEAVY:
            importlib.import_module(module)
    except ImportError:
        return
