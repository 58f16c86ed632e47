"""The report as a task, and its short form on the run's page in Prefect."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.artifacts import Run
from tasks.report.evidence import read_evidence
from tasks.report.markdown import artifact_key, decision_markdown, gate_rows
from tasks.report.page import write_report
from tasks.task import stage


@stage("report")
def write_run_report(run: Run) -> str:
    """Writes report.html and model_card.md, and shows the verdict in Prefect. Returns the page's path."""
    path = write_report(run)
    evidence = read_evidence(run)
    create_markdown_artifact(decision_markdown(evidence), key=artifact_key(run.name, "decision"))
    if rows := gate_rows(evidence):
        create_table_artifact(rows, key=artifact_key(run.name, "gates"))
    return path
