"""The shipped feature extractor: small, whole, refused when its bytes are others, and better than random features."""

import subprocess
import sys

import numpy as np
import pytest

from tasks.errors import DamagedFileError
from tasks.networks import embedded


@pytest.fixture(scope="module")
def extractor():
    return embedded.build()


def test_output_is_the_last_feature_map(extractor):
    size = embedded.INPUT_SIZE_PX
    maps = extractor.predict_on_batch(np.zeros((2, size, size, 3), np.float32))
    assert maps.shape == (2, size // 32, size // 32, 1280)
    assert np.isfinite(maps).all()


def test_layer_names_are_those_of_keras_mobilenet_v2(extractor):
    assert [layer.name for layer in extractor.layers[1:]] == [
        layer.name for layer in embedded.mobilenet_v2(extractor.input_shape[1:], embedded.ALPHA).layers[1:]
    ]
    assert extractor.get_layer("block_12_add").output.shape[1:3] == (8, 8)


def test_without_weights_it_is_another_network(extractor):
    random = embedded.build(weights=False)
    kernel = "block_12_project"
    assert not np.allclose(random.get_layer(kernel).get_weights()[0], extractor.get_layer(kernel).get_weights()[0])


def test_files_are_small_enough_for_the_repository():
    assert embedded.WEIGHTS.stat().st_size <= 3_000_000


def test_model_card_names_the_digest():
    card = embedded.WEIGHTS.with_name("EMBEDDED_MODEL_CARD.md").read_text()
    assert embedded.DIGEST.read_text().split()[0] in card


def test_changed_weights_are_refused(extractor, tmp_path):
    damaged = tmp_path / "embedded_weights.npz"
    content = bytearray(embedded.WEIGHTS.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DamagedFileError, match="damaged or replaced"):
        embedded.load_weights(extractor, damaged, embedded.DIGEST.read_text().split()[0])


def test_saved_weights_come_back_within_the_rounding(tmp_path):
    net = embedded.mobilenet_v2((64, 64, 3), alpha=0.35)
    digest = embedded.save_weights(net, tmp_path / "weights.npz")
    other = embedded.mobilenet_v2((64, 64, 3), alpha=0.35)
    embedded.load_weights(other, tmp_path / "weights.npz", digest)
    for one, two in zip(net.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=0.005 * np.abs(one).max())


def test_importing_it_does_not_import_tensorflow():
    code = "import sys, tasks.networks.embedded; sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
