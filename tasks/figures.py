"""What a stage came to, in figures, on one line: for its log and its name on the run's page."""

from __future__ import annotations

import re
from typing import Any

from tasks.records import Candidate, Catalogue, Decision, FeatureExtractor, Features, Head, Snapshot


def in_figures(result: Any) -> str:
    """One line about a stage's result; empty where there is nothing to count."""
    match result:
        case Catalogue():
            return f"{result.images:,} images, {result.quarantined:,} files quarantined"
        case Snapshot():
            return f"{result.id}, {result.images:,} images in {len(result.labels)} classes, {result.new:,} new"
        case FeatureExtractor():
            return f"{result.backbone} up to {result.boundary}, {result.precision}"
        case Features():
            return f"{result.embedded:,} images embedded"
        case Head():
            return f"head {result.digest[:12]}, temperature {result.temperature:.2f}"
        case Candidate():
            return f"candidate for version {result.version}"
        case Decision():
            accuracy = result.metrics.get("test", {}).get("accuracy")
            refused = [gate.name for gate in result.gates if gate.passed is False]
            said = "promote" if result.promote else f"refuse ({', '.join(refused)})"
            return said if accuracy is None else f"{said}, test accuracy {accuracy:.3f}"
    return ""


def artifact_key(name: str, subject: str) -> str:
    """Prefect's keys are of [a-z0-9-]: 'my_model' and 'gates' give 'my-model-gates'."""
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{subject}"
