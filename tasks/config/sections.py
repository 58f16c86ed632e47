"""The sections of the configuration: each key with its meaning, unit, range and default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.config.backbones import BACKBONE_NAMES, BackboneName

BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def _say_bounds(schema: dict[str, Any]) -> None:
    """Adds each key's bounds to its description: the form in Prefect's UI keeps them, and shows them nowhere."""
    for key in schema.get("properties", {}).values():
        numbers = next((each for each in (key, *key.get("anyOf", [])) if BOUNDS.keys() & each.keys()), {})
        said = " and ".join(f"{word} {numbers[bound]:,}" for bound, word in BOUNDS.items() if bound in numbers)
        if said:
            key["description"] = f"{key.get('description', '')} ({said})".strip()


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,  # a default and the same value from a file have one digest: 10 is 10.0 in both
        use_attribute_docstrings=True,
        json_schema_extra=_say_bounds,
    )


class Backbone(Section):
    """The pre-trained network and where it is cut."""

    name: BackboneName = Field(
        default="mobilenet_v2",
        json_schema_extra={
            "anyOf": [  # the titles are what the form in Prefect's UI has to choose from
                {"title": "by name", "type": "string", "enum": list(BACKBONE_NAMES)},
                {"title": "ONNX file", "type": "string", "pattern": r"\.onnx$"},
            ]
        },
    )
    """Architecture: a name that `headstart retrain --help` lists, such as `mobilenet_v2` or `embedded`; or the path of
    an ONNX file, with a description beside it."""
    weights: str = "default"
    """`imagenet` (Keras's own, downloaded once or found under KERAS_HOME), a weights file's path, or `default`:
    `imagenet`, and for the embedded backbone the weights that come with it."""
    boundary: str = "avg_pool"
    """Freeze boundary: the layer whose output is cached; layers above it are trained. `avg_pool`: classifier only."""
    features: Annotated[int, Field(ge=0, le=64)] | Literal["last"] | list[str] = 5
    """Which layers' outputs are pooled: of a number of late blocks beside the last layer, `last` alone, or beside it
    those of the layers named. Where `boundary` is a lower layer, blocks above it."""
    image_size_px: int = Field(default=0, ge=0, le=1024)
    """Side of the square that images are resized to, in pixels; 0 takes the backbone's own."""
    precision: Literal["fp32", "int8"] = "fp32"
    """Of the feature extractor. `int8` is quantised on training images, makes features at about twice the speed on a
    processor with products of 8-bit numbers, and is what ships."""


class Ingest(Section):
    """What is accepted as an image or a text."""

    task: Literal["auto", "image", "text"] = "auto"
    """What the items are: `image` or `text`; `auto`: texts where the source is a table with a column `text`, or class
    folders of .txt files."""
    text_column: str = "text"
    """Of a table of texts, the column that holds them."""
    label_column: str = ""
    """Of a table, the column of the labels; empty takes `label` or, of texts, `category`, `class`, `intent` or
    `target`."""
    max_characters: int = Field(default=100_000, gt=0)
    """Texts of more characters than this are quarantined."""
    max_pixels: int = Field(default=100_000_000, gt=0)
    """Images of more pixels than this are quarantined undecoded: a bound against decompression bombs."""
    max_bytes: int = Field(default=64 * 1024 * 1024, gt=0)
    """Files larger than this are quarantined unread, in bytes."""
    follow_links: bool = False
    """Follow links that lead out of the source. Links within it are always followed, and circles never are."""
    layout: Literal["auto", "classes"] = "auto"
    """`auto`: top folders called train, validation, test or the like are splits. `classes`: they are classes, whatever
    they are called."""
    images_root: str = ""
    """Folder or URL at which the relative paths of a list or a Label Studio export start; empty takes its own."""


class Validate(Section):
    """The Great Expectations suite and its quarantine budget."""

    suite: str = "auto"
    """A suite in `expectations/`, or the path of a suite's JSON file; `auto`: `images` or `texts`."""
    changes_suite: str = "changes"
    """A suite for what changed since the champion's snapshot: a name in `expectations/`, or a JSON file's path."""
    max_growth: float = Field(default=10, gt=0)
    """New images for each old one before the run stops: a flood is more often a wrong folder than a harvest."""
    min_images_per_class: int = Field(default=5, ge=3)
    """A class with fewer images is left out, by name, until it has grown."""
    near_duplicates: bool = True
    """Look for copies that were recompressed, resized, mirrored, cropped a little or made brighter."""
    rename: dict[str, str] = {}
    """Classes that were given another name: old = "new". Applied to the source, and to what the champion says."""
    max_quarantined_share: float = Field(default=0.2, ge=0, le=1)
    """Share of all files that may be quarantined before the run stops with exit status 4."""
    max_quarantined: int = Field(default=10_000, ge=0)
    """Count of files that may be quarantined before the run stops with exit status 4."""


AUTO_TEST_IMAGES, LEAST_TEST_SHARE, MOST_TEST_SHARE = 50, 0.1, 0.2


class Split(Section):
    """Shares of the splits that the source does not give."""

    validation_share: float = Field(default=0.15, gt=0, lt=0.5)
    """Share of each class held out for early stopping and calibration."""
    test_share: Annotated[float, Field(gt=0, lt=0.5)] | Literal["auto"] = "auto"
    """Share of each class held out for the gates; never used for a choice. `auto`: a tenth; of fewer than 500 images as
    much as makes 50, a fifth at most, because a gate can't tell much from a few images."""

    def test_share_of(self, images: int) -> float:
        """The share of the test split among so many images."""
        if self.test_share != "auto":
            return self.test_share
        return min(max(AUTO_TEST_IMAGES / max(images, 1), LEAST_TEST_SHARE), MOST_TEST_SHARE)


class Augment(Section):
    """Views of the training images beside the image as it is."""

    policy: str = "mild"
    """`flip`, `mild`, `strong`, or the path of an albumentations pipeline saved as JSON."""
    views: Annotated[int, Field(ge=0, le=16)] | Literal["auto"] = "auto"
    """Augmented views of each training image, each embedded once; `auto`: 3 where layers are unfrozen, 0 where the
    classifier alone is trained, which a mirrored view did not help."""


class Extract(Section):
    """The pass through the feature extractor."""

    engine: Literal["auto", "onnxruntime", "tensorflow"] = "auto"
    """What runs the feature extractor: ONNX Runtime, or TensorFlow, which `auto` takes where it alone has a GPU."""
    workers: int = Field(default=0, ge=0, le=256)
    """Threads that decode, augment and infer; 0 takes one for each core."""
    shard_images: int = Field(default=1024, ge=1)
    """Images in one shard: one Prefect task and one part of the store, retried by itself."""


class Finetune(Section):
    """The head: the classifier and, where `backbone.boundary` is a lower layer, the layers between."""

    learning_rate: float = Field(default=0.003, gt=0, le=1)
    """Peak learning rate of AdamW, after warm-up; it decays to zero by a cosine."""
    epochs: int = Field(default=6, ge=1, le=1000)
    """Upper bound of epochs; early stopping ends sooner."""
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly."""
    patience: int = Field(default=5, ge=1)
    """Epochs without a better validation loss before training stops."""
    batch_size: int = Field(default=256, ge=1)
    """Rows in a step."""
    unfrozen_learning_rate: float = Field(default=0.0002, gt=0, le=1)
    """Peak learning rate of the layers above a lower freeze boundary, trained after the classifier and with it."""
    unfrozen_epochs: int = Field(default=4, ge=1, le=1000)
    """Upper bound of epochs over those layers; each has every view of every image."""
    unfrozen_batch_size: int = Field(default=64, ge=1)
    """Images in a step over those layers."""
    hidden_units: int = Field(default=128, ge=0, le=8192)
    """Width of the head's hidden layer; 0 leaves a linear classifier, of which there is one."""
    heads: int = Field(default=1, ge=1, le=16)
    """Heads with hidden layers of their own, trained side by side; their mean logits are the model's."""
    dropout: float = Field(default=0.4, ge=0, lt=1)
    """Share of features dropped in training."""
    label_smoothing: float = Field(default=0.2, ge=0, lt=1)
    """Probability mass taken from the true class and spread over all."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of AdamW."""
    class_weights: Literal["balanced", "sqrt", "none"] = "sqrt"
    """Weight of a class in the loss: by inverse frequency, its square root, or equal."""
    sampling: Literal["natural", "balanced"] = "natural"
    """How often an epoch shows a row: each as often as any other, or each class as often as any other; the loss then
    weighs all alike, whatever `class_weights` says."""
    mixup: float = Field(default=0, ge=0, le=10)
    """Alpha of mixup's Beta distribution: rows and their targets are blended in pairs. 0 blends none."""
    ema: float = Field(default=0, ge=0, lt=1)
    """Momentum of the exponential moving average of the weights, which is what is validated and kept; 0 averages
    none."""
    seed: int = Field(default=17, ge=0)
    """Seeds initialisation, order, dropout and mixup."""


class Auto(Section):
    """`--auto`: validation chooses backbone, boundary, layers, views, head and its regularisation."""

    enabled: bool = False
    """Choose backbone, boundary, layers, views, head and regularisation by the loss on validation, whatever their keys
    say."""
    backbones: list[BackboneName] = []
    """Backbones to choose among; none: `backbone.name` alone."""
    latency_ms: float = Field(default=0, ge=0)
    """Longest that the feature extractor may take over one image on one thread, in milliseconds; 0 allows any."""
    size_mb: float = Field(default=0, ge=0)
    """Largest feature extractor, as an ONNX file in megabytes (10^6 bytes); 0 allows any."""
    again_at_growth: float = Field(default=0.25, ge=0)
    """A champion's choice stands until the images have grown by this share since it was made, or the classes are
    others."""


class Export(Section):
    """The published model, and its variants beside it."""

    familiar_share: float = Field(default=0.95, gt=0.5, lt=1)
    """Share of held-out images that the model calls familiar; the others, and what is like nothing that it was trained
    on, it calls unfamiliar."""
    variants: list[Literal["float16", "int8"]] = []
    """Other precisions to publish beside model.onnx, measured on the test split: `float16`, `int8`."""
    max_accuracy_drop: float = Field(default=0.02, ge=0, le=1)
    """A variant that loses more test accuracy than this is not published."""


class Evaluate(Section):
    """The gates."""

    gates: str = "gates"
    """`gates`, or the path of a TOML file that says what differs from `expectations/gates.toml`."""
    cross_fit_s: float = Field(default=120, ge=0)
    """Seconds that cross-fitting may take: training heads that each leave out a part of the images, so that all images
    are evidence where the test split has too few. 0 does without."""


class Label(Section):
    """What to label next."""

    random_share: float = Field(default=0.1, ge=0, le=1)
    """Share of a batch that is drawn at random, so that accuracy and gain can be estimated on it without bias."""
    unfamiliar_share: float = Field(default=0.1, ge=0, le=1)
    """Share of a batch that is least like any labelled image."""
    seed: int = Field(default=17, ge=0)
    """Seeds what is drawn: the same pool, model and seed give the same batch."""


class Scale(Section):
    """Where images are inspected and shards embedded. It changes no result."""

    runner: Literal["threads", "dask"] = "threads"
    """`threads` of the run's own process, or `dask`: the workers of a Dask cluster (needs headstart's extra `dask`)."""
    dask_address: str = ""
    """Of a Dask scheduler, such as `tcp://10.0.0.5:8786`; empty starts a cluster on this machine for the stage."""
    dask_workers: int = Field(default=0, ge=0, le=1024)
    """Worker processes of a cluster on this machine, of one thread each; 0 takes one for each core."""
