"""The list of freeze boundaries is Keras's own, and a wrong one is found by it without TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tasks.config import POOLED
from tasks.errors import ConfigError
from tasks.networks import embedded
from tasks.networks.boundaries import FILE, check_boundary, known_boundaries
from tasks.networks.registry import BACKBONES, EMBEDDED, get_backbone

SMALL_PX = 96


def boundaries_of(name: str) -> list[str]:
    """A backbone's boundaries that have one name at two image sizes, and whatever else was built in the process."""
    import keras

    from tasks.networks.layers import boundaries
    from tasks.networks.registry import build_network

    backbone = get_backbone(name)
    weights = embedded.WEIGHTS if name == EMBEDDED else None
    # The second build has other numbers in the names that Keras gives by itself.
    large, small = (boundaries(build_network(backbone, weights, px)) for px in (backbone.image_size_px, SMALL_PX))
    keras.backend.clear_session()
    return [layer for layer in large if layer in small]


def regenerate() -> None:
    """Run `uv run python -c "from tests.networks.test_boundaries import regenerate; regenerate()"`."""
    lines = [f"  {json.dumps(name)}: {json.dumps(boundaries_of(name))}" for name in BACKBONES]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    [name if name in (EMBEDDED, "mobilenet_v2") else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES],
)
def test_the_list_is_what_keras_builds(name: str):
    """Where Keras has changed a network, see `regenerate`."""
    assert list(known_boundaries(name)) == boundaries_of(name)


def test_every_backbone_is_listed_with_the_boundary_that_auto_tries():
    assert tuple(json.loads(FILE.read_text())) == tuple(BACKBONES)
    for name in BACKBONES:
        check_boundary(name, get_backbone(name).boundary or POOLED)


@pytest.mark.parametrize(
    ("backbone", "boundary", "says"),
    [
        ("mobilenet_v2", "block_12_ad", "mobilenet_v2 can't be cut at 'block_12_ad'.*: block_12_add, .*Use avg_pool"),
        ("mobilenet_v2", "block_12_expand", "can't be cut at 'block_12_expand'.*block_13_expand"),
        ("mobilenet_v2", "out_relu", "or block_12_add to train the top blocks"),  # the output, whatever is pooled
        ("inception_v3", "activation_3", "nearest of its 10 boundaries: mixed"),  # Keras numbers it by the process
        ("convnext_tiny", "nonsense", "Use avg_pool to train the classifier alone$"),
        ("embedded", "", "can't be cut at ''"),
        ("mobilenet", "conv4_block6_out", "mobilenet can't be cut at"),  # another one's
    ],
)
def test_a_wrong_boundary_names_the_nearest(backbone: str, boundary: str, says: str):
    with pytest.raises(ConfigError, match=says):
        check_boundary(backbone, boundary)


def test_the_check_imports_no_tensorflow():
    probe = (
        "import sys; from tasks.networks.boundaries import check_boundary; check_boundary('resnet50', 'conv1_relu');"
        "print(sorted({'keras', 'tensorflow', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
