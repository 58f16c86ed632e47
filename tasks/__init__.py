"""The stages of a retrain: one folder a stage, `task.py` for Prefect and Prefect-free logic beside it."""

import os

# ONNX Runtime would write an identifier of the device into the user's cache and queue events for its maker. It looks at
# this variable when it is imported, which nothing here does before this; child processes inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Stages run side by side, so the cores have work. NumPy's and SciPy's matrix products in threads of their own, which
# wait for each other in busy loops, take the cores from them: of 3,040 photographs the review took 2.8 s of processor
# time with two threads and 1.2 s with one, the export 3.7 s and 2.1 s; while other programs run, three times as much.
# Whoever sets the variable decides instead.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
