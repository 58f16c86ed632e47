"""The records that travel between stages: small, frozen, and references only (never arrays, tables or models).

A record holds the records that it was made from: a head knows its features, a candidate its head. Two records are equal
where what they stand for is: where a thing lies in the workspace is left out of the comparison, and of the key that an
artifact made from it has (see `tasks.storage.artifacts`).

Each path is relative to the workspace, with `/` between its parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tasks.config import Config, is_onnx_file
from tasks.workspace import Workspace

SPLITS = ("train", "validation", "test")
Verdict = Literal["promoted", "refused", "unchanged", "invalid-data"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One retrain: what every stage is given first.

    `run_id` sorts by time: `20261121T093000-clothing-1a2b3c`. `source` is what the user gave. `artifact` is the folder
    that a stage's files go to, where they are kept under a key.
    """

    run_id: str
    name: str
    source: str
    workspace: Workspace
    config: Config
    started_at: str  # ISO 8601, UTC
    artifact: str = ""

    @property
    def folder(self) -> str:
        """Where whoever is given this run writes: the artifact's folder, or the run's own."""
        return self.artifact or f"runs/{self.run_id}"

    def path(self, file: str) -> str:
        """The path of a file in `folder`."""
        return f"{self.folder}/{file}"


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """A table of usable labelled images, no split made yet: what ingest found, or what validation left of it.

    Columns of the table: see `tasks.storage.tables.catalogue_schema`.
    """

    digest: str  # of the table, and of what was left out
    images: int
    quarantined: int  # files
    source: str
    work: str  # names what there is to do since the last run that finished: `tasks.storage.assignments.work_of`
    table_path: str = field(compare=False)
    folder: str = field(compare=False)  # of the stage that made it; `quarantine.jsonl` there says what it left out
    listing: str = field(default="", compare=False)  # digest of the source's listing, `tasks.ingest.listing`
    # What the source lists and nobody would miss (side files, images without a label): counts by reason.
    left_out: dict[str, int] = field(default_factory=dict, compare=False)
    corrected: int = field(default=0, compare=False)  # images with another label than the source gives, by a person
    dropped: int = field(default=0, compare=False)  # images that a person left out
    ingested: Catalogue | None = field(default=None, compare=False)  # what validation was given


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A data set as it was at one moment: `snapshots/<id>.parquet`, sorted, whose id is its content's digest."""

    id: str
    labels: tuple[str, ...]  # in index order
    images: int
    new: int = field(compare=False)  # images that no finished run of this model had met
    folder: str = field(compare=False)  # `quarantine.jsonl` there says what the split left out
    catalogue: Catalogue = field(compare=False)

    @property
    def table_path(self) -> str:
        return f"snapshots/{self.id}.parquet"


@dataclass(frozen=True, kw_only=True)
class FeatureExtractor:
    """The frozen part of a backbone: preprocessing and everything below the freeze boundary, as one ONNX graph.

    The graph takes `image` uint8 [N, H, W, 3] or, of texts, `input_ids` and `attention_mask` int64 [N, T], and gives
    `features` float32 [N, D]: the pooled maps (or tokens) of the last layer and, beside them, of `layers` (a number of
    late blocks, or names). Where the boundary is a lower layer, also `activations` float32 [N, h, w, C], that layer's
    output; the features come from the same pass, through the layers above as they were pre-trained.
    """

    key: str  # of the pooled features
    onnx_path: str = field(compare=False)
    backbone: str  # a name of the registry, or that of an ONNX file
    weights: str = field(compare=False)  # the path of the weights or the ONNX file here; its digest is in the key
    boundary: str
    image_size_px: int
    precision: Literal["fp32", "int8"] = "fp32"
    activations_key: str | None = None  # of the activations, where there are any
    layers: int | tuple[str, ...] = 0
    widths: tuple[int, ...] = field(default=(), compare=False)  # of each layer's features; empty before the export
    task: Literal["image", "text"] = "image"
    max_tokens: int = 0  # of a text, what is longer is cut off

    @property
    def tokenizer_path(self) -> str:
        """Of an encoder of texts, its tokenizer.json, beside the graph."""
        return f"{self.onnx_path.rpartition('/')[0]}/tokenizer.json"

    @property
    def output(self) -> Literal["features", "activations"]:
        """What the head takes."""
        return "activations" if self.activations_key else "features"

    @property
    def is_file(self) -> bool:
        """Whether the network was given as an ONNX file, and is none of Keras's."""
        return is_onnx_file(self.backbone)

    @property
    def in_keras(self) -> bool:
        """Whether Keras can compute the same: it has no 8-bit form, and none of a network given as an ONNX file."""
        return self.precision == "fp32" and not self.is_file

    @property
    def head_key(self) -> str:
        """The key of what the head takes."""
        return self.activations_key or self.key


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the extractor made of one snapshot, in the feature store; rows are keyed by (image sha256, view)."""

    snapshot: Snapshot
    extractor: FeatureExtractor
    views: int  # augmented views of each training image, beside view 0, the image as it is
    embedded: int = field(compare=False)  # images that had no row before this run


@dataclass(frozen=True, kw_only=True)
class Review:
    """What the features tell of the labels: `suspects.json`, `learning_curve.json`, `validation.json` in `folder`."""

    suspects: int
    folder: str = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class Head:
    """A trained head: `head.keras`, `history.json` and `validation_logits.parquet` in `folder`."""

    features: Features
    digest: str  # SHA-256 over the head's weights, in layer order
    temperature: float
    folder: str = field(compare=False)
    best_epoch: int | None = field(default=None, compare=False)  # whose weights these are, from 1
    validation_accuracy: float | None = field(default=None, compare=False)

    @property
    def keras_path(self) -> str:
        return f"{self.folder}/head.keras"

    @property
    def validation_path(self) -> str:
        """Logits float32 [C] of each validation image, on its stored features."""
        return f"{self.folder}/validation_logits.parquet"


@dataclass(frozen=True, kw_only=True)
class CrossFitted:
    """Predictions for the training and validation images of a snapshot by heads that were trained without them."""

    FILE: ClassVar[str] = "cross_fitted.parquet"
    FOLDS: ClassVar[int] = 5

    features: Features
    folder: str = field(compare=False)
    missing: str = ""  # why there are none

    @property
    def path(self) -> str:
        """Logits float32 [C] of each image."""
        return f"{self.folder}/{self.FILE}"


@dataclass(frozen=True, kw_only=True)
class FamiliarityBasis:
    """Of the familiarity what depends on no head, and how well it tells classes that it was fitted without, as files in
    `folder`."""

    features: Features
    folder: str = field(compare=False)

    @property
    def path(self) -> str:
        return f"{self.folder}/familiarity.npz"

    @property
    def unknown_classes_path(self) -> str:
        return f"{self.folder}/unknown_classes.json"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A head with its extractor as one model.onnx, under the version that it will have if the gates promote it."""

    head: Head
    onnx_path: str = field(compare=False)
    sha256: str
    version: int

    @property
    def tokenizer_path(self) -> str | None:
        """Of a model for texts, its tokenizer.json beside the file."""
        is_text = self.head.features.extractor.task == "text"
        return f"{self.onnx_path.rpartition('/')[0]}/tokenizer.json" if is_text else None

    @property
    def familiarity_path(self) -> str:
        """What the file says of its output `familiarity`, and how well that tells unknown classes."""
        return f"{self.onnx_path.rpartition('/')[0]}/familiarity.json"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The same model in another precision, and what it lost and gained against model.onnx on the test split."""

    precision: str
    onnx_path: str
    sha256: str
    published: bool  # it did not lose more accuracy than is allowed
    measured: dict[str, int | float]


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One gate: what it asked, what it found. `passed` is None where the gate does not apply to this run.

    `interval` is the value's, at 95 %; `evidence` says what was looked at. What is judged is the value, or one end of
    that, `judged`: it has to be `rule` ("at most", …) `threshold`, in `unit`. `overridable`: a person may publish a
    candidate that failed it, which nobody may where evidence is missing, or the file is not what was trained.
    """

    name: str
    passed: bool | None
    value: int | float | str | None
    threshold: int | float | str | None
    reason: str
    interval: tuple[float, float] | None = None
    evidence: str = ""
    overridable: bool = True
    rule: str = ""
    judged: int | float | None = None
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gates say of a candidate, and why; `decision.json` and `predictions.parquet` in `folder`.

    Always made, promoted or refused.
    """

    candidate: Candidate
    promote: bool
    reasons: tuple[str, ...]
    gates: tuple[GateResult, ...]
    folder: str = field(compare=False)
    metrics: dict[str, dict[str, int | float]] = field(default_factory=dict)
    champion_version: int | None = None
    # The threshold, the share of held-out images that are familiar, and how well unknown classes are told.
    familiarity: dict[str, Any] | None = None
    undecided: bool = False  # nothing speaks against it but that the test split has too few images
    evidence: Literal["test split", "all images"] = "test split"  # what decided between champion and challenger


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Images without labels whose rows a published model's extractor has made: a table of {path, uri, sha256}.

    `faults` counts the files that can't be used, which `faults.json` in `folder` names.
    """

    version: int  # of the model
    images: int
    faults: int
    embedded: int  # images that had no row before
    folder: str

    @property
    def table_path(self) -> str:
        return f"{self.folder}/pool.parquet"

    @property
    def faults_path(self) -> str:
        return f"{self.folder}/faults.json"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images of a pool that are worth a person's time: `next.json`, `next.csv` and `next.html` in `folder`."""

    reasons: dict[str, int]  # how many were chosen for each
    seen: int  # images of the pool that could be chosen
    folder: str

    @property
    def images(self) -> int:
        return sum(self.reasons.values())

    def path(self, suffix: str) -> str:
        return f"{self.folder}/next{suffix}"
