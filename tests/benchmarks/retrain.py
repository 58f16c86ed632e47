"""What a retrain costs, beside the tutorial's loop; how near extraction comes to its ceiling; how cost grows.

    KERAS_HOME=… uv run python -m tests.benchmarks.retrain PHOTOGRAPHS [--repeats 3] [--tutorial-epochs 10]
        [--only retrain,extraction,sizes] [--markdown TABLES.md]

PHOTOGRAPHS is a folder of `train/` and `validation/`, a subfolder a class; ImageNet's weights of MobileNetV2 come from
Keras (downloaded once, or found under KERAS_HOME). Prints one JSON object on standard output, and each measurement as
it comes on standard error. Every figure is a median over `--repeats` turns; in each turn everything is measured once,
so that a slower quarter of an hour hits all alike. Leave the machine alone meanwhile: it takes most of an hour.

`retrain`: whole processes. The tutorial's loop (tests/benchmarks/tutorial.py); and `headstart retrain`, with 32-bit and
with 8-bit feature extractor, once with the Prefect server that it starts itself and once with one that is up already:
the first retrain of a fresh workspace, the same command again, and again with 1 % new images.

`extraction`: the flow's own pass into the store, in images a second, beside the same graph alone on decoded images in
memory, and the decoder alone.

`sizes`: 1, 2, 4 and 8 times the images.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from tasks.networks.onnx_session import available_cores
from tests.benchmarks import extraction, sizes
from tests.benchmarks.copies import drawn, photographs, save_changed
from tests.benchmarks.processes import Answer, environment, prefect_server, run
from tests.benchmarks.scale import in_a_process

SECTIONS = ("retrain", "extraction", "sizes")
SERVERS = ("started by the run", "already up")
PRECISIONS = ("fp32", "int8")
STEPS = ("first", "unchanged", "1 % new")
TUTORIAL_EPOCHS = 10
NEW_SHARE = 0.01
REFUSED = 3  # the gates' exit status: an answer too


@dataclass(frozen=True)
class Cost:
    """One retrain, whole process."""

    seconds: float
    processor_s: float  # without that of a server that was up before
    peak_rss_mb: int
    verdict: str
    embedded: int
    validation_accuracy: float
    where_s: dict[str, float]  # adds up to `seconds`


def say(*what: Any) -> None:
    print(*what, file=sys.stderr, flush=True)


def headstart(source: Path, workspace: Path, env: dict[str, str], backbone: Sequence[str]) -> Answer:
    """`headstart retrain` as this environment has it installed."""
    command = [str(Path(sys.executable).parent / "headstart"), "retrain", str(source), "--name", "benchmark"]
    command += [*backbone, "--workspace", str(workspace), "--json"]
    return run(command, env, allowed=(0, REFUSED))


def cost_of(answer: Answer, workspace: Path) -> Cost:
    summary = answer.printed
    accuracy = summary["metrics"]["validation"]["accuracy"]
    where = where_seconds_go(answer, workspace)
    return Cost(
        seconds=round(answer.seconds, 2),
        processor_s=round(answer.processor_s, 1),
        peak_rss_mb=answer.peak_rss_mb,
        verdict=summary["verdict"],
        embedded=summary["images"]["embedded"],
        validation_accuracy=round(accuracy, 4),
        where_s=where,
    )


def where_seconds_go(answer: Answer, workspace: Path) -> dict[str, float]:
    """Seconds from the process's start to the flow, in each stage that ran, between stages, and after the flow.

    The flow starts with the ingest stage, and that ends with writing the catalogue: the file's time tells when. The
    total of a summary begins with the process.
    """
    timings = dict(answer.printed["timings_s"])
    total = timings.pop("total")
    ingested = (workspace / "runs" / answer.printed["run_id"] / "catalogue.parquet").stat().st_mtime
    start = ingested - timings["ingest"] - answer.started_at
    stages = {stage: seconds for stage, seconds in timings.items() if seconds}
    between, after = total - start - sum(stages.values()), answer.seconds - total
    where = {"start, to the flow": start, **stages, "between stages": between, "after the flow": after}
    return {part: round(seconds, 2) for part, seconds in where.items()}


def measure_retrain(data: Path, folder: Path, repeats: int, epochs: int) -> dict[str, Any]:
    home, new = folder / "prefect", folder / "new"
    server_start_s = migrate(home)
    say("Prefect's server answers after", server_start_s)
    save_new(data, new)
    tutorials: list[Answer] = []
    costs: dict[tuple[str, str, str], list[Cost]] = {}
    for repeat in range(repeats):
        tutorials.append(tutorial(data, home, epochs))
        say("tutorial", repeat, f"{tutorials[-1].seconds:.1f} s", tutorials[-1].printed)
        for server in SERVERS:
            for precision in PRECISIONS:
                for step, cost in zip(STEPS, measure_arm(data, new, folder, home, server, precision), strict=True):
                    say("retrain", repeat, server, precision, step, asdict(cost))
                    costs.setdefault((server, precision, step), []).append(cost)
    baseline = {
        "epochs": epochs,
        "seconds": round(median(answer.seconds for answer in tutorials), 1),
        "each_s": [round(answer.seconds, 1) for answer in tutorials],
        "validation_accuracy": median(answer.printed["validation_accuracy"] for answer in tutorials),
        "peak_rss_mb": median(answer.peak_rss_mb for answer in tutorials),
    }
    # A shortened tutorial is no measure of anything: then there is no comparison.
    whole_s = baseline["seconds"] if epochs == TUTORIAL_EPOCHS else None
    return {
        "images": len(photographs(data)),
        "new_images": len(photographs(new)),
        "prefect_server_start_s": server_start_s,
        "tutorial": baseline,
        "runs": [
            {"server": server, "precision": precision, "step": step, **middle(each, whole_s)}
            for (server, precision, step), each in costs.items()
        ],
    }


def migrate(home: Path) -> dict[str, float]:
    """Makes a Prefect home with its database. Returns the seconds until a server answers, there and once more."""
    seconds = {}
    for which in ("first_ever", "again"):
        with prefect_server(home) as (_, seconds_to_answer):
            seconds[which] = round(seconds_to_answer, 1)
    return seconds


def new_originals(data: Path) -> list[Path]:
    files = photographs(data / "train")
    return drawn(files, max(1, round(NEW_SHARE * len(files))), seed=0)


def save_new(data: Path, folder: Path) -> None:
    """Writes changed copies of some photographs into a folder, under the classes of the originals."""
    for place, original in enumerate(new_originals(data)):
        target = folder / original.relative_to(data)
        save_changed(original, target.with_name(f"{target.stem}-new.jpg"), seed=place)


def tutorial(data: Path, home: Path, epochs: int) -> Answer:
    command = [sys.executable, "-m", "tests.benchmarks.tutorial", str(data), "--epochs", str(epochs)]
    return run(command, environment(home))


def measure_arm(data: Path, new: Path, folder: Path, home: Path, server: str, precision: str) -> list[Cost]:
    """The three steps in a fresh workspace, with copies of the data and of the Prefect home that go with it."""
    with ExitStack() as stack:
        aside = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        shutil.copytree(data, aside / "data")
        shutil.copytree(home, aside / "prefect")
        up = server == "already up"
        api_url, _ = stack.enter_context(prefect_server(aside / "prefect") if up else nullcontext((None, 0.0)))
        env = environment(aside / "prefect", api_url)
        costs = []
        for step in STEPS:
            if step == "1 % new":
                shutil.copytree(new, aside / "data", dirs_exist_ok=True)
            answer = headstart(aside / "data", aside / "workspace", env, ["--precision", precision])
            costs.append(cost_of(answer, aside / "workspace"))
        return costs


def middle(costs: list[Cost], tutorial_s: float | None) -> dict[str, Any]:
    """Medians of the repeats of one run; the parts are medians of their own, so their sum may differ a little."""
    seconds = median(cost.seconds for cost in costs)
    return {
        "seconds": round(seconds, 2),
        "each_s": [cost.seconds for cost in costs],
        "processor_s": median(cost.processor_s for cost in costs),
        "times_faster": round(tutorial_s / seconds, 1) if tutorial_s else None,
        "validation_accuracy": median(cost.validation_accuracy for cost in costs),
        "peak_rss_mb": median(cost.peak_rss_mb for cost in costs),
        "verdicts": sorted({cost.verdict for cost in costs}),
        "embedded": sorted({cost.embedded for cost in costs}),
        "where_s": {
            part: round(median(cost.where_s.get(part, 0.0) for cost in costs), 2)
            for part in dict.fromkeys(part for cost in costs for part in cost.where_s)
        },
    }


def measure_extraction(data: Path, folder: Path, repeats: int, images: int) -> list[dict[str, Any]]:
    measured = []
    for precision in PRECISIONS:  # a process each, so that neither has the other's memory and threads
        arguments = (data, folder / f"extraction-{precision}", {"precision": precision}, images, repeats)
        found = in_a_process(extraction.measure_extraction, *arguments)
        del found["peak_rss_mb"]  # mostly the decoded images that the ceilings are measured on
        measured.append(found)
        say("extraction", measured[-1])
    return measured


def measure_sizes(data: Path, folder: Path, repeats: int, base: int) -> dict[str, Any]:
    home = folder / "prefect"
    if not home.exists():
        migrate(home)
    env = environment(home)

    def retrain(source: Path, workspace: Path) -> Answer:
        return headstart(source, workspace, env, ["--backbone", sizes.BACKBONE["name"]])

    return sizes.measure_sizes(data, folder, base, repeats, retrain, say)


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    libraries = ("onnxruntime", "tensorflow", "prefect")
    return {
        "cores": available_cores(),
        "processor": models[0] if models else platform.processor(),
        "python": platform.python_version(),
        **{library: version(library) for library in libraries},
    }


def markdown(measured: dict[str, Any]) -> str:
    tables = []
    if found := measured.get("retrain"):
        tables += [retrain_table(found), where_table(found["runs"])]
    if found := measured.get("extraction"):
        tables.append(extraction.markdown(found))
    if found := measured.get("sizes"):
        tables.append(sizes.markdown(found))
    on = measured["machine"]
    return "\n\n".join([f"On {on['cores']} cores of {on['processor']}, medians of {measured['repeats']}:", *tables])


def retrain_table(found: dict[str, Any]) -> str:
    base = found["tutorial"]
    title = f"the tutorial's loop, {base['epochs']} epochs"
    if base["epochs"] != TUTORIAL_EPOCHS:
        title += f" of {TUTORIAL_EPOCHS}: shortened, so nothing is compared with it"
    lines = [
        "| whole process | Prefect server | extractor | seconds | of a core | times faster | validation accuracy | "
        "peak memory | embedded | verdict |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        f"| {title} | | fp32 | {base['seconds']:.1f} | | | {base['validation_accuracy']:.3f} | "
        f"{base['peak_rss_mb'] / 1000:.1f} GB | | |",
    ]
    for row in found["runs"]:
        cells = [
            f"retrain, {row['step']}",
            row["server"],
            row["precision"],
            f"{row['seconds']:.1f}",
            f"{row['processor_s']:.1f}",
            "" if row["times_faster"] is None else f"{row['times_faster']:.1f}",
            f"{row['validation_accuracy']:.3f}",
            f"{row['peak_rss_mb'] / 1000:.1f} GB",
            ", ".join(map(str, row["embedded"])),
            ", ".join(row["verdicts"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def where_table(runs: list[dict[str, Any]]) -> str:
    """A row for each run, a column for each part of its seconds."""
    named = dict.fromkeys(part for row in runs for part in row["where_s"])
    last = ("between stages", "after the flow")
    parts = [*(part for part in named if part not in last), *last]
    lines = ["| seconds | " + " | ".join(parts) + " |", "| --- |" + " ---: |" * len(parts)]
    for row in runs:
        cells = [f"{row['where_s'][part]:.1f}" if part in row["where_s"] else "" for part in parts]
        lines.append(f"| {row['step']}, server {row['server']}, {row['precision']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _sections(text: str) -> list[str]:
    wanted = text.split(",")
    if unknown := set(wanted) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    return wanted


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photographs", type=Path, help="folder with train/ and validation/")
    parser.add_argument("--repeats", type=_count, default=3)
    parser.add_argument("--tutorial-epochs", type=_count, default=TUTORIAL_EPOCHS, help="fewer only for a trial")
    parser.add_argument("--only", type=_sections, default=SECTIONS, metavar=",".join(SECTIONS))
    parser.add_argument("--extraction-images", type=_count, default=1024)
    parser.add_argument("--sizes-images", type=_count, default=400, help="of the smallest set")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the README's tables there too")
    parser.add_argument("--folder", type=Path, help="where temporary files go (about 1 GB)")
    given = parser.parse_args(arguments)
    data = given.photographs.resolve()
    if missing := [name for name in ("train", "validation") if not (data / name).is_dir()]:
        parser.error(f"{data} has no folder {' and no folder '.join(missing)}")
    measured: dict[str, Any] = {"machine": machine(), "repeats": given.repeats}
    with tempfile.TemporaryDirectory(prefix="headstart-retrain-", dir=given.folder) as aside:
        folder = Path(aside)
        if "retrain" in given.only:
            measured["retrain"] = measure_retrain(data, folder, given.repeats, given.tutorial_epochs)
        if "extraction" in given.only:
            measured["extraction"] = measure_extraction(data, folder, given.repeats, given.extraction_images)
        if "sizes" in given.only:
            measured["sizes"] = measure_sizes(data, folder, given.repeats, given.sizes_images)
    if given.markdown:
        given.markdown.write_text(markdown(measured) + "\n", encoding="utf-8")
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
