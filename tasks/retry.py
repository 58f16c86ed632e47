"""Which faults are worth another try."""

from __future__ import annotations

import subprocess
from typing import Any

from tasks.errors import HeadstartError

# Full disks, missing files and lacking permissions don't mend themselves within a retry's seconds.
PERMANENT_OS_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
# Object stores' clients have trees of their own (botocore, aiohttp); by name, for none of them need be installed.
CONNECTION_FAULTS = frozenset({"ConnectionError", "HTTPClientError", "ClientConnectionError", "ServerTimeoutError"})


def is_transient(task: Any, run: Any, state: Any) -> bool:
    """Prefect's `retry_condition_fn`: whether a failed task should be tried again.

    A fault that headstart raised on purpose says something lasting of the source, the data or the configuration,
    unless it was caused by the storage or the network.
    """
    try:
        state.result()
    except Exception as exc:  # noqa: BLE001 - whatever the task raised is what is asked about
        return is_transient_fault(exc)
    return False


def is_transient_fault(fault: BaseException) -> bool:
    """True for faults of the storage, the network or time-outs, also where a HeadstartError was raised from one."""
    if isinstance(fault, HeadstartError):
        return fault.__cause__ is not None and is_transient_fault(fault.__cause__)
    if isinstance(fault, PERMANENT_OS_ERRORS):
        return False
    if isinstance(fault, OSError | subprocess.TimeoutExpired):  # time-outs and broken connections among them
        return True
    return any(base.__name__ in CONNECTION_FAULTS for base in type(fault).__mro__)
