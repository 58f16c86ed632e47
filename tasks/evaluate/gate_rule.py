"""A gate's rule: which bound is judged, against which threshold, in which unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tasks.records import GateResult

HOLDS = {
    "at least": lambda judged, threshold: judged >= threshold,
    "at most": lambda judged, threshold: judged <= threshold,
    "more than": lambda judged, threshold: judged > threshold,
}


@dataclass(frozen=True, kw_only=True)
class GateRule:
    """`gate` passes where what is judged is `rule` `threshold`: 'calibration error', 'at most' 0.05, a 'share'."""

    gate: str
    rule: Literal["at least", "at most", "more than"]
    threshold: float
    unit: str = ""  # 'share' and 'points' are of 1, and shown as of 100
    overridable: bool = True

    def result(self, value: float, reason: str, *, judged: float | None = None, **more: Any) -> GateResult:
        """What the gate found.

        Args:
            judged: the end of the value's interval that is compared with the threshold, where it is not the value.
            more: other fields of the result; `passed` where more than the threshold decides.
        """
        passed = bool(HOLDS[self.rule](value if judged is None else judged, self.threshold))
        return GateResult(
            **{**self._fields(), "value": value, "reason": reason, "judged": judged, "passed": passed, **more}
        )

    def missing(self, why: str = "it was not measured") -> GateResult:
        """No evidence, so it does not pass, and nobody may override that."""
        reason = f"no evidence: {why}"
        return GateResult(**{**self._fields(), "passed": False, "value": None, "reason": reason, "overridable": False})

    def _fields(self) -> dict[str, Any]:
        return {
            "name": self.gate,
            "rule": self.rule,
            "threshold": self.threshold,
            "unit": self.unit,
            "overridable": self.overridable,
        }
