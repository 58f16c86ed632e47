"""Composition only: the flow, the sensor and the command line. No numerics and no file I/O live here."""

import os

from flows.places import find_homes, keep_bytecode
from tasks.processes import end_with_parent

keep_bytecode()
find_homes()
if _up := os.environ.get("HEADSTART_UP_PID"):  # the process of `headstart up`, where this is a run that it started
    end_with_parent(int(_up))

# Nothing is reported to anyone: neither Prefect's telemetry nor albumentations' question for its version. (ONNX
# Runtime's is off in `tasks`.)
for _variable, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # that page asks a company for its settings, from the user's browser
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # What the stages log is shown on the run's page.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}.items():
    os.environ.setdefault(_variable, _value)
