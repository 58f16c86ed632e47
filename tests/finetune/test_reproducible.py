"""The same images, configuration and seed give the same model in another process, to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import photos

# The stages as the flow runs them, without Prefect, in a workspace of its own.
STAGES = """
import hashlib, json, sys
import numpy as np, onnx
from onnx import numpy_helper
from tasks.modality.augmentation import policy_of
from tasks.networks.extractor import extractor_of
from tasks.networks.classifier import Classifier
from tasks.export.model import export_model
from tasks.extract.engine import choose_engine
from tasks.extract.export import ensure_exported
from tasks.extract.plan import cut, embed_shard, missing_tasks
from tasks.finetune.stage import finetune
from tasks.modality.images import decode
from tasks.ingest.catalogue import build_catalogue
from tasks.records import Features
from tasks.split.assign import make_snapshot
from tasks.storage.tables import read_table
from tests.runs import make_run

workspace, source, config = sys.argv[1:]
run = make_run(workspace, source, config=json.loads(config))
policy = policy_of(run.config)
extractor = extractor_of(run, policy)
ensure_exported(run, extractor)
snapshot = make_snapshot(run, build_catalogue(run))
todo = missing_tasks(run, snapshot, extractor, policy)
engine = choose_engine(run, extractor)
for shard in cut(todo, 64):
    embed_shard(run, extractor, policy, engine, shard)
head = finetune(run, Features(snapshot=snapshot, extractor=extractor, views=policy.views, embedded=len(todo)))
model = export_model(run, head, 1)
content = run.workspace.read_bytes(model.onnx_path)
arrays = [numpy_helper.to_array(each) for each in onnx.load_from_string(content).graph.initializer]
weights = sorted(array.tobytes() for array in arrays if array.dtype != object)  # all but the labels
classifier = Classifier(content)
table = read_table(run.workspace, snapshot.table_path, ["uri"])
answers = [classifier.probabilities(decode(open(uri, "rb").read(), 10**6)) for uri in table["uri"]]
print(json.dumps({
    "head": head.digest,
    "temperature": head.temperature,
    "weights": hashlib.sha256(b"".join(weights)).hexdigest(),
    "predictions": hashlib.sha256(np.stack(answers).tobytes()).hexdigest(),
}))
"""


def made(workspace: Path, source: Path, config: dict, hash_seed: str) -> dict[str, object]:
    command = [sys.executable, "-c", STAGES, str(workspace), str(source), json.dumps(config)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("boundary", ["avg_pool", "block_12_add"])
def test_two_processes_make_the_same_model_to_the_bit(
    tmp_path: Path, small_extractor: dict[str, object], boundary: str
):
    source = photos.class_folders(tmp_path / "photos", {"red": 16, "green": 16})
    config = {
        "backbone": {**small_extractor, "boundary": boundary},
        "augment": {"policy": "mild", "views": 1},
        "finetune": {"epochs": 2, "unfrozen_epochs": 1, "hidden_units": 8, "mixup": 0.2, "ema": 0.9},
    }
    first, again = (made(tmp_path / seed, source, config, seed) for seed in "12")
    assert first == again
