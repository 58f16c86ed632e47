import subprocess
import time
from dataclasses import replace

import pytest
from botocore.exceptions import EndpointConnectionError

from tasks.errors import InvalidDataError, SourceError, WorkspaceError
from tasks.orchestration import accounting, command_started, is_transient, is_transient_fault, one_line, timed
from tasks.records import Candidate, Decision, Features, GateResult, Review
from tests.runs import make_catalogue, make_extractor_record, make_head_record, make_run, make_snapshot_record


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


RUN = make_run("w", "s")
SNAPSHOT = make_snapshot_record(RUN, "abc", labels=("a", "b"), images=1234, new=34)
HEAD = make_head_record(RUN, SNAPSHOT, digest="d" * 64, temperature=1.5)
CANDIDATE = Candidate(head=HEAD, onnx_path="m", sha256="s", version=3)
REFUSING = GateResult(name="accuracy", passed=False, value=0.4, threshold=0.5, reason="too low")


def decision(promote: bool, gates: tuple[GateResult, ...] = (), **fields) -> Decision:
    return Decision(candidate=CANDIDATE, promote=promote, reasons=(), gates=gates, folder="f", **fields)


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (make_catalogue(RUN, images=1234, quarantined=2), "1,234 images, 2 files quarantined"),
        (
            make_catalogue(RUN, images=9, corrected=3, dropped=2),
            "9 images, 0 files quarantined, 3 labels corrected, 2 dropped",
        ),
        (SNAPSHOT, "abc, 1,234 images in 2 classes, 34 new"),
        (make_extractor_record(), "embedded up to avg_pool, fp32"),
        (
            replace(make_extractor_record(), backbone="embedded_text", task="text", max_tokens=128),
            "embedded_text, at most 128 tokens a text, fp32",
        ),
        (make_catalogue(RUN, images=1, quarantined=1, corrected=1), "1 image, 1 file quarantined, 1 label corrected"),
        (Features(snapshot=SNAPSHOT, extractor=make_extractor_record(), views=0, embedded=40), "40 images embedded"),
        (HEAD, "temperature 1.50"),
        (
            replace(HEAD, best_epoch=8, validation_accuracy=0.9441),
            "validation accuracy 0.944 (epoch 8), temperature 1.50",
        ),
        (Review(suspects=27, folder="f"), "27 labels worth a look"),
        (Review(suspects=1, folder="f"), "1 label worth a look"),
        ("models/hats/1/model.onnx", "models/hats/1/model.onnx"),
        (CANDIDATE, "candidate for version 3"),
        (
            decision(False, (REFUSING,), metrics={"test": {"accuracy": 0.4}}),
            "refuse (accuracy), test accuracy 0.400",
        ),
        (decision(True), "promote"),
        (7, ""),
        (None, ""),
    ],
)
def test_a_result_in_one_line(result, line):
    assert one_line(result) == line


def test_the_time_of_a_run_begins_with_the_command_that_was_given_for_it():
    token = command_started.set(time.perf_counter() - 100)
    try:
        with accounting() as account:
            assert 100 <= account.total_s < 110
    finally:
        command_started.reset(token)
    with accounting() as account:
        assert account.total_s < 10


def test_the_seconds_of_a_stage_that_runs_twice_in_a_run_are_added():
    with accounting() as account:
        with timed("cross-fit"):
            time.sleep(0.05)
        with timed("cross-fit"):
            pass
    assert account.seconds["cross-fit"] >= 0.05
