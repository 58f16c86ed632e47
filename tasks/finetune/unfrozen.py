"""Fine-tuning of the layers above a lower freeze boundary, from the boundary's stored activations.

First the classifier is trained on pooled features of the network as it was pre-trained, then the layers under it, from
the boundary up, together with it and at a lower rate: a fresh classifier would otherwise tear at features that were
good (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features"). What lies below the boundary never runs: its
output is stored. Batch norm stays in inference mode, with the statistics that it was trained with.
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
        classifier: features [N, D] to logits, trained before; trained in place.
        train, validation: rows of flattened activations, [N, h * w * C].

    Returns:
        As `train_head`; its model maps activations float32 [N, h, w, C] to logits.
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
        weight_decay=config.weight_decay,
    )
    tuned = fit(flat, train, validation, config, plan, on_epoch)
    return replace(tuned, model=model)


def unfrozen_layers(extractor: FeatureExtractor) -> keras.Model:
    """The layers above the trunk's boundary, ready to be trained: all but batch norm."""
    import keras

    upper = build_upper(extractor)
    for layer in upper.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return upper


def join(upper: keras.Model, classifier: keras.Model) -> keras.Model:
    """Activations to logits. The layers stay those of the two models."""
    import keras

    activations = keras.Input(upper.input_shape[1:], name="activations")
    # As a model of its own, it is saved without the loss that the classifier was compiled with.
    layers = keras.Model(classifier.inputs, classifier.outputs, name="classifier")
    return keras.Model(activations, layers(upper(activations)), name="unfrozen_head")
