"""What a run leaves on its page in Prefect, by a real server."""

from __future__ import annotations

import httpx
import pytest

from tasks.report.task import show_in_prefect
from tests.report.fixture_run import make_run


@pytest.mark.filterwarnings("ignore")
def test_the_decision_links_to_an_artifact_that_holds_the_whole_report(tmp_path, prefect_api):
    run = make_run(tmp_path, champion_accuracy=0.8)
    show_in_prefect(run)

    def artifact(key: str) -> str:
        answer = httpx.get(f"{prefect_api}/artifacts/{key}/latest")
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    assert "[The whole report](/artifacts/key/clothing-report)" in artifact("clothing-decision")
    report = artifact("clothing-report")
    assert report.startswith("# clothing, version 3\n")
    assert "![Confusion matrix](data:image/svg+xml;base64," in report
    assert "![Judged images](data:image/svg+xml;base64," in report
