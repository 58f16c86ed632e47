"""Extraction alone: the flow's own pass beside the most that its graph and its decoder give on the same cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort

from tasks.config import parse_config
from tasks.extract.engine import Engine, Task, choose_engine
from tasks.extract.export import ensure_exported
from tasks.extract.plan import cut, embed_shard, missing_tasks
from tasks.extract.quantise import quantised
from tasks.ingest.catalogue import build_catalogue
from tasks.modality.images.augmentation import Policy, policy_of
from tasks.modality.images.content import decode
from tasks.modality.items import read_bytes
from tasks.networks.extractor import extractor_of
from tasks.networks.onnx_session import available_cores, open_session
from tasks.records import FeatureExtractor, Run
from tasks.runs import new_run
from tasks.split.assign import make_snapshot

BATCHES_IMAGES = (4, 16, 64)
IN_MEMORY = 256  # decoded images; 150 MB at 400 x 533 pixels
TARGETS = {"fp32": 0.90, "int8": 0.85}


@dataclass(frozen=True)
class Job:
    """All that the pass needs, made by the stages before it."""

    run: Run
    extractor: FeatureExtractor
    policy: Policy
    engine: Engine
    tasks: list[Task]

    def embed(self) -> float:
        """Embeds every image as the flow does, shard by shard into the store. Returns seconds."""
        started = time.perf_counter()
        for shard in cut(self.tasks, self.run.config.extract.shard_images):
            embed_shard(self.run, self.extractor, self.policy, self.engine, shard)
        return time.perf_counter() - started


@dataclass(frozen=True)
class Extraction:
    """Images a second, medians, on all cores; `graph` by how the images were given to ONNX Runtime."""

    precision: str
    images: int
    flow: float
    graph: dict[str, float]
    decode: float

    def rates(self) -> dict[str, Any]:
        """The figures, with the ceilings that follow from them and the flow's share of each."""
        graph = max(self.graph.values())
        both = 1 / (1 / graph + 1 / self.decode)  # decoder and graph share the cores: their times an image add up
        ceiling = graph if self.precision == "fp32" else min(graph, self.decode)
        return {
            **asdict(self),
            "ceiling": ceiling,
            "flow_over_ceiling": round(self.flow / ceiling, 3),
            "target": TARGETS[self.precision],
            "decode_and_graph": round(both, 1),
            "flow_over_decode_and_graph": round(self.flow / both, 3),
        }


def prepare(source: Path, workspace: Path, backbone: dict[str, str], images: int | None = None) -> Job:
    """Catalogue, snapshot and feature extractor of a source, and at most `images` of its images to embed."""
    run = new_run(str(source), "extraction", str(workspace), parse_config({"backbone": backbone}))
    snapshot = make_snapshot(run, build_catalogue(run))
    policy = policy_of(run.config)
    extractor = ensure_exported(run, extractor_of(run, policy))
    if run.config.backbone.precision == "int8":
        extractor = quantised(run, extractor, snapshot)
    tasks = missing_tasks(run, snapshot, extractor, policy)[:images]
    return Job(run, extractor, policy, choose_engine(run, extractor), tasks)


def measure_extraction(source: Path, workspace: Path, backbone: dict[str, str], images: int, repeats: int) -> dict:
    """The flow's pass, the graph's and the decoder's, in turn, so that a slower minute hits all."""
    job = prepare(source, workspace, backbone, images)
    passes = {"flow": job.embed, **graph_passes(job), "decode": lambda: decode_pass(job.tasks)}
    done = dict.fromkeys(passes, IN_MEMORY) | {"flow": len(job.tasks), "decode": len(job.tasks)}
    for timed in passes.values():
        timed()  # unmeasured: first runs allocate
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(repeats):
        for name, timed in passes.items():
            seconds[name].append(timed())
    rates = {name: round(done[name] / median(each), 1) for name, each in seconds.items()}
    flow, decoded = rates.pop("flow"), rates.pop("decode")
    return Extraction(backbone["precision"], len(job.tasks), flow, rates, decoded).rates()


def graph_passes(job: Job) -> dict[str, Callable[[], float]]:
    """Passes over IN_MEMORY decoded images, by name: one image a thread, and batches that all cores share.

    A batch holds images of one size, so batches are made of the images of the commonest size.
    """
    file, cores = job.run.workspace.local_file(job.extractor.onnx_path), available_cores()
    decoded = [decode(read_bytes(task.uri)) for task in job.tasks[:IN_MEMORY]]
    shapes = [image.shape for image in decoded]
    alike = [image for image in decoded if image.shape == max(set(shapes), key=shapes.count)]
    alone, shared = open_session(file), _shared_session(file, cores)
    passes = {"one image a thread": _pass(alone, [image[None] for image in _cycled(decoded)], cores)}
    for size in BATCHES_IMAGES:
        every = _cycled(alike)
        batches = [np.stack(every[start : start + size]) for start in range(0, IN_MEMORY, size)]
        passes[f"batches of {size}"] = _pass(shared, batches, threads=1)
    return passes


def _cycled(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [images[place % len(images)] for place in range(IN_MEMORY)]


def _shared_session(file: str | bytes, cores: int) -> ort.InferenceSession:
    """A session that computes each call on all cores, unlike the flow's own."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = cores
    options.log_severity_level = 3
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _pass(session: ort.InferenceSession, batches: Iterable[np.ndarray], threads: int) -> Callable[[], float]:
    return lambda: _on_threads(lambda batch: session.run(["features"], {"image": batch}), batches, threads)


def decode_pass(tasks: Sequence[Task]) -> float:
    """Reads and decodes the same files on as many threads as there are cores. Returns seconds."""
    return _on_threads(lambda task: decode(read_bytes(task.uri)).shape, tasks, available_cores())


def _on_threads(work: Callable[[Any], object], items: Iterable[Any], threads: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass
    return time.perf_counter() - started


def markdown(measured: list[dict[str, Any]]) -> str:
    lines = [
        "| images/s | the flow | graph alone | decoder alone | both on the same cores | flow over ceiling | target |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in measured:
        cells = [row["flow"], max(row["graph"].values()), row["decode"], row["decode_and_graph"]]
        ratios = [f"{row['flow_over_ceiling']:.2f}", f"{row['target']:.2f}"]
        lines.append(f"| {row['precision']} | " + " | ".join([*(f"{cell:.0f}" for cell in cells), *ratios]) + " |")
    return "\n".join(lines)
