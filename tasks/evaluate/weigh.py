"""The second look at a decision that the test split leaves open: the champion's gate again, by all images."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from tasks.evaluate import champion_gate
from tasks.evaluate.all_images import compare_all
from tasks.evaluate.thresholds import load_gates
from tasks.modality.wording import worded_gate
from tasks.records import CrossFitted, Decision, Run
from tasks.storage.corrections import read_corrections


def weigh(run: Run, decision: Decision, challenger: CrossFitted, champion: CrossFitted | None) -> Decision:
    """Judges the champion's gate again, by all images. Writes the whole decision, `decision.json` and its predictions.

    Args:
        decision: undecided by the test split; all other gates passed.
        champion: None where its manifest does not say what it was trained from: then old images are no evidence.
    """
    gates = load_gates(run.config.evaluate.gates, run.name)
    written = run.workspace.read_json(f"{decision.folder}/decision.json")
    if missing := challenger.missing or (champion.missing if champion else ""):
        [before] = [gate for gate in decision.gates if gate.name == champion_gate.NAME]
        gate = replace(before, reason=f"{before.reason}. All images could not be asked: {missing}")
        found = None
    else:
        found = compare_all(run, decision, challenger, champion, gates.champion, gates.calibration.max_error)
        gate = champion_gate.by_all_images(gates.champion, found, decision.champion_version)
    gate = worded_gate(gate, run.config.task, decision.candidate.head.features.snapshot.labels)
    results = tuple(gate if each.name == champion_gate.NAME else each for each in decision.gates)
    weighed = replace(
        decision,
        folder=run.folder,
        gates=results,
        promote=gate.passed is not False,
        reasons=(f"{champion_gate.NAME}: {gate.reason}",),
        evidence="all images" if found else "test split",
        undecided=False,
    )
    changed = {
        "promote": weighed.promote,
        "verdict": "promoted" if weighed.promote else "refused",
        "reasons": list(weighed.reasons),
        "gates": [asdict(each) for each in results],
        "evidence": weighed.evidence,
        "all_images": found and asdict(found),
    }
    predictions = run.workspace.read_bytes(f"{decision.folder}/predictions.parquet")
    run.workspace.write_bytes(run.path("predictions.parquet"), predictions)
    run.workspace.write_json(run.path("decision.json"), {**written, **changed})
    return weighed


def weighed_by(run: Run, *given: Any) -> list[Any]:
    """What the second look depends on beside what it is given: the gates, and which images a person corrected."""
    corrected = sorted(read_corrections(run.workspace).standing())
    return [load_gates(run.config.evaluate.gates, run.name), corrected]
