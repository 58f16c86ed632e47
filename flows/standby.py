"""The process that waits for the next run of `headstart up`, with all that a run imports loaded already.

Each process serves one run, as Prefect's own runner has it: a run owns its memory, its lock and its signals, and a
crash or a cancellation touches no other. The next process is started when a run has ended, so that it takes no core
from one. One whose code has changed meanwhile, or that was killed (most likely since memory ran short), is not used:
then the run starts in a new process, which loads beside the run's first stages.
"""

from __future__ import annotations

import os
import pickle
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from sysconfig import get_path
from typing import Any

from tasks.processes import ROOT, child_environ, collect_rarely, module_command
from tasks.records import Run

Report = Callable[[str], None]
Process = subprocess.Popen[bytes]


class Standby:
    """The waiting process, and how Prefect's runner starts a run in it.

    Args:
        run: its source, workspace and configuration say what to load.
    """

    def __init__(self, run: Run, report: Report) -> None:
        self._run, self._report = run, report
        self._waiting: Process | None = None
        self._code: dict[Path, int] = {}
        self._under_way = 0  # runs
        self._closed = False

    def prepare(self) -> None:
        """Starts the waiting process, unless there is one, or a run needs the cores."""
        if self._waiting or self._under_way or self._closed:
            return
        try:
            self._waiting, self._code = self._started(), _code()
        except OSError as exc:  # no memory, perhaps
            # Raised, Prefect would call the run crashed that has just ended.
            self._report(f"no process waits for the next run: {exc}")

    def close(self) -> None:
        """No process is started from now on; the one that waits ends with this one, or is stopped like a run's."""
        self._closed = True

    async def run_process(
        self,
        *,
        env: Mapping[str, str],
        task_status: Any,
        task_status_handler: Callable[[Process], Any],
        **_: Any,
    ) -> Process:
        """Takes the place of Prefect's function of this name, which starts `python -m prefect.engine`.

        Args:
            env: the whole environment of the run's process, which names the run.
        """
        from anyio import to_thread

        process = self._taken()
        self._under_way += 1
        try:
            _send(process, dict(env))
            task_status.started(task_status_handler(process))
            await to_thread.run_sync(process.wait, abandon_on_cancel=True)
        finally:
            if process.poll() is None:
                process.terminate()
            self._under_way -= 1
        self.prepare()
        return process

    def _taken(self) -> Process:
        process, self._waiting = self._waiting, None
        if process and process.poll() is None:
            if self._code == _code():
                self._report(f"a run starts, in the process that waited for it ({_memory_mb(process)} MB)")
                return process
            process.kill()
            process.wait()
        self._report("a run starts, in a new process")
        return self._started()

    def _started(self) -> Process:
        process = subprocess.Popen(
            module_command(__name__),
            # It is in the current folder, whose `tasks.py` is not ours. It ends with this process: else the next
            # `headstart up` would begin the same run beside it.
            env=child_environ(PYTHONSAFEPATH="1", HEADSTART_UP_PID=str(os.getpid())),
            stdin=subprocess.PIPE,
            stdout=sys.__stderr__,  # standard output is reserved for the command's result
        )
        _send(process, self._run)
        return process


def _send(process: Process, message: Any) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it was killed, as its status will say
        process.stdin.write(pickle.dumps(message))
        process.stdin.flush()


def _code() -> dict[Path, int]:
    """When our modules were changed, and the folder of packages, which changes with each that is installed."""
    modules = [file for folder in ("flows", "tasks") for file in (ROOT / folder).rglob("*.py")]
    return {path: path.stat().st_mtime_ns for path in [*modules, Path(get_path("purelib"))]}


def _memory_mb(process: Process) -> int:
    """Of the process and its children, what no other process shares."""
    import psutil

    with suppress(psutil.Error):
        waiting = psutil.Process(process.pid)
        return sum(each.memory_full_info().uss for each in [waiting, *waiting.children(recursive=True)]) >> 20
    return 0


def _main() -> None:
    """Loads what the run that comes first needs, and becomes the process of the run that it is then given."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback, as long as it waits
    collect_rarely()
    run = _received()
    from prefect import engine, flow_engine, task_engine  # noqa: F401 - what Prefect imports for a run

    from flows.deployments import FLOWS  # noqa: F401 - the flows with all their stages
    from flows.warmup import preload

    preload(run, ahead=True)
    os.environ.update(_received())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_path(str(engine.__file__), run_name="__main__")


def _received() -> Any:
    try:
        return pickle.load(sys.stdin.buffer)
    except EOFError:  # `headstart up` has ended
        os._exit(0)


if __name__ == "__main__":
    # By its name, so that what is pickled is of the same modules on both sides.
    from flows.standby import _main as main

    main()
