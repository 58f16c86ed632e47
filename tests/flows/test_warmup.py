import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PREPARED = """
import sys, tempfile
from tasks.runs import new_run
from tasks.config import parse_config
from flows.warmup import preload

config = parse_config({"backbone": {"name": "embedded", "image_size_px": 32}})
run = new_run("", "twice", tempfile.mkdtemp(), config)
for thread in [preload(run), preload(run)]:
    thread.join()
[extractor] = run.workspace.names("artifacts/extractor")
print(*run.workspace.names(f"artifacts/extractor/{extractor}"))
print("great_expectations" in sys.modules, "keras" in sys.modules)
"""


def test_a_run_is_prepared_and_keras_stays_out_of_its_process():
    done = subprocess.run([sys.executable, "-c", PREPARED], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout.split() == ["artifact.json", "extractor.onnx", "True", "False"], done.stderr
    assert done.stderr == ""
