"""The clients that README.md and the model card give: run as they stand there, beside `predict`, on odd files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from flows.cli.prediction import predict_images, predict_texts
from tasks.networks.classifier import Classifier
from tests.deploy.serving.models import colour_model
from tests.texts import publish_moods

ROOT = Path(__file__).parents[1]
MODEL_CARD = ROOT / "tasks/report/templates/model_card.md.j2"
CLIENTS = {"readme": ROOT / "README.md", "model-card": MODEL_CARD}
TEXT_CLIENTS = {"docs": ROOT / "docs/texts.md", "model-card": MODEL_CARD}
# Runs a client in an interpreter that has the standard library, Pillow, NumPy, ONNX Runtime, tokenizers and headstart's
# own files.
ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        known = {*sys.stdlib_module_names, "PIL", "numpy", "onnxruntime", "tokenizers", "tasks"}
        if top not in known and not top.startswith("_"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())
import json
for file in json.loads(sys.argv[2]):
    scope = {}
    exec(sys.argv[1].replace("FILE", repr(file)), scope)
    print(json.dumps([scope["label"][0], float(scope["probabilities"].max())]))
"""


def corner_model() -> bytes:
    """Names an image after its upper left pixel, so that each way up has its own answer."""
    model = onnx.load_model_from_string(colour_model(sharpness=0.05))
    model.graph.node[0].input[0] = "corner"
    model.graph.node.insert(0, helper.make_node("Slice", ["image", "from", "to", "axes"], ["corner"]))
    for name, values in (("from", [0, 0]), ("to", [1, 1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return model.SerializeToString()


def odd_files(folder: Path) -> list[Path]:
    """Photographs in every orientation, 16-bit scans, transparency, palettes, CMYK, grey."""
    pixels = np.full((24, 32, 3), (200, 20, 20), np.uint8)
    pixels[:12, 16:], pixels[12:, :16], pixels[12:, 16:] = (20, 200, 20), (20, 20, 200), (90, 20, 160)
    picture = Image.fromarray(pixels)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        picture.save(folder / f"{orientation}.jpg", exif=exif, quality=95)
        picture.save(folder / f"{orientation}.png", exif=exif)
    Image.fromarray(np.full((9, 9), 20_000, np.uint16)).save(folder / "scan.png")
    Image.fromarray(np.full((9, 9), 20_000, np.uint16)).save(folder / "scan.tif")
    overlay = picture.convert("RGBA")
    overlay.putalpha(40)
    overlay.save(folder / "transparent.png")
    picture.convert("P").save(folder / "palette.gif", transparency=0)
    picture.convert("CMYK").save(folder / "press.jpg")
    picture.convert("LA").save(folder / "grey.png")
    return sorted(folder.iterdir())


def clients(file: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", file.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("client", CLIENTS)
def test_it_agrees_with_predict_and_needs_nothing_else(client: str, tmp_path: Path):
    [code] = [code for code in clients(CLIENTS[client]) if ".jpg" in code]
    model = tmp_path / "model.onnx"
    model.write_bytes(corner_model())
    (tmp_path / "photos").mkdir()
    files = odd_files(tmp_path / "photos")
    code, models = re.subn(r'"[^"]*model\.onnx"', repr(str(model)), code)
    code, photos = re.subn(r'"[^"]*\.jpg"', "FILE", code)
    assert (models, photos) == (1, 1)
    command = [sys.executable, "-c", ALONE, code, json.dumps([str(file) for file in files])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    expected = [[row["label"], row["probability"]] for row in predict_images(Classifier(model), files)[0]]
    assert answers == expected
    assert {label for label, _ in answers} == {"red", "green", "blue"}  # the files do differ


@pytest.mark.parametrize("client", TEXT_CLIENTS)
def test_that_of_texts_agrees_with_predict_on_long_ones_too(client: str, tmp_path: Path):
    model = publish_moods(tmp_path) / "model.onnx"
    [code] = [code for code in clients(TEXT_CLIENTS[client]) if "Tokenizer" in code]
    for name in ("model.onnx", "tokenizer.json"):
        code, files = re.subn(rf'"[^"]*{name}"', repr(str(model.with_name(name))), code)
        assert files == 1
    code, texts = re.subn(r'encode\("[^"]*"\)', "encode(FILE)", code)
    assert texts == 1
    given = ["a very good ship", "the train was late", "bad " + 30 * "good "]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, code, json.dumps(given)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = [[row["label"], row["probability"]] for row in predict_texts(Classifier(model), given)[0]]
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
