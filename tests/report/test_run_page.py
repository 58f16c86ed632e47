from tasks.report.run_page import HISTORY, history_rows
from tests.runs import make_run


def test_the_history_has_the_models_finished_runs_newest_first(tmp_path):
    for day in range(1, HISTORY + 5):
        run = make_run(tmp_path, "photos", f"202601{day:02}T000000-shapes-aaaaaa")
        summary = {
            "run_id": run.run_id,
            "verdict": "refused" if day % 2 else "promoted",
            "version": None if day == 24 else day,
            "metrics": {"test": {"accuracy": 0.5, "macro_f1": 0.4, "ece": 0.03}} if day < 23 else {"test": {}},
            "images": {"total": 1234, "new": day},
            "timings_s": {"total": 12.3},
            "started_at": f"2026-01-{day:02}T03:04:05+00:00",
        }
        run.workspace.write_json(run.path("summary.json"), summary)
    rows = history_rows(make_run(tmp_path, "photos"))
    assert len(rows) == HISTORY
    assert rows[0] == {
        "verdict": "✓ Promoted",
        "champion": "–",
        "accuracy": "–",
        "images": "1\u202f234, 24 new",
        "time": rows[1]["time"],
        "run": "20260124T000000-shapes-aaaaaa",
    }
    assert (rows[1]["verdict"], rows[1]["champion"]) == ("✕ Refused", "version 23")
    assert rows[2]["accuracy"].startswith("50")
