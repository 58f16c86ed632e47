"""Any image network as the backbone: the features are what its own runtime gives, and what can't be used says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tasks.errors import ConfigError
from tasks.modality.images.augmentation import load_policy
from tasks.networks import onnx_file
from tasks.networks.extractor import extractor_of
from tasks.networks.onnx_backbone import build_file_extractor, read_network
from tasks.networks.onnx_description import Description, read_description
from tasks.networks.onnx_graph import preprocessing
from tasks.networks.onnx_inspection import inspect_network, probe_accuracy
from tasks.networks.onnx_layers import late_values
from tasks.networks.onnx_session import open_session
from tasks.networks.registry import AS_IT_IS
from tests import onnx_files, photos
from tests.runs import make_run

TRUNKS = Path(__file__).parents[3] / "shared/trunks"
LITE = pytest.mark.skipif(not TRUNKS.is_dir(), reason="the shared networks are not here")
PIXELS = np.asarray(photos.photo(seed=7))[None]


def features(file: Path, layers: Any, **described: Any) -> tuple[np.ndarray, dict[str, int]]:
    description = read_description(file).model_copy(update=described)
    graph, widths = build_file_extractor(file, description, layers)
    [found] = open_session(graph.SerializeToString()).run(["features"], {"image": PIXELS})
    return np.asarray(found), widths


def own(file: Path, names: list[str], description: Description) -> list[np.ndarray]:
    """Values of the network itself, on pixels that Pillow and NumPy made ready."""
    size = description.image_size_px
    resized = Image.fromarray(PIXELS[0]).resize((size, size), Image.Resampling.BICUBIC)
    pixels = (np.asarray(resized, np.float32) - np.array(description.mean, np.float32)) / np.array(
        description.std, np.float32
    )
    model = onnx.load(file)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "features")
    planes = pixels[None] if description.layout == "NHWC" else pixels.transpose(2, 0, 1)[None]
    session = open_session(model.SerializeToString())
    return [np.asarray(each) for each in session.run(names, {session.get_inputs()[0].name: planes})]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("opset", [13, 17, 18])
def test_features_are_the_output_and_the_means_of_late_blocks(tmp_path: Path, layout: str, opset: int):
    file = onnx_files.convolutions(tmp_path / "net.onnx", nhwc=layout == "NHWC", opset=opset)
    found, widths = features(file, 2, layout=layout)
    assert widths == {"features": 8, "gated2": 16, "gated1": 16}
    description = read_description(file).model_copy(update={"layout": layout})
    output, last, before = own(file, ["features", "gated2", "gated1"], description)
    expected = np.concatenate([output, last.mean((2, 3)), before.mean((2, 3))], axis=1)
    np.testing.assert_allclose(found, expected, atol=0.02 * expected.std())  # Pillow rounds resized pixels
    assert late_values(read_network(file), "features") == ["gated2", "gated1", "gated0"]


@pytest.mark.parametrize("tokens", ["class", "mean", "both"])
def test_tokens_are_pooled_as_described(tmp_path: Path, tokens: str):
    file = onnx_files.tokens(tmp_path / "tokens.onnx")
    found, widths = features(file, 5, tokens=tokens)
    output, before = own(file, ["features", "block1"], read_description(file))
    rows = [
        part
        for value in (output, before)
        for part in ([value[:, 0]] * (tokens != "mean") + [value.mean(1)] * (tokens != "class"))
    ]
    assert list(widths) == ["features", "block1"]
    np.testing.assert_allclose(found, np.concatenate(rows, axis=1), atol=0.2)


@pytest.mark.parametrize("written_out", [False, True])
def test_maps_with_channels_last_are_pooled_over_their_pixels(tmp_path: Path, written_out: bool):
    file = onnx_files.windows(tmp_path / "windows.onnx", written_out=written_out)
    found, widths = features(file, 5)
    assert widths == {"features": 6, "block2": 6, "block1": 6}
    output, last, before = own(file, ["features", "block2", "block1"], read_description(file))
    expected = np.concatenate([output, last.mean((1, 2)), before.mean((1, 2))], axis=1)
    np.testing.assert_allclose(found, expected, atol=0.02 * expected.std())


def test_of_each_block_the_last_sum_is_pooled_where_maps_become_tokens_in_between(tmp_path: Path):
    file = onnx_files.windows(tmp_path / "windows.onnx", flat=True)
    _, widths = features(file, 5, tokens="mean")
    assert widths == {"features": 6, "block2": 6, "block1": 6}


def test_inspection_proposes_the_mean_where_no_token_is_that_of_a_class(tmp_path: Path):
    proposed = []
    for file in (onnx_files.windows(tmp_path / "swin.onnx", flat=True), onnx_files.tokens(tmp_path / "vit.onnx")):
        file.with_suffix(".toml").unlink()
        file.with_suffix(".toml").write_text(inspect_network(file)["description"])
        proposed.append(read_description(file).tokens)
    assert proposed == ["mean", "both"]


def test_what_has_no_pixels_left_is_no_late_block_and_may_be_the_output(tmp_path: Path):
    file = onnx_files.excited(tmp_path / "excited.onnx")
    found, widths = features(file, 5)
    assert widths == {"features": 4, "block2": 4, "block1": 4}
    output, last, before = own(file, ["features", "block2", "block1"], read_description(file))
    expected = np.concatenate([output[:, :, 0, 0], last.mean((2, 3)), before.mean((2, 3))], axis=1)
    np.testing.assert_allclose(found, expected, atol=0.05 * expected.std())


def test_an_output_whose_channels_nothing_shows_needs_a_word_in_the_description(tmp_path: Path):
    file = onnx_files.windows(tmp_path / "windows.onnx")
    model = onnx.load(file)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("raw", TensorProto.FLOAT, ["N", 8, 8, 6]))
    model.graph.node.extend(helper.make_node("Reshape", ["seen3", "maps"], [name]) for name in ("raw", "inner"))
    onnx.save(model, file)
    with pytest.raises(
        ConfigError,
        match=r"windows\.onnx does not say which dimension of raw \[2, 8, 8, 6\] holds its channels: say so in "
        r"windows\.toml: output_layout",
    ):
        features(file, 2)
    with pytest.raises(ConfigError, match=r"dimension of inner .* channels: name another value"):
        features(file, ["inner"], output="block3")
    for layout, axes, width in (("NHWC", (1, 2), 6), ("NCHW", (2, 3), 8)):
        found, widths = features(file, 0, output_layout=layout)
        assert widths == {"raw": width}
        [raw] = own(file, ["raw"], read_description(file))
        np.testing.assert_allclose(found, raw.mean(axes), atol=0.05)
    file.with_suffix(".toml").unlink()
    assert 'output_layout = "NCHW"' in inspect_network(file)["description"]


def test_layers_can_be_named_and_a_wrong_name_names_the_nearest(tmp_path: Path):
    file = onnx_files.convolutions(tmp_path / "net.onnx")
    assert features(file, ["projected1"])[1] == {"features": 8, "projected1": 8}
    with pytest.raises(ConfigError, match=r"net\.onnx has no value 'projected9'; the nearest is 'projected"):
        features(file, ["projected9"])


@pytest.mark.parametrize(
    ("resize", "filter_"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
@pytest.mark.parametrize("side", [48, 200])
def test_the_resize_is_pillows_and_the_crop_its_middle(resize: str, filter_: Any, side: int):
    image = photos.photo(seed=3, size=(120, 90))
    graph = preprocessing(side, AS_IT_IS, resize, crop=0.8).SerializeToString()
    [found] = open_session(graph).run(None, {"image": np.asarray(image)[None]})
    whole, corner = round(side / 0.8), (round(side / 0.8) - side) // 2
    expected = np.asarray(image.resize((whole, whole), filter_), np.float32)[
        corner : corner + side, corner : corner + side
    ]
    difference = np.abs(np.clip(np.asarray(found)[0].transpose(1, 2, 0), 0, 255) - expected)
    assert difference.mean() < 0.5
    assert difference.max() < (
        1.1 if resize == "bilinear" else 12
    )  # Pillow cuts what goes beyond 255 between its passes


def test_what_cant_be_a_backbone_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = onnx_files.convolutions(tmp_path / "net.onnx")
    description = read_description(file)
    whole = onnx.load(file)

    def refused(why: str, content: bytes | None = None) -> None:
        path = tmp_path / "bad.onnx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=why) as mistake:
            build_file_extractor(path, description, 1)
        assert mistake.value.exit_status == 2

    refused("no ONNX file at")
    refused("no valid ONNX graph", b"not a graph")
    odd = onnx.ModelProto()
    odd.CopyFrom(whole)
    odd.graph.node.append(helper.make_node("Secret", ["features"], ["x"], domain="my.company"))
    odd.opset_import.append(helper.make_opsetid("my.company", 1))
    refused(r"my\.company\.Secret are no standard operators", odd.SerializeToString())
    two = onnx.ModelProto()
    two.CopyFrom(whole)
    two.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 3]))
    refused("one input, float32 .* found photo, mask", two.SerializeToString())
    onnx.save(
        onnx.load(file), tmp_path / "split.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    refused("in another file", (tmp_path / "split.onnx").read_bytes())
    fixed = onnx.ModelProto()
    fixed.CopyFrom(whole)
    fixed.graph.node[-1].CopyFrom(helper.make_node("Reshape", ["maps", "one_image"], ["features"]))
    fixed.graph.initializer.append(numpy_helper.from_array(np.array([1, 8], np.int64), "one_image"))
    refused(
        "does not run on two images of 32 pixels: export it with a dynamic first dimension", fixed.SerializeToString()
    )
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 100)
    refused("at most 0 are allowed", whole.SerializeToString())


def test_a_description_is_needed_and_checked(tmp_path: Path):
    file = onnx_files.convolutions(tmp_path / "net.onnx")
    toml = file.with_suffix(".toml")
    toml.write_text(onnx_files.DESCRIPTION + "colour = 'RGB'\n")
    with pytest.raises(ConfigError, match=r"net\.toml: colour: .*its keys are image_size_px, layout"):
        read_description(file)
    toml.write_text("= 3")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_description(file)
    toml.unlink()
    with pytest.raises(ConfigError, match=r"headstart backbone inspect .*net\.onnx` proposes one"):
        read_description(file)


def test_the_key_is_that_of_file_and_description(tmp_path: Path):
    file = onnx_files.convolutions(tmp_path / "net.onnx")

    def key(**backbone: Any) -> str:
        run = make_run(tmp_path, tmp_path, config={"backbone": {"name": str(file), **backbone}})
        return extractor_of(run, load_policy("flip", 0)).key

    first = key()
    with file.with_suffix(".toml").open("a") as toml:
        toml.write('licence = "MIT"\n')
    assert key() == first
    with file.with_suffix(".toml").open("a") as toml:
        toml.write('resize = "bilinear"\n')
    assert key() != first
    assert key(features=1) != key()
    with pytest.raises(ConfigError, match=r"backbone\.boundary is for Keras's networks"):
        key(boundary="block_12_add")
    with pytest.raises(ConfigError, match="takes images of 32 pixels"):
        key(image_size_px=64)


def test_inspection_proposes_a_description_that_works_and_warns_of_a_worse_one(tmp_path: Path):
    file = onnx_files.convolutions(tmp_path / "net.onnx", nhwc=True)
    file.with_suffix(".toml").unlink()
    folder = Path(photos.class_folders(tmp_path / "photos", {"red": 12, "green": 12}))
    found = inspect_network(file, folder)
    assert found["layers"][0] == {"name": "gated2", "width": 16}
    assert len(found["probe"]) == 4
    file.with_suffix(".toml").write_text(found["description"])
    proposed = read_description(file)
    assert (proposed.layout, proposed.image_size_px) == ("NHWC", 32)
    assert inspect_network(file)["description"] == found["description"]


def test_the_probe_is_the_accuracy_on_images_that_it_did_not_see():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 200)
    noise = rng.normal(size=(200, 50)).astype(np.float32)
    assert probe_accuracy(noise + 5 * np.eye(3, 50, dtype=np.float32)[targets], targets) > 0.8
    assert probe_accuracy(noise, targets) < 0.5


@LITE
@pytest.mark.parametrize(
    ("name", "size", "widths"), [("lite0_224", 224, [1280, 1152]), ("lite2_260", 260, [1280, 1248])]
)
def test_real_networks_give_their_own_features(name: str, size: int, widths: list[int]):
    file = TRUNKS / f"efficientnet_{name}.onnx"
    description = Description(image_size_px=size, mean=(127, 127, 127), std=(128, 128, 128))
    graph, found = build_file_extractor(file, description, 5)
    assert list(found.values())[:2] == widths
    [rows] = open_session(graph.SerializeToString()).run(["features"], {"image": PIXELS})
    [expected] = own(file, ["features"], description)
    assert np.abs(np.asarray(rows)[:, :1280] - expected).mean() < 0.05 * expected.std()
