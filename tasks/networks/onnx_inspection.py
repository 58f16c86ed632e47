"""`headstart backbone inspect`: proposes the description of a network from its graph and, given photographs, from what
a linear classifier can do with its features under each of the ordinary normalisations.

A wrong normalisation is no error, but may cost half of the accuracy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tasks.errors import ConfigError
from tasks.modality.images.content import decode
from tasks.networks.onnx_backbone import build_file_extractor, image_input, lacks_class_token, read_network
from tasks.networks.onnx_description import (
    Description,
    TextDescription,
    description_path,
    read_description,
    read_text_description,
)
from tasks.networks.onnx_file import read_graph
from tasks.networks.onnx_layout import Layout
from tasks.networks.onnx_session import open_session
from tasks.networks.text_backbone import COMPANY, IDS, build_text_extractor, depends_on_company, read_tokenizer

DEFAULT_SIZE_PX = 224
LAYERS = 8  # late blocks that are shown
PROBE_IMAGES, MAX_PIXELS = 400, 10**8
RIDGE = 0.1  # as a share of the mean of the kernel's diagonal
CLEARLY_BETTER = 0.03
ORDINARY = {
    "the mean and deviation of ImageNet (torchvision, timm)": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "-1..1 (TensorFlow, SigLIP)": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "0..1": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "0..255": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def inspect_network(file: Path, photos: Path | None = None) -> dict[str, Any]:
    """What a network takes and gives, its late blocks, and a description, as `headstart backbone inspect --json` prints
    it.

    Args:
        photos: a folder with a subfolder a class, on which normalisations are compared.

    Raises:
        ConfigError: the file can't be a backbone, or there are too few photographs.
    """
    graph = read_graph(file)
    if IDS in {value.name for value in graph.graph.input}:
        return _inspect_encoder(file, graph)
    network = read_network(file)
    given = read_description(file) if description_path(file).is_file() else None
    proposed = given or _proposal(network, file)
    _, widths = build_file_extractor(file, proposed, LAYERS)
    probe = _probe(file, proposed, photos) if photos else []
    warnings = _warnings(probe, given is not None)
    if probe and given is None:
        best = max(probe, key=lambda row: row["accuracy"])
        mean, std = ORDINARY[best["normalisation"]]
        proposed = proposed.model_copy(update={"mean": mean, "std": std})
    return {
        "file": str(file),
        "size_mb": round(file.stat().st_size / 1e6, 3),
        "input": _shape(image_input(network, file)),
        "outputs": [f"{output.name} {_shape(output)}" for output in network.graph.output],
        "layers": [{"name": name, "width": width} for name, width in list(widths.items())[1:]],
        "probe": probe,
        "description": _toml(proposed),
        "warnings": warnings,
    }


def _inspect_encoder(file: Path, encoder: onnx.ModelProto) -> dict[str, Any]:
    """The same of an encoder of texts, whose tokenizer.json has to lie beside it."""
    description = read_text_description(file)
    graph, widths = build_text_extractor(file, description, LAYERS)
    read_tokenizer(file, description)
    return {
        "file": str(file),
        "size_mb": round(file.stat().st_size / 1e6, 3),
        "input": ", ".join(value.name for value in encoder.graph.input),
        "outputs": [f"{output.name} {_shape(output)}" for output in encoder.graph.output],
        "layers": [{"name": name, "width": width} for name, width in list(widths.items())[1:]],
        "probe": [],
        "description": _toml(description),
        "warnings": [f"it {COMPANY}"] if depends_on_company(graph) else [],
    }


def _proposal(network: onnx.ModelProto, file: Path) -> Description:
    """A description by the shape of the input, with ImageNet's normalisation, the most frequent one. Where nothing
    shows an output's layout, that of the input is the most likely."""
    dims = [each.dim_value for each in image_input(network, file).type.tensor_type.shape.dim]
    layout = "NHWC" if dims[3] == 3 else "NCHW"
    side = (dims[1] if layout == "NHWC" else dims[2]) or DEFAULT_SIZE_PX
    mean, std = next(iter(ORDINARY.values()))
    output = network.graph.output[0]
    is_map = len(output.type.tensor_type.shape.dim) == 4
    unknown = is_map and Layout(network.graph).channels(output.name) is None
    shown = Description(image_size_px=side, layout=layout, mean=mean, std=std, output_layout=layout if unknown else "")
    return shown.model_copy(update={"tokens": "mean"}) if lacks_class_token(file, shown) else shown


def _probe(file: Path, proposed: Description, photos: Path) -> list[dict[str, Any]]:
    """The accuracy under each normalisation: of what is described first, then of the ordinary ones."""
    images, targets = _sample(photos)
    own = {"what the description says": (proposed.mean, proposed.std)} if description_path(file).is_file() else {}
    rows = []
    for name, (mean, std) in {**own, **ORDINARY}.items():
        described = proposed.model_copy(update={"mean": mean, "std": std})
        graph, _ = build_file_extractor(file, described, 0)
        session = open_session(graph.SerializeToString())
        features = [np.asarray(session.run(["features"], {"image": image[None]})[0])[0] for image in images]
        rows.append({"normalisation": name, "accuracy": round(probe_accuracy(np.stack(features), targets), 4)})
    return rows


def _sample(photos: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """At most PROBE_IMAGES images, in the order of their paths' digests, and their classes. Raises ConfigError."""
    files = [path for path in photos.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")]
    files = sorted(files, key=lambda path: hashlib.sha256(str(path.relative_to(photos)).encode()).digest())
    files = files[:PROBE_IMAGES]
    classes = sorted({path.parent.name for path in files})
    if len(classes) < 2 or len(files) < 4:
        raise ConfigError(f"{photos} needs a subfolder of images for each of two classes or more")
    targets = np.array([classes.index(path.parent.name) for path in files])
    return [decode(path.read_bytes(), MAX_PIXELS) for path in files], targets


def probe_accuracy(features: np.ndarray, targets: np.ndarray) -> float:
    """Accuracy of a ridge regression on the half of the images that it was not fitted on, each half in turn.

    Args:
        features: float32 [N, D].
        targets: int [N].
    """
    rooted = np.sign(features) * np.sqrt(np.abs(features))
    rooted = np.nan_to_num(rooted - rooted.mean(axis=0))
    kernel, wanted = rooted @ rooted.T, np.eye(targets.max() + 1)[targets]
    right = np.zeros(len(targets), bool)
    for held in (np.arange(len(targets)) % 2 == 0, np.arange(len(targets)) % 2 == 1):
        seen = kernel[np.ix_(~held, ~held)]
        penalty = RIDGE * seen.trace() / len(seen) + 1e-12
        weights = np.linalg.solve(seen + penalty * np.eye(len(seen)), wanted[~held])
        right[held] = (kernel[np.ix_(held, ~held)] @ weights).argmax(axis=1) == targets[held]
    return float(right.mean())


def _warnings(probe: list[dict[str, Any]], described: bool) -> list[str]:
    if not described or not probe:
        return []
    own, best = probe[0], max(probe, key=lambda row: row["accuracy"])
    if best["accuracy"] < own["accuracy"] + CLEARLY_BETTER:
        return []
    return [
        f"with {best['normalisation']} the accuracy is {best['accuracy']:.3f}, with what the description says "
        f"{own['accuracy']:.3f}: check mean and std"
    ]


def _shape(value: onnx.ValueInfoProto) -> str:
    return f"[{', '.join(str(each.dim_value or each.dim_param) for each in value.type.tensor_type.shape.dim)}]"


def _toml(description: Description | TextDescription) -> str:
    """The description as TOML, each key with its meaning."""
    lines = []
    for key, field in type(description).model_fields.items():
        value = getattr(description, key)
        text = f'"{value}"' if isinstance(value, str) else str(list(value)) if isinstance(value, tuple) else str(value)
        lines.append(f"{key} = {text}  # {' '.join((field.description or '').split())}")
    return "\n".join(lines)
