"""The embedded feature extractor: a MobileNetV2 whose weights ship with the package, so that nothing has to be
downloaded.

It was distilled by `deploy.embedded_backbone.distill`; EMBEDDED_MODEL_CARD.md, beside this file, says from what, at
what cost, and what it is worth. Layer names are those of `keras.applications.MobileNetV2`, so a freeze
boundary such as `block_12_add` means the same here.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.errors import DamagedFileError

if TYPE_CHECKING:
    import keras

INPUT_SIZE_PX = 128
ALPHA = 1.0
WEIGHTS = Path(__file__).with_name("embedded_weights.npz")
DIGEST = WEIGHTS.with_suffix(".sha256")


def build(
    input_shape: tuple[int | None, int | None, int] = (INPUT_SIZE_PX, INPUT_SIZE_PX, 3), weights: bool = True
) -> "keras.Model":
    """The no-top network: float32 (N, H, W, 3) in [-1, 1] to the last feature map, (N, H/32, W/32, 1280).

    Pooling is the caller's. `weights=False` leaves Keras's random initialisation.

    Raises DamagedFileError if the weight file is not the one that its digest names.
    """
    net = mobilenet_v2(input_shape, ALPHA)
    if weights:
        load_weights(net, WEIGHTS, DIGEST.read_text().split()[0])
    return net


def mobilenet_v2(input_shape: tuple[int | None, int | None, int], alpha: float) -> "keras.Model":
    """The architecture alone, no top, at Keras's random initialisation."""
    import keras

    return keras.applications.MobileNetV2(
        input_shape=input_shape,
        alpha=alpha,
        include_top=False,
        weights=None,  # pyright: ignore[reportArgumentType]  # Keras documents None, and annotates str
    )


def save_weights(net: "keras.Model", path: Path) -> str:
    """Writes the weights to a NumPy archive and returns the file's SHA-256.

    Kernels of ordinary convolutions hold nearly all weights; they are stored as int8 with one scale an output
    channel (the rounding error is below 0.4 % of the channel's largest weight), all others as float16.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, values in _named_variables(net):
        kernel = values.numpy()
        if not np.isfinite(kernel).all():
            raise ValueError(f"{name} holds values that are not finite: training has diverged, nothing was written")
        if kernel.ndim == 4 and not _depthwise(name):
            scale = np.maximum(np.abs(kernel).max((0, 1, 2)), 1e-12).astype(np.float32) / 127
            arrays[name], arrays[f"{name}.scale"] = np.rint(kernel / scale).astype(np.int8), scale
        else:
            arrays[name] = kernel.astype(np.float16)
    np.savez_compressed(path, allow_pickle=False, **arrays)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_weights(net: "keras.Model", path: Path, digest: str) -> None:
    """Puts the weights of `path` into `net`, once its SHA-256 is `digest`."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise DamagedFileError(
            f"{path} is not the embedded trunk's weights: its SHA-256 is {found}, expected {digest}. "
            "The file was damaged or replaced: install the package again."
        )
    with np.load(path, allow_pickle=False) as saved:
        for name, variable in _named_variables(net):
            values = saved[name].astype(np.float32)
            if f"{name}.scale" in saved:
                values *= saved[f"{name}.scale"]
            variable.assign(values)


def _named_variables(net: "keras.Model") -> list[tuple[str, "keras.Variable"]]:
    return [(f"{layer.name}/{variable.name}", variable) for layer in net.layers for variable in layer.weights]


def _depthwise(name: str) -> bool:
    return "depthwise" in name
