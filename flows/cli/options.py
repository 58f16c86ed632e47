"""Every option and argument of the command line, declared once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

Workspace = Annotated[
    str, typer.Option(envvar="HEADSTART_WORKSPACE", help="Where everything is kept: a folder, or an fsspec URL.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result alone: no progress.")]

# A retrain, once or whenever labels arrive.
Source = Annotated[
    str,
    typer.Argument(
        help="A folder with a subfolder a class (or train/, validation/ and test/ above those); a .csv, .jsonl or "
        ".parquet of path,label[,split] or, for texts, text,label[,split]; Label Studio's .json export; tfds:NAME; or "
        "any of these behind an fsspec URL."
    ),
]
Name = Annotated[str, typer.Option(help="The model's name: its folder in the model repository.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file; see `headstart config`.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one key, such as finetune.learning_rate=0.001."),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        # Written out, since reading them from the configuration would cost `--help` a tenth of a second.
        help="The pre-trained network: mobilenet_v2, mobilenet, vgg16, resnet50, inception_v3, xception, "
        "efficientnet_v2_b0, convnext_tiny, embedded, embedded_text (for texts), or an ONNX file (FILE.toml beside it, "
        "or its tokenizer.json); with --auto several, with commas."
    ),
]
Weights = Annotated[str | None, typer.Option(help="'imagenet', or the path of a weights file (no top).")]
Engine = Annotated[
    str | None,
    typer.Option(
        help="What runs the feature extractor: onnxruntime, tensorflow, or auto (TensorFlow where it alone has a GPU)."
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(help="Of the feature extractor: fp32, or int8, which is twice as fast on a processor, and ships."),
]
Auto = Annotated[
    bool, typer.Option("--auto", help="Let validation choose backbone, boundary, views, head and regularisation.")
]
Runner = Annotated[str | None, typer.Option(help="Where images or texts are inspected and embedded: threads, or dask.")]
DaskAddress = Annotated[
    str | None, typer.Option(help="A Dask scheduler's address; without one, dask starts a cluster on this machine.")
]
Force = Annotated[bool, typer.Option("--force", help="Run although nothing is new.")]

DemoText = Annotated[bool, typer.Option("--text", help="Messages in place of images, and word vectors to read them.")]

# The sensor.
SettleTime = Annotated[
    float,
    typer.Option(
        "--quiet", min=0, help="Seconds for which no file may have changed: so a copy in progress is never read."
    ),
]
MinNew = Annotated[int, typer.Option(min=1, help="New images or texts that are worth a run …")]
MaxWait = Annotated[float, typer.Option(min=0, help="… and the seconds after which fewer are.")]
Marker = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Instead of a settle time: a file, in the source's folder or anywhere, that is written anew after "
        "each delivery.",
    ),
]
Poll = Annotated[
    float | None,
    typer.Option(min=0.1, help="Seconds between listings of the source; 1 for a folder, 10 elsewhere."),
]
Alive = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        dir_okay=False,
        help="A file whose time is renewed while watching works, for a probe.",
    ),
]
Nightly = Annotated[str, typer.Option(metavar="CRON", help="When a run starts by the clock.")]

# Servers.
Host = Annotated[str, typer.Option(help="Address to listen on; the default is this machine alone.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
Reviewer = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Who decides; by default the name of the user.")
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAMES",
        help="Names by which it may be asked, with commas, beside those of loopback and --host; '*' for any.",
    ),
]
Collect = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE",
        help="Keep a share of the images, such as 1%, in inbox/NAME of the workspace, as what to label next.",
    ),
]
CollectImages = Annotated[int, typer.Option(metavar="N", help="Images that --collect keeps at most.")]
CollectMb = Annotated[float, typer.Option(metavar="N", help="Megabytes that they take at most.")]
CollectDays = Annotated[float, typer.Option(metavar="N", help="Days after which such an image is removed.")]
ShowTraining = Annotated[
    bool,
    typer.Option(
        "--show-training",
        help="Let other machines see the training photographs that explanations name; this machine always does.",
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Start before the first version is published.")]
Webhook = Annotated[
    str | None,
    typer.Option(envvar="HEADSTART_WEBHOOK", help="Where failures, crashes and refusals are posted: an https URL."),
]
Silence = Annotated[
    int,
    typer.Option(
        min=61,
        help="Seconds without a heartbeat after which a run counts as crashed: more than twice their period, which "
        "is PREFECT_FLOWS_HEARTBEAT_FREQUENCY where the runs are, or 180.",
    ),
]

# Published models.
ModelName = Annotated[str, typer.Argument(help="The model's name.")]
AnyModelName = Annotated[str | None, typer.Argument(help="A model; all of them by default.")]
ModelOrFile = Annotated[str, typer.Argument(help="A model's name in the workspace, or the path of a model.onnx.")]
ModelDir = Annotated[
    str, typer.Argument(help="A version's folder, such as workspace/models/clothing/3, or a model's name.")
]
Images = Annotated[
    list[str],
    typer.Argument(
        help="Photographs, or folders of them; with --to one folder, bucket or table of paths. Of a model for texts: "
        "texts, .txt files, folders of them, or '-' for the lines of standard input; with --to a folder or a "
        "table with a column text."
    ),
]
AnswersFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write image (or text), label, probability and familiarity to a .parquet, .csv or .jsonl file.",
    ),
]
UnknownLabel = Annotated[
    str | None,
    typer.Option(metavar="LABEL", help="Answer LABEL for what is unlike anything the model was trained on."),
]
PublicKey = Annotated[
    str | None,
    typer.Option(envvar="HEADSTART_PUBLIC_KEY", help="PEM file of the key that versions must be signed with."),
]
To = Annotated[int | None, typer.Option(help="The version to publish again; by default the one before.")]
RefusedRun = Annotated[str, typer.Argument(help="A refused run's id, as `headstart status` shows it.")]
By = Annotated[str, typer.Option(help="Who answers for it.")]
Reason = Annotated[str, typer.Option(help="Why the gates are overridden.")]

# What to label next.
Pool = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="Images or texts without labels: a folder, a bucket (an fsspec URL), or a .csv, .jsonl or .parquet with a "
        "column path (or text).",
    ),
]
Count = Annotated[int, typer.Option(min=1, max=1_000_000, help="Images or texts that can be labelled.")]
BatchFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the batch here, too: .json for Label Studio, with predictions, or .csv."),
]
Seeds = Annotated[int, typer.Option(min=1, max=100, help="Replays of each kind, of which intervals are made.")]
ChartFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the picture here: an .svg file.")]
Again = Annotated[bool, typer.Option("--again", help="Hand out again what was handed out before.")]

# Why an answer.
Photographs = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE...",
        help="Photographs, or folders of them. Of a model for texts: texts, .txt files, folders of them, or '-'.",
    ),
]
PageFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the page here: an .html file; by default in the workspace."),
]

# The workspace.
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be freed.")]
Files = Annotated[list[str], typer.Argument(help="Paths, or digests, as `quarantine list` shows them.")]


@dataclass(frozen=True, kw_only=True)
class KeyFlags:
    """The options that stand for keys of the configuration."""

    set_: list[str] | None = None
    backbone: str | None = None
    weights: str | None = None
    engine: str | None = None
    precision: str | None = None
    auto: bool = False
    runner: str | None = None
    dask_address: str | None = None

    def overrides(self) -> list[str]:
        """As `section.key=value`; the flags win over `--set`."""
        # A file's path has to hold for processes that run elsewhere.
        given = (self.backbone or "").split(",")
        names = [str(Path(name).resolve()) if name.endswith(".onnx") else name for name in given]
        flags = {
            "backbone.name": names[0],
            "auto.backbones": json.dumps(names) if len(names) > 1 else None,
            "auto.enabled": "true" if self.auto else None,
            "backbone.weights": self.weights,
            "backbone.precision": self.precision,
            "extract.engine": self.engine,
            "scale.runner": self.runner,
            "scale.dask_address": self.dask_address,
        }
        return [*(self.set_ or []), *(f"{key}={value}" for key, value in flags.items() if value)]


@dataclass(frozen=True, kw_only=True)
class WatchFlags:
    """The options of the sensor."""

    quiet: float
    min_new: int
    max_wait: float
    marker: str | None
    poll: float | None
