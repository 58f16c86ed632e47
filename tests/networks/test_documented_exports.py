"""docs/training.md's exports of networks from other libraries, with random weights, where those libraries are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.networks.onnx_backbone import build_file_extractor
from tasks.networks.onnx_description import Description
from tasks.networks.onnx_session import open_session

PAGE = Path(__file__).parents[2] / "docs/training.md"
SMALL_SIGLIP = """transformers.SiglipModel(
    transformers.SiglipConfig(
        text_config={"num_hidden_layers": 1, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1},
        vision_config={"num_hidden_layers": 3},
    )
)"""
DESCRIBED = Description(image_size_px=224, mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5), tokens="mean")


def documented(library: str) -> str:
    [code] = re.findall(
        rf"^```python\n# {library}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return code


@pytest.mark.parametrize(
    ("library", "file", "pretrained", "late"),
    [
        (
            "timm",
            "dinov2.onnx",
            {"pretrained=True": "pretrained=False"},
            {"/blocks/blocks.10/Add_1_output_0": 384, "/blocks/blocks.9/Add_1_output_0": 384},
        ),
        (
            "torchvision",
            "b0.onnx",
            {"weights=weights": "weights=None"},
            {
                f"/features/features.{name}/block/block.1/block.1.2/Mul_output_0": 1152
                for name in ("7/features.7.0", "6/features.6.3")
            },
        ),
        (
            "Transformers",
            "siglip.onnx",
            {
                'transformers.AutoModel.from_pretrained("google/siglip-base-patch16-224")': SMALL_SIGLIP,
                'print(transformers.AutoImageProcessor.from_pretrained("google/siglip-base-patch16-224"))': "",
            },
            {"/encoder/layers.1/Add_1_output_0": 768, "/encoder/layers.0/Add_1_output_0": 768},
        ),
    ],
)
def test_a_documented_export_gives_the_features_that_its_network_gives(
    library: str, file: str, pretrained: dict[str, str], late: dict[str, int], tmp_path: Path, monkeypatch: Any
):
    torch = pytest.importorskip("torch", reason="PyTorch is not among headstart's packages")
    pytest.importorskip(library.lower(), reason=f"{library} is not among headstart's packages")
    code = documented(library)
    for given, random in pretrained.items():
        assert given in code
        code = code.replace(given, random)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)

    graph, widths = build_file_extractor(Path(file), DESCRIBED, 2)
    images = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    [found] = open_session(graph.SerializeToString()).run(["features"], {"image": images})
    pixels = torch.from_numpy((images.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32))
    with torch.no_grad():
        given = names["network"](pixels)
    expected = given[0].mean(dim=1) if isinstance(given, tuple) else given  # of all tokens
    assert dict(list(widths.items())[1:]) == late
    np.testing.assert_allclose(np.asarray(found)[:, : expected.shape[1]], expected.numpy(), atol=1e-4)
