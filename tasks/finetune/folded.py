"""The layers above a lower boundary as they are trained: each frozen batch norm is folded into its convolution.

A batch norm in inference mode multiplies each channel by a constant and adds another. Multiplying the convolution's
kernel instead, which is far smaller than an activation map, gives the same numbers and the same gradients. On 2 cores
a step of MobileNetV2 above `block_12_add` took a tenth less processor time for it in batches of 32 (5.4 against 6.0 s
for 1,000 images), and a seventh less in batches of 128 (4.8 against 5.7 s).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


class FoldedConvolution(keras.layers.Layer):
    """A convolution and the frozen batch norm behind it, as one; its variables are the convolution's own."""

    def __init__(self, convolution: Any, norm: keras.layers.BatchNormalization) -> None:
        """Args: convolution: a Conv2D or DepthwiseConv2D."""
        super().__init__(name=f"{convolution.name}_folded")
        self.convolution, self.norm = convolution, norm
        mean, variance = np.asarray(norm.moving_mean), np.asarray(norm.moving_variance)
        gamma = np.ones_like(mean) if norm.gamma is None else np.asarray(norm.gamma)
        beta = np.zeros_like(mean) if norm.beta is None else np.asarray(norm.beta)
        self.scale = gamma / np.sqrt(variance + norm.epsilon)
        self.offset = beta - mean * self.scale

    def call(self, inputs: Any) -> Any:
        layer, options = self.convolution, {"strides": self.convolution.strides, "padding": self.convolution.padding}
        options["dilation_rate"] = layer.dilation_rate
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            outputs = keras.ops.depthwise_conv(inputs, layer.kernel * self.scale[:, None], **options)
        else:
            outputs = keras.ops.conv(inputs, layer.kernel * self.scale, **options)
        bias = self.offset if layer.bias is None else layer.bias * self.scale + self.offset
        return keras.ops.add(outputs, bias)


def fold(model: keras.Model) -> keras.Model:
    """The same function of the same variables, for training: batch norms whose convolution feeds them alone are folded.

    What it does not know how to fold stays as it is. Not to be saved: save the model that was given.
    """
    folded = {norm.name: FoldedConvolution(convolution, norm) for convolution, norm in _pairs(model)}
    convolutions = {each.convolution.name: each for each in folded.values()}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.name in convolutions:
            return convolutions[layer.name](*args)
        return args[0] if layer.name in folded else layer(*args, **kwargs)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def _pairs(model: keras.Model) -> list[tuple[Any, Any]]:
    """Each convolution that can be folded, and the batch norm behind it."""
    consumers: dict[int, list[Any]] = {}  # of each layer's output
    for layer in model.layers[1:]:
        for tensor in keras.tree.flatten(layer.input):
            consumers.setdefault(id(tensor), []).append(layer)
    behind = [(layer, consumers.get(id(layer.output), [])) for layer in model.layers if _foldable(layer)]
    return [(layer, after[0]) for layer, after in behind if len(after) == 1 and _is_frozen_norm(after[0])]


def _is_frozen_norm(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization) and not layer.trainable


def _foldable(layer: Any) -> bool:
    """Whether it is a plain convolution: a separable one is two, and its kernel can't be scaled alone."""
    plain = type(layer) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    return plain and getattr(layer, "groups", 1) == 1 and layer.activation is keras.activations.linear
