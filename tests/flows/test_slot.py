"""One run of a model at a time in a workspace that knows no locks, by a real server's slots."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.slot import is_under_way, one_run_at_a_time, slot_name
from tasks.errors import WorkspaceError
from tasks.records import Run
from tests.runs import make_run


@pytest.fixture
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def run() -> Run:
    return make_run("memory://bucket/workspace", "photos")


def test_the_second_waits_for_the_first(client: SyncPrefectClient, run: Run):
    order, inside = [], threading.Event()

    def second() -> None:
        inside.wait(120)
        with temporary_settings({PREFECT_API_URL: str(client.api_url)}), one_run_at_a_time(run):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    assert not is_under_way(run, client)
    with one_run_at_a_time(run):
        inside.set()
        assert is_under_way(run, client)
        thread.join(2)
        order.append("first")
    thread.join(120)
    assert order == ["first", "second"]
    assert not is_under_way(run, client)


def test_it_does_not_wait_for_ever(client: SyncPrefectClient, run: Run):
    with (
        one_run_at_a_time(run),
        pytest.raises(WorkspaceError, match="run again when it is done"),
        one_run_at_a_time(run, timeout_s=0.5),
    ):
        pass


def test_a_fault_gives_the_slot_back(client: SyncPrefectClient, run: Run):
    with pytest.raises(RuntimeError), one_run_at_a_time(run):
        raise RuntimeError
    assert not is_under_way(run, client)


def test_models_of_one_name_in_two_workspaces_have_two_slots(run: Run):
    assert slot_name(run) != slot_name(make_run("memory://bucket/other", "photos"))


def test_a_local_workspace_has_a_lock_and_asks_nobody(tmp_path: Path):
    run = make_run(tmp_path, "photos")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        with one_run_at_a_time(run):
            assert is_under_way(run, None)  # type: ignore[arg-type]
        assert not is_under_way(run, None)  # type: ignore[arg-type]
