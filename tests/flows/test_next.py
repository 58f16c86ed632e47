"""The flow that chooses what to label next, on a real Prefect server: its batch, its page, and one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.next import choose_next
from tests.pool.colours import NAME, pool_of, publish_colours


def ended_in(place: Path, **parameters: Any) -> Any:
    given = {"name": NAME, "workspace": str(place / "w"), "count": 6, **parameters}
    return choose_next(**given, return_state=True)  # type: ignore[call-overload]


@pytest.mark.filterwarnings("ignore")
def test_a_run_chooses_a_batch_and_shows_its_page(tmp_path: Path, prefect_api: str):
    publish_colours(tmp_path)
    pool = pool_of(tmp_path / "pool", count=3)
    state = ended_in(tmp_path, pool=str(pool))
    assert (state.is_completed(), state.message) == (True, "6 images to label")
    summary = state.result()
    assert len(summary["batch"]) == 6
    shown = httpx.get(f"{prefect_api}/artifacts/colours-next/latest").json()["data"]
    assert shown.startswith("# 6 images of colours to label")
    assert "](data:image/jpeg;base64," in shown
    assert "next.json`" in shown
    again = ended_in(tmp_path, pool=str(pool)).result()
    assert {row["path"] for row in again["batch"]}.isdisjoint(row["path"] for row in summary["batch"])


@pytest.mark.filterwarnings("ignore")
def test_a_run_without_a_pool_fails_with_what_is_allowed(tmp_path: Path, prefect_api: str):
    publish_colours(tmp_path)
    state = ended_in(tmp_path)
    assert state.is_failed()
    assert "no pool is given; a pool is a folder" in state.message
