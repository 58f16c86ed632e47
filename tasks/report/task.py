"""The report as a task, and its short form on the run's page in Prefect."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.orchestration import artifact_key, stage
from tasks.records import Run
from tasks.report.evidence import read_evidence
from tasks.report.markdown import decision_markdown, report_markdown, text_samples
from tasks.report.page import write_report
from tasks.report.pictures import confusion_picture, sample_picture
from tasks.report.run_page import history_rows

log = logging.getLogger(__name__)


@stage("report")
def write_run_report(run: Run) -> str:
    """Writes report.html and model_card.md, and shows the verdict in Prefect. Returns the page's path."""
    path = write_report(run)
    try:
        show_in_prefect(run)
    except Exception as exc:  # noqa: BLE001 - a page is not worth a failed run
        log.warning("the run's page in Prefect is incomplete: %s", exc)
    return path


def show_in_prefect(run: Run) -> None:
    """The run's artifacts in Prefect. Their keys begin with the model's name, so Prefect shows versions over time."""
    evidence = read_evidence(run)
    items = f"{run.config.task}s"
    sections = {"Confusion matrix": _picture("Confusion matrix", confusion_picture(evidence))}
    sections[f"Judged {items}"] = (
        text_samples(evidence) if items == "texts" else _picture("Judged images", sample_picture(evidence))
    )
    sections = {title: section for title, section in sections.items() if section}
    report = report_markdown(evidence, sections)
    # Prefect's own page of an artifact: a browser can open it wherever the run was.
    decision = decision_markdown(evidence, f"/artifacts/key/{artifact_key(run.name, 'report')}")
    show = {
        "decision": partial(create_markdown_artifact, decision, description="Verdict and gates"),
        "report": partial(create_markdown_artifact, report, description="The whole report"),
        "history": partial(create_table_artifact, history_rows(run), description="The model's runs, newest first"),
    }
    described = {
        "confusion": ("Confusion matrix", "Given labels, and what was predicted"),
        "samples": (f"Judged {items}", f"The surest mistakes, and other {items}"),
    }
    for subject, (title, description) in described.items():
        if title in sections:
            show[subject] = partial(create_markdown_artifact, sections[title], description=description)
    with ThreadPoolExecutor(len(show)) as pool:
        calls = [
            pool.submit(copy_context().run, create, key=artifact_key(run.name, subject))
            for subject, create in show.items()
        ]
    for call in calls:
        call.result()


def _picture(title: str, uri: str | None) -> str:
    """Markdown of a picture; empty where there is none."""
    return f"![{title}]({uri})" if uri else ""
