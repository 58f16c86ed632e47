"""The same images, configuration and seed give the same model in another process, to the bit."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tasks.extract.export import ensure_exported
from tasks.modality.images.augmentation import policy_of
from tasks.modality.images.content import decode
from tasks.networks.classifier import Classifier
from tasks.networks.extractor import extractor_of
from tasks.storage.tables import read_table
from tests import photos
from tests.runs import make_run
from tests.stages import candidate_of

BOUNDARIES = ("avg_pool", "block_12_add")
PROCESS = """
import json, sys
from tests.finetune.test_reproducible import make
print(json.dumps([make(workspace, sys.argv[1], config) for workspace, config in json.loads(sys.argv[2])]))
"""


def make(workspace: str, source: str, config: dict[str, Any]) -> dict[str, object]:
    """What a model comes to that is made anew in an empty workspace."""
    run = make_run(workspace, source, config=config)
    extractor = ensure_exported(run, extractor_of(run, policy_of(run.config)))
    model = candidate_of(run, extractor)
    content = run.workspace.read_bytes(model.onnx_path)
    arrays = [numpy_helper.to_array(each) for each in onnx.load_from_string(content).graph.initializer]
    # Not the integers: axes, and shapes of reshapes, of which tf2onnx makes one more at times, because it removes
    # transposes in the order of a set of names. What is computed is the same.
    weights = sorted(
        [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
        for array in arrays
        if array.dtype.kind == "f"
    )
    classifier = Classifier(content)
    table = read_table(run.workspace, model.head.features.snapshot.table_path, ["uri"])
    answers = [classifier.probabilities(decode(Path(uri).read_bytes(), 10**6)) for uri in table["uri"]]
    return {
        "head": model.head.digest,
        "temperature": model.head.temperature,
        "weights": weights,
        "predictions": hashlib.sha256(np.stack(answers).tobytes()).hexdigest(),
    }


def test_two_processes_make_the_same_models_to_the_bit(tmp_path: Path, small_extractor: dict[str, object]):
    """One of the classifier alone, and one with unfrozen layers, in this process and in another one."""
    source = photos.class_folders(tmp_path / "photos", {"red": 16, "green": 16})

    def calls(process: str) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for boundary in BOUNDARIES:
            config = {
                "backbone": {**small_extractor, "boundary": boundary},
                "augment": {"policy": "mild", "views": 1},
                "finetune": {"epochs": 2, "unfrozen_epochs": 1, "hidden_units": 8, "mixup": 0.2, "ema": 0.9},
            }
            found.append((str(tmp_path / f"{boundary}-{process}"), config))
        return found

    command = [sys.executable, "-c", PROCESS, source, json.dumps(calls("other"))]
    other_seed = {**os.environ, "PYTHONHASHSEED": "2"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=other_seed) as other:
        first = [make(workspace, str(source), config) for workspace, config in calls("this")]
        stdout, _ = other.communicate()
    assert other.returncode == 0
    again = json.loads(stdout.splitlines()[-1])
    for boundary, one, other in zip(BOUNDARIES, first, again, strict=True):
        for what in one:  # one after the other, so that a failure names what differs
            assert one[what] == other[what], (boundary, what)
    assert first[0] != first[1]
