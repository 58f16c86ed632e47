"""Transfer learning as tutorials show it, whole: what the benchmark of a retrain compares with.

    KERAS_HOME=… uv run python -m tests.benchmarks.tutorial PHOTOGRAPHS [--epochs 10]

PHOTOGRAPHS is a folder of `train/` and `validation/`, a subfolder a class. A frozen MobileNetV2 with ImageNet weights
at 224 px, global average pooling, one dense layer, Adam, batches of 32, mirrored at random: each epoch decodes every
image and passes it through the feature extractor again. The last line on standard output is a JSON object. On purpose
it takes nothing from headstart.
"""

from __future__ import annotations

import argparse
import json
import sys

import tensorflow as tf

SIZE_PX, BATCH_IMAGES = 224, 32


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photographs")
    parser.add_argument("--epochs", type=int, default=10)
    parsed = parser.parse_args(arguments)

    keras = tf.keras  # type: ignore[attr-defined]  # made as the package loads
    generator, preprocess = (
        keras.preprocessing.image.ImageDataGenerator,
        keras.applications.mobilenet_v2.preprocess_input,
    )
    shape = {"target_size": (SIZE_PX, SIZE_PX), "batch_size": BATCH_IMAGES}
    train = generator(preprocessing_function=preprocess, horizontal_flip=True).flow_from_directory(
        f"{parsed.photographs}/train", **shape
    )
    validation = generator(preprocessing_function=preprocess).flow_from_directory(
        f"{parsed.photographs}/validation", shuffle=False, **shape
    )
    extractor = keras.applications.MobileNetV2(weights="imagenet", include_top=False, input_shape=(SIZE_PX, SIZE_PX, 3))
    extractor.trainable = False
    model = keras.Sequential(
        [
            extractor,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(train.num_classes, activation="softmax"),
        ]
    )
    model.compile("adam", loss="categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(train, validation_data=validation, epochs=parsed.epochs, verbose=2).history
    print(json.dumps({"epochs": parsed.epochs, "validation_accuracy": round(history["val_accuracy"][-1], 4)}))


if __name__ == "__main__":
    main(sys.argv[1:])
