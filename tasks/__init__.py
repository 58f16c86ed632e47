"""The stages of a retrain: one folder a stage, `task.py` for Prefect and Prefect-free logic beside it."""

import os

# ONNX Runtime would write an identifier of the device into the user's cache and queue events for its maker. It looks at
# this variable when it is imported, which nothing here does before this; child processes inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
