"""What a run came to in plain words, and what to do next: the first lines of the report and of a run's page."""

from __future__ import annotations

from tasks.report.evidence import Evidence
from tasks.report.numbers import count, percent


def opening(evidence: Evidence) -> str:
    """One sentence: how good the model is, and what became of it."""
    name, version = evidence.run.name, evidence.summary.get("version")
    stays = f"version {version} stays in service" if version else "no model is in service yet"
    if evidence.verdict == "invalid-data":
        return f"The images failed validation, so no model was trained; {stays}."
    if evidence.verdict == "unchanged":
        return f"Nothing is new since the last run, so {stays}."
    if evidence.verdict not in ("promoted", "refused"):
        return "The run left no summary and no decision: it did not come to an end."
    model = f"The new model {_recognises(evidence)}"
    if evidence.override:
        return f"{model} and was published by {evidence.override['by']}, though the gates refused it."
    if evidence.verdict == "promoted":
        return f"{model}, passed every gate and is in service as version {version} of {name}."
    return f"{model}, but {_failed(evidence)}, so it is not published; {stays}."


def next_steps(evidence: Evidence) -> list[tuple[str, str]]:
    """What a person may do now: a sentence, and a command where there is one."""
    name = evidence.run.name
    if evidence.verdict == "invalid-data":
        return [
            ("Mend in the source what is named below, and run the retrain again. What was left out:", _list(name)),
        ]
    if evidence.verdict == "refused" and not evidence.override:
        steps = [
            ("Look at the worst mistakes below: more images help most.", ""),
            *_review(evidence),
        ]
        failed = [gate for gate in evidence.decision.get("gates") or [] if gate.get("passed") is False]
        if failed and all(gate.get("overridable") for gate in failed):
            command = f'headstart promote {evidence.run.run_id} --by YOU --reason "…"'
            steps.append(("To publish it all the same:", command))
        return steps
    if evidence.verdict in ("promoted", "unchanged"):
        return [
            ("Try it:", f"headstart predict {name} {'TEXT' if evidence.run.config.task == 'text' else 'PHOTO'}"),
            ("Serve it:", f"headstart serve {name}"),
            *_review(evidence),
        ]
    return [("Run the retrain again: what is done already is not repeated.", "")]


def _recognises(evidence: Evidence) -> str:
    split = "test" if (evidence.metrics.get("test") or {}).get("n") else "validation"
    metrics = evidence.metrics.get(split) or {}
    n, accuracy = int(metrics.get("n") or 0), metrics.get("accuracy")
    if not n or accuracy is None:
        return "was not measured"
    return f"recognises {count(round(accuracy * n))} of {count(n)} {split} images ({percent(accuracy)})"


def _failed(evidence: Evidence) -> str:
    failed = [str(gate["name"]) for gate in evidence.decision.get("gates") or [] if gate.get("passed") is False]
    if not failed:
        return "the gates refused it"
    return f"the gate{'s' if len(failed) > 1 else ''} {', '.join(failed)} refused it"


def _review(evidence: Evidence) -> list[tuple[str, str]]:
    doubtful = evidence.suspects or evidence.disputed
    return [("Look through the label issues:", f"headstart review {evidence.run.name}")] if doubtful else []


def _list(name: str) -> str:
    return f"headstart quarantine list {name}"
