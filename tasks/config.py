"""The configuration: one schema behind the TOML file, the environment, the flags and the form in Prefect's UI.

Layers, later ones winning: the defaults below, a TOML file, `HEADSTART_…` variables (`__` between a section and its
key: `HEADSTART_FINETUNE__LEARNING_RATE=0.01`), then `--set section.key=value` and the other flags.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.errors import ConfigError

ENV_PREFIX = "HEADSTART_"
# Variables that are flags of the command line, not keys of the schema; and those that the files in deploy/ read.
ENV_FLAGS = {
    *("HEADSTART_WORKSPACE", "HEADSTART_TRACEBACK", "HEADSTART_SIGNING_KEY", "HEADSTART_PUBLIC_KEY"),
    *("HEADSTART_CACHE", "HEADSTART_WEBHOOK", "HEADSTART_HOME", "HEADSTART_NAME", "HEADSTART_SOURCE"),
    "HEADSTART_POOL",
    *("HEADSTART_PHOTOS", "HEADSTART_TAG", "HEADSTART_SOURCE_URL", "HEADSTART_WORKSPACE_URL"),
    *("HEADSTART_SIGNING_KEY_FILE", "HEADSTART_PUBLIC_KEY_FILE"),
    "HEADSTART_UP_PID",  # set by `headstart up`, for the processes of its runs
}


EMBEDDED_TEXT = "embedded_text"  # the encoder of texts that comes with headstart

# The networks of `tasks.networks.registry`, in its order, and the one for texts: what the form in Prefect's UI offers.
BACKBONE_NAMES = (
    "mobilenet_v2",
    "mobilenet",
    "vgg16",
    "resnet50",
    "inception_v3",
    "xception",
    "efficientnet_v2_b0",
    "convnext_tiny",
    "embedded",
    EMBEDDED_TEXT,
)


def known_name(backbone: str) -> str:
    """A backbone's name as headstart writes it, however papers and Keras do: 'MobileNetV2' is 'mobilenet_v2'."""
    plain = re.sub(r"[\W_]", "", backbone).lower()
    return next((name for name in BACKBONE_NAMES if name.replace("_", "") == plain), backbone)


def is_onnx_file(backbone: str) -> bool:
    """Whether a backbone is an ONNX file: given by its path, or the one for texts that comes with headstart."""
    return backbone.endswith(".onnx") or backbone == EMBEDDED_TEXT


BackboneName = Annotated[str, AfterValidator(known_name)]


POOLED = "avg_pool"  # the freeze boundary above the last feature map's global average

# What `--auto` decides.
CHOSEN = (
    "backbone.name",
    "backbone.boundary",
    "backbone.features",
    "augment.views",
    "finetune.hidden_units",
    "finetune.heads",
    "finetune.dropout",
    "finetune.mixup",
)


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
    """What runs the feature extractor: ONNX Runtime, or TensorFlow; `auto` takes TensorFlow where it has a GPU."""
    workers: int = Field(default=0, ge=0, le=256)
    """Threads that decode, augment and infer; 0 takes one for each core."""
    shard_images: int = Field(default=1024, ge=1)
    """Images in one shard: one Prefect task and one part of the store, retried by itself."""


class Finetune(Section):
    """The head: the classifier and, where `backbone.boundary` is a lower layer, the layers between."""

    learning_rate: float = Field(default=0.002, gt=0, le=1)
    """Peak learning rate of AdamW, after warm-up; it decays to zero by a cosine."""
    epochs: int = Field(default=10, ge=1, le=1000)
    """Upper bound of epochs; early stopping ends sooner."""
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly."""
    patience: int = Field(default=5, ge=1)
    """Epochs without a better validation loss before training stops."""
    batch_size: int = Field(default=128, ge=1)
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


# Defaults that texts do better with. On 10,003 questions to a bank (77 intents, a distilled BERT of six blocks), of
# 2,508 that were held out, 0.924 are right with the defaults of images, 0.934 with these (means of two seeds). Twice
# the hidden units for 25 epochs come to 0.935 in twice the time; two or three averaged heads to 0.931.
FOR_TEXTS = {
    "backbone.features": 3,
    "finetune.epochs": 20,
    "finetune.hidden_units": 256,
    "finetune.learning_rate": 0.003,
}

SHOWN = ("backbone",)  # sections whose keys the form shows from the beginning
FIELDS = {"validate": "validation"}  # where a section's name is taken in pydantic


def _fold_sections(schema: dict[str, Any]) -> None:
    """Lets a person unfold each section but SHOWN in the form in Prefect's UI, which would have 69 fields otherwise.

    Of alternatives (`anyOf`) the form shows one at a time, and begins with the default: null, which has no fields.
    """
    for name, section in schema["properties"].items():
        if name not in SHOWN:
            definition = {"$ref": section["$ref"]}
            folded = {"type": "null", "title": "Default"}
            meaning = inspect.getdoc(Config.model_fields[FIELDS.get(name, name)].annotation)  # type: ignore[arg-type]
            section.clear()
            section |= {"title": name.title(), "description": meaning, "anyOf": [folded, definition], "default": None}


class Config(Section):
    """Everything that shapes a retrain, beside its source, its name and its workspace."""

    model_config = ConfigDict(json_schema_extra=_fold_sections)

    backbone: Backbone = Backbone()
    ingest: Ingest = Ingest()
    validation: Validate = Field(default=Validate(), alias="validate")
    split: Split = Split()
    augment: Augment = Augment()
    extract: Extract = Extract()
    finetune: Finetune = Finetune()
    auto: Auto = Auto()
    export: Export = Export()
    evaluate: Evaluate = Evaluate()
    label: Label = Label()
    scale: Scale = Scale()

    @model_validator(mode="before")
    @classmethod
    def _without_folded(cls, tree: Any) -> Any:
        """The form gives null for a section that nobody unfolded."""
        return {key: value for key, value in tree.items() if value is not None} if isinstance(tree, dict) else tree

    @property
    def task(self) -> Literal["image", "text"]:
        """What the items are; images until a source says otherwise (`with_task`)."""
        return "text" if self.ingest.task == "text" else "image"

    @property
    def suite(self) -> str:
        """The suite of expectations for the items: its name, or a file's path."""
        return f"{self.task}s" if self.validation.suite == "auto" else self.validation.suite

    def with_task(self, task: Literal["image", "text"]) -> Config:
        """This configuration for items of a kind, with what goes by it filled in.

        Raises:
            ConfigError: it asks for a network of the other kind.
        """
        keys: dict[str, Any] = {"ingest.task": task}
        if task == "text":
            given = {f"{section}.{key}" for section in ("backbone", "finetune") for key in self._given(section)}
            keys |= {key: value for key, value in FOR_TEXTS.items() if key not in given}
            if self.backbone.name in (Backbone().name, "embedded"):
                keys["backbone.name"] = EMBEDDED_TEXT
        tree = self.model_dump(by_alias=True, exclude_unset=True)  # what nobody set stays so
        for name, value in keys.items():
            section, key = name.split(".")
            tree.setdefault(section, {})[key] = value
        found = parse_config(tree)
        for name in found.backbones():
            if not name.endswith(".onnx") and (name == EMBEDDED_TEXT) != (task == "text"):
                if name in BACKBONE_NAMES:
                    fault = f"the backbone {name} takes {'texts' if name == EMBEDDED_TEXT else 'images'}"
                else:
                    fault = f"{name} is no backbone of texts"
                raise ConfigError(
                    f"{fault}, and the source holds {task}s: give --backbone FILE.onnx of an encoder of {task}s"
                    + (f", or none for {EMBEDDED_TEXT}" if task == "text" else "")
                )
        return found

    def _given(self, section: str) -> set[str]:
        """The keys of a section that somebody set."""
        return getattr(self, section).model_fields_set if section in self.model_fields_set else set()

    def digest(self) -> str:
        """SHA-256 of what can change a model: all but how and where the work is spread, and what is labelled next.

        Where the choice is automatic, the keys that it decides change nothing: so a configuration has the same digest
        before its choice and after.
        """
        undecided = {**dict.fromkeys(CHOSEN), "auto.backbones": self.backbones()}
        config = self.with_keys(undecided) if self.auto.enabled else self
        spread = {"extract": {"engine", "workers", "shard_images"}, "label": True, "scale": True}
        shaping = config.model_dump(by_alias=True, exclude=spread)
        return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()

    def with_keys(self, values: Mapping[str, Any]) -> Config:
        """This configuration with other values of some keys (`section.key`); None puts a default back.

        Raises:
            ConfigError: an unknown key, or a value out of range.
        """
        tree = self.model_dump(by_alias=True)
        for name, value in values.items():
            section, key = name.split(".")
            if value is None:
                del tree[section][key]
            else:
                tree[section][key] = value
        return parse_config(tree)

    def key(self, name: str) -> Any:
        """The value of one key, `section.key`."""
        section, key = name.split(".")
        return self.model_dump(by_alias=True)[section][key]

    def backbones(self) -> list[str]:
        """The backbones that may come to be used."""
        return (self.auto.backbones if self.auto.enabled else []) or [self.backbone.name]


def load_config(
    file: Path | None = None, *, environ: Mapping[str, str] | None = None, overrides: Sequence[str] = ()
) -> Config:
    """The configuration from all its layers.

    Args:
        file: a TOML file, or None.
        environ: the environment; only `HEADSTART_…` is read.
        overrides: `section.key=value` strings; a value is read as TOML and, where it is none, as a plain string.

    Raises:
        ConfigError: an unreadable file, an unknown key or variable (naming the nearest known one) or a value out of
            range.
    """
    tree: dict[str, Any] = _read_toml(file) if file else {}
    _read_environ(tree, environ or {})
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value, such as finetune.learning_rate=0.01; found {override!r}")
        _place(tree, key.strip().split("."), value.strip())
    return parse_config(tree)


def with_environment(config: Config, environ: Mapping[str, str]) -> Config:
    """A configuration that was given to the flow, above the `HEADSTART_…` variables of where the flow runs.

    So a variable counts whoever starts the run: a command, a deployment's worker, or the form in Prefect's UI. A key
    that was given wins. Raises ConfigError.
    """
    tree: dict[str, Any] = {}
    _read_environ(tree, environ)
    for section, keys in config.model_dump(by_alias=True, exclude_unset=True).items():
        tree[section] = {**tree.get(section, {}), **keys}
    return parse_config(tree)


def _read_environ(tree: dict[str, Any], environ: Mapping[str, str]) -> None:
    for variable, value in sorted(environ.items()):
        if variable.startswith(ENV_PREFIX) and variable not in ENV_FLAGS:
            _place(tree, _path(variable), value)


def parse_config(tree: Mapping[str, Any]) -> Config:
    """The configuration from nested mappings. Raises ConfigError."""
    try:
        return Config.model_validate(tree)
    except ValidationError as exc:
        raise ConfigError("\n".join(_describe(error) for error in exc.errors())) from None


def known_keys() -> list[str]:
    """Every key, as `section.key`, in the schema's order."""
    return [
        f"{section.alias or name}.{key}"
        for name, section in Config.model_fields.items()
        for key in section.annotation.model_fields  # type: ignore[union-attr]
    ]


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"can't read the configuration {file}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file} is not valid TOML: {exc}") from exc


def _path(variable: str) -> list[str]:
    """The path of the key that a variable sets: HEADSTART_FINETUNE__EPOCHS, ["finetune", "epochs"]."""
    path = variable.removeprefix(ENV_PREFIX).lower().split("__")
    keys = known_keys()
    if ".".join(path[:2]) in {*keys, *(key.split(".")[0] for key in keys)}:
        return path
    known = {ENV_PREFIX + key.upper().replace(".", "__"): f"{key!r}, set by " for key in keys} | dict.fromkeys(
        ENV_FLAGS, ""
    )
    [near] = difflib.get_close_matches(variable, known, n=1, cutoff=0)
    raise ConfigError(f"unknown variable {variable}; the nearest known one is {known[near]}{near}")


def _place(tree: dict[str, Any], path: list[str], value: str) -> None:
    for part in path[:-1]:
        branch = tree.setdefault(part, {})
        if not isinstance(branch, dict):
            raise ConfigError(_unknown(".".join(path)))
        tree = branch
    tree[path[-1]] = _toml_value(value)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _describe(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(key)
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}; found {error['input']!r}"


def _unknown(key: str) -> str:
    known = known_keys()
    candidates = known + [name.rsplit(".", 1)[-1] for name in known] + list({k.split(".")[0] for k in known})
    near = difflib.get_close_matches(key, candidates, n=1, cutoff=0)
    full = next((name for name in known if near and (name == near[0] or name.endswith(f".{near[0]}"))), near[0])
    return f"unknown key {key!r}; the nearest known one is {full!r} (`headstart config` lists all)"
