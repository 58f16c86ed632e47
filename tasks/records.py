"""The values that travel between stages: small, frozen, and references only (never arrays, tables or models).

Each `…_path` is relative to the workspace, with `/` between its parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tasks.config import Config
from tasks.workspace import Workspace

SPLITS = ("train", "validation", "test")
Verdict = Literal["promoted", "refused", "unchanged", "invalid-data"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One retrain: what every stage is given first.

    `run_id` sorts by time: `20261121T093000-clothing-1a2b3c`. `source` is what the user gave.
    """

    run_id: str
    name: str
    source: str
    workspace: Workspace
    config: Config
    started_at: str  # ISO 8601, UTC

    def path(self, file: str) -> str:
        """The path of a file in the run's folder, relative to the workspace."""
        return f"runs/{self.run_id}/{file}"


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What ingest found: a Parquet table of usable labelled images, no split made yet.

    Columns of the table: see `tasks.storage.tables.CATALOGUE`.
    """

    table_path: str
    images: int
    quarantined: int
    source: str
    listing: str = ""  # the digest of the source's listing, see `tasks.ingest.listing.listing_digest`


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A data set as it was at one moment: `snapshots/<id>.parquet`, sorted, whose id is its content's digest.

    `new` counts the images that no earlier snapshot of this model name held.
    """

    id: str
    table_path: str
    labels: tuple[str, ...]  # in index order
    images: int
    new: int
    quarantined: int


@dataclass(frozen=True, kw_only=True)
class FeatureExtractor:
    """A feature extractor: preprocessing and everything below the freeze boundary, as one ONNX graph.

    The graph takes `image` uint8 [N, H, W, 3] and answers `features` float32 [N, D], pooled; where the boundary is a
    lower layer, also `activations` float32 [N, h, w, C], that layer's output (the pooled features come from the same
    pass, through the layers above as they were pre-trained).
    """

    key: str  # of the pooled features
    onnx_path: str
    backbone: str
    weights: str  # the path of the weights file on this machine
    boundary: str
    image_size_px: int
    precision: Literal["fp32", "int8"] = "fp32"
    activations_key: str | None = None  # of the activations, where there are any

    @property
    def output(self) -> Literal["features", "activations"]:
        """What the head takes."""
        return "activations" if self.activations_key else "features"

    @property
    def head_key(self) -> str:
        """Of what the head takes."""
        return self.activations_key or self.key


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the feature extractor made of one snapshot, in the store; rows are keyed by (image sha256, view)."""

    key: str  # of the pooled features, of every image
    views: int  # augmented views of each training image, beside view 0, the image as it is
    embedded: int = field(compare=False)  # images that had no row before this run
    activations_key: str | None = None  # of the boundary's activations, of training and validation images


@dataclass(frozen=True, kw_only=True)
class Head:
    """A trained head: `head.keras`, `history.json` and `validation_logits.parquet` in the run's folder."""

    keras_path: str
    history_path: str
    validation_path: str  # logits float32 [C] of each validation image, on its stored features
    digest: str  # SHA-256 over the head's weights, in layer order
    temperature: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One exported model.onnx, a candidate or a published one."""

    onnx_path: str
    sha256: str
    version: int


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The same model in another precision, and what it lost and gained against model.onnx on the test split."""

    precision: str
    onnx_path: str
    sha256: str
    published: bool  # it did not lose more accuracy than is allowed
    measured: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One gate: what it asked, what it found. `passed` is None where the gate does not apply to this run.

    `interval` is the value's, at 95 %; `evidence` says what was looked at. `overridable`: a person may publish a
    candidate that failed it, which nobody may where evidence is missing, or the file is not what was trained.
    """

    name: str
    passed: bool | None
    value: float | str | None
    threshold: float | str | None
    reason: str
    interval: tuple[float, float] | None = None
    evidence: str = ""
    overridable: bool = True


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gates say of a candidate, and why. Always written, promoted or refused."""

    promote: bool
    reasons: tuple[str, ...]
    gates: tuple[GateResult, ...]
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    champion_version: int | None = None
