"""Run as a script, alone: `python -I fresh_runner.py < FILE`; one JSON object on standard output.

FILE holds arrays one behind the other, as `numpy.save` writes them: the bytes of model.onnx, uint8 [B], then of each
item the model's inputs, by their names in order. No path is named, so what is loaded is what was handed over.

It imports nothing of headstart on purpose: it stands for a server that has ONNX Runtime and the file.
"""

import io
import json
import sys
import time

import numpy as np
import onnxruntime as ort


def main(content: bytes) -> None:
    arrays = io.BytesIO(content)
    model = np.load(arrays, allow_pickle=False).tobytes()
    started = time.perf_counter()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    load_s = time.perf_counter() - started
    names = sorted(each.name for each in session.get_inputs())
    labels, took_s = [], []
    while arrays.tell() < len(content):
        feed = {name: np.load(arrays, allow_pickle=False) for name in names}
        started = time.perf_counter()
        probabilities, label = map(np.asarray, session.run(["probabilities", "label"], feed))
        took_s.append(time.perf_counter() - started)
        if not abs(float(probabilities.sum()) - 1) < 1e-3:
            raise SystemExit(f"probabilities of item {len(labels)} sum up to {probabilities.sum()}")
        labels.append(str(label[0]))
    print(json.dumps({"load_s": load_s, "labels": labels, "took_s": took_s}))


if __name__ == "__main__":
    main(sys.stdin.buffer.read())
