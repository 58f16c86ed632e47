"""Run as a script, alone: `python -I fresh_runner.py model.onnx image.npy…`; one JSON object on standard output.

It imports nothing of headstart on purpose: it stands for a server that has ONNX Runtime and the file.
"""

import json
import sys
import time

import numpy as np
import onnxruntime as ort


def main(model_file: str, *image_files: str) -> None:
    started = time.perf_counter()
    session = ort.InferenceSession(model_file, providers=["CPUExecutionProvider"])
    load_s = time.perf_counter() - started
    labels, took_s = [], []
    for image_file in image_files:
        pixels = np.load(image_file, allow_pickle=False)
        started = time.perf_counter()
        probabilities, label = map(np.asarray, session.run(["probabilities", "label"], {"image": pixels[None]}))
        took_s.append(time.perf_counter() - started)
        if not abs(float(probabilities.sum()) - 1) < 1e-3:
            raise SystemExit(f"probabilities of {image_file} sum up to {probabilities.sum()}")
        labels.append(str(label[0]))
    print(json.dumps({"load_s": load_s, "labels": labels, "took_s": took_s}))


if __name__ == "__main__":
    main(*sys.argv[1:])
