"""How the command line starts Prefect and the flow, and how it is interrupted."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from types import SimpleNamespace

import pytest
from prefect import flow_engine

from flows.cli import output
from flows.cli.running import _wait_for_no_heartbeat


def test_a_run_does_not_wait_for_the_thread_of_its_heartbeats(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flow_engine, "_send_heartbeats", flow_engine._send_heartbeats)  # put back afterwards
    _wait_for_no_heartbeat()
    sent = threading.Event()
    engine = SimpleNamespace(
        heartbeat_seconds=30,
        flow_run=None,
        logger=logging.getLogger(),
        _build_heartbeat_event_template=lambda: ({}, []),
        _emit_flow_run_heartbeat=lambda *_: sent.set(),
    )
    before = set(threading.enumerate())
    with flow_engine._send_heartbeats(engine):  # type: ignore[arg-type]
        [heartbeats] = set(threading.enumerate()) - before
        assert sent.wait(10)  # they are still sent
    assert heartbeats.is_alive()  # it looks whether the run has ended at the next full second
    heartbeats.join(10)
    assert not heartbeats.is_alive()


def test_ctrl_c_is_acknowledged_while_a_line_is_being_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Python's streams can't be entered again by a signal's handler: RuntimeError, a reentrant call."""

    class Printing:
        def write(self, text: str) -> int:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    timers = []
    monkeypatch.setattr(output.threading, "Timer", lambda *given: timers.append(given) or SimpleNamespace(start=int))
    monkeypatch.setattr(sys, "stderr", Printing())
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), output._prompt_interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "headstart: interrupted; run it again to resume" in capfd.readouterr().err
    assert len(timers) == 1  # which ends the process, whatever a library waits for
