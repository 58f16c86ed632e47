"""Fine-tuning of the layers above a lower freeze boundary, from the boundary's stored activations.

The classifier is trained first, on the pooled features of the pre-trained network. Then the layers between boundary and
classifier are trained with it, at a lower learning rate, because the gradients of an untrained classifier would damage
good features (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features"). The layers below the boundary never
run: their output is stored. Batch norm stays in inference mode, with its pre-trained statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.config import Finetune
from tasks.finetune.data import Split
from tasks.finetune.head import Plan, TrainedHead, fit
from tasks.networks.extractor import build_upper
from tasks.records import FeatureExtractor

if TYPE_CHECKING:
    import keras


def tune_unfrozen(
    upper: keras.Model,
    classifier: keras.Model,
    train: Split,
    validation: Split,
    config: Finetune,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, logs: None,
) -> TrainedHead:
    """Trains the unfrozen layers with the classifier on top.

    Args:
        upper: activations [N, h, w, C] to features [N, D]; trained in place.
        classifier: features [N, D] to logits, already trained; trained further in place.
        train, validation: rows of flattened activations, [N, h * w * C].

    Returns:
        As `train_head`, with a model from activations float32 [N, h, w, C] to logits.
    """
    import keras

    from tasks.finetune.folded import fold

    model = join(upper, classifier)
    rows = keras.Input((train.features.shape[1],), name="rows")
    features = fold(upper)(keras.layers.Reshape(upper.input_shape[1:])(rows))
    flat = keras.Model(rows, classifier(features))  # trains the variables of `model`
    plan = Plan(
        learning_rate=config.unfrozen_learning_rate,
        epochs=config.unfrozen_epochs,
        batch_size=config.unfrozen_batch_size,
    )
    tuned = fit(flat, train, validation, config, plan, on_epoch)
    return replace(tuned, model=model)


def unfrozen_layers(extractor: FeatureExtractor) -> keras.Model:
    """The layers above the freeze boundary, all trainable except batch norm."""
    import keras

    upper = build_upper(extractor)
    for layer in upper.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return upper


def join(upper: keras.Model, classifier: keras.Model) -> keras.Model:
    """A model from activations to logits that shares the layers of the two models."""
    import keras

    activations = keras.Input(upper.input_shape[1:], name="activations")
    # A new model, so that it is saved without the loss that the classifier was compiled with.
    layers = keras.Model(classifier.inputs, classifier.outputs, name="classifier")
    return keras.Model(activations, layers(upper(activations)), name="unfrozen_head")
