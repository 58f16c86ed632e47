"""Whether everything that answers for a published model gives every photograph the same label.

    uv run python -m tests.benchmarks.agreement MODEL_DIR PHOTOS [--onnxruntime 1.20.0 --onnxruntime 1.22.0]

MODEL_DIR is a version's folder in its workspace (Keras's head lies in the run beside it; an 8-bit feature extractor has
no Keras form, and Keras is not asked), PHOTOS a folder of images. Asked are Keras, with Pillow's resize in place of the
graph's; what `headstart predict` calls; `headstart serve` by the Open Inference Protocol and by `POST /classify`;
OpenVINO; and, from the package index by `uv run --with`, each other ONNX Runtime that is named. Prints JSON; ends with
status 1 where two of them disagree about any photograph.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.http as triton
from PIL import Image

from deploy.serving.limits import Limits
from flows.cli.prediction import predict_images
from tasks.config import Config
from tasks.evaluate.fresh_process import RUNNER, arrays
from tasks.modality.images.augmentation import policy_of
from tasks.modality.images.content import decode
from tasks.networks.classifier import Classifier
from tasks.networks.extractor import build_extractor, extractor_of
from tasks.networks.head_file import load_head
from tasks.networks.registry import get_backbone
from tasks.records import Run
from tasks.workspace import Workspace
from tests.deploy.serving.running import running

BATCH = 32
PARTS = 100  # images on one command line


def by_keras(model_dir: Path, manifest: dict[str, Any], images: list[np.ndarray]) -> list[str]:
    """Pillow resizes, Keras does the rest: nothing of the exported graph takes part."""
    import keras  # noqa: F401 - before TensorFlow, as everywhere: see tasks/networks/keras_process.py

    config = Config.model_validate(manifest["lineage"]["config"])
    run = Run(
        run_id=manifest["run_id"],
        name=manifest["name"],
        source="",
        workspace=Workspace(str(model_dir.parents[2])),
        config=config,
        started_at="",
    )
    extractor = extractor_of(run, policy_of(config))
    network, head = build_extractor(extractor), load_head(run.workspace, run.path("candidate/head.keras"))
    normalisation = get_backbone(extractor.backbone).normalisation
    labels = []
    for start in range(0, len(images), BATCH):
        squares = np.stack([bilinear(pixels, extractor.image_size_px) for pixels in images[start : start + BATCH]])
        squares = squares[..., ::-1] if normalisation.reverse_channels else squares
        planes = (squares * normalisation.scale + normalisation.bias).astype(np.float32)
        logits = np.asarray(head(network(planes, training=False), training=False))
        labels += [manifest["labels"][index] for index in logits.argmax(axis=1)]
    return labels


def bilinear(pixels: np.ndarray, side: int) -> np.ndarray:
    """Float32 [S, S, 3] of uint8 [H, W, 3], by Pillow, which in floats does not round between its two passes."""
    channels = [Image.fromarray(pixels[..., channel].astype(np.float32)) for channel in range(3)]
    return np.stack([np.asarray(each.resize((side, side), Image.Resampling.BILINEAR)) for each in channels], axis=-1)


def by_openvino(model_file: Path, labels: list[str], images: list[np.ndarray]) -> list[str]:
    import openvino

    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # not bfloat16, which it prefers where the processor has it
    compiled = core.compile_model(core.read_model(model_file), "CPU", exact)
    return [labels[int(compiled(pixels[None])["probabilities"].argmax())] for pixels in images]


def by_protocol(url: str, name: str, images: list[np.ndarray]) -> list[str]:
    client = triton.InferenceServerClient(url.removeprefix("http://"), network_timeout=600)

    def ask(pixels: np.ndarray) -> str:
        tensor = triton.InferInput("image", [1, *pixels.shape], "UINT8")
        tensor.set_data_from_numpy(pixels[None])
        answer = client.infer(name, [tensor]).as_numpy("label")
        assert answer is not None
        return answer[0].decode()

    return [ask(pixels) for pixels in images]


def by_classify(url: str, files: list[Path]) -> list[str]:
    with httpx.Client(base_url=url, timeout=600) as client:
        return [client.post("/classify", content=file.read_bytes()).json()["label"] for file in files]


def by_onnxruntime(version: str, model_file: Path, images: list[np.ndarray]) -> list[str]:
    """Another ONNX Runtime, in an environment that holds it and numpy alone."""
    command = ["uv", "run", "--isolated", "--no-project", "--with", f"onnxruntime=={version}", "python", "-I", RUNNER]
    labels, model = [], model_file.read_bytes()
    for start in range(0, len(images), PARTS):
        given = arrays(model, [{"image": image[None]} for image in images[start : start + PARTS]])
        labels += json.loads(subprocess.run(command, input=given, capture_output=True, check=True).stdout)["labels"]
    return labels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=lambda path: Path(path).resolve())
    parser.add_argument("photos", type=Path)
    parser.add_argument("--onnxruntime", action="append", default=[], metavar="VERSION")
    options = parser.parse_args()
    model_dir, model_file = options.model_dir, options.model_dir / "model.onnx"
    manifest = json.loads((model_dir / "manifest.json").read_text())
    files = sorted(file for file in options.photos.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    images = [decode(file.read_bytes()) for file in files]
    patient = Limits(timeout_s=600)  # the machine may be busy: what is asked here is what, not how soon
    with running(model_dir.parents[2], name=manifest["name"], limits=patient) as url:
        asked: dict[str, Callable[[], list[str]]] = {
            "predict": lambda: [row["label"] for row in predict_images(Classifier(model_file), files)[0]],
            "keras": lambda: by_keras(model_dir, manifest, images),
            "serve, v2": lambda: by_protocol(url, manifest["name"], images),
            "serve, /classify": lambda: by_classify(url, files),
            "openvino": lambda: by_openvino(model_file, manifest["labels"], images),
        }
        if manifest["lineage"]["precision"] == "int8":
            del asked["keras"]
        for version in options.onnxruntime:
            asked[f"onnxruntime {version}"] = lambda version=version: by_onnxruntime(version, model_file, images)
        answers = {who: np.array(ask()) for who, ask in asked.items()}
    first = answers["predict"]
    agreement = {who: float((labels == first).mean()) for who, labels in answers.items()}
    print(json.dumps({"photographs": len(files), "agreement_with_predict": agreement}, indent=2))
    return 0 if set(agreement.values()) == {1.0} else 1


if __name__ == "__main__":
    sys.exit(main())
