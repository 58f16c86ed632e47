import subprocess

import pytest
from botocore.exceptions import EndpointConnectionError

from tasks.errors import InvalidDataError, SourceError, WorkspaceError
from tasks.orchestration import is_transient, is_transient_fault


def caused_by(fault, cause):
    fault.__cause__ = cause
    return fault


@pytest.mark.parametrize(
    ("fault", "transient"),
    [
        (InvalidDataError(["too few"]), False),
        (SourceError("missing"), False),
        (caused_by(SourceError("can't read"), ConnectionResetError()), True),
        (caused_by(WorkspaceError("can't write"), PermissionError()), False),
        (caused_by(WorkspaceError("can't write"), OSError(5, "Input/output error")), True),
        (TimeoutError(), True),
        (FileNotFoundError(), False),
        (subprocess.TimeoutExpired("x", 1), True),
        (EndpointConnectionError(endpoint_url="http://s3"), True),
        (ValueError("a bug"), False),
    ],
)
def test_only_faults_that_may_pass_are_worth_a_retry(fault, transient):
    class State:
        def result(self):
            raise fault

    assert is_transient_fault(fault) is transient
    assert is_transient(None, None, State()) is transient
