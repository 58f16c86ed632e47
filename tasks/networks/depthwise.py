"""Convolutions with a group for each channel, written as what they are.

Keras's ConvNeXt has its depthwise convolutions as grouped ones. Those TensorFlow can only run compiled on a processor,
and tf2onnx can't express them. A depthwise convolution is the same sum, and has an operator in both.
"""

from __future__ import annotations

import keras


def with_depthwise(network: keras.Model) -> keras.Model:
    """The same network, its weights included, with a `DepthwiseConv2D` for each `Conv2D` of one channel a group."""
    if not any(map(_is_depthwise, network.layers)):
        return network
    clone = keras.models.clone_model(network, clone_function=_rewritten)
    for old, new in zip(network.layers, clone.layers, strict=True):
        weights = old.get_weights()
        if _is_depthwise(old):
            weights[0] = weights[0].transpose(0, 1, 3, 2)  # [h, w, 1, C] to [h, w, C, 1]
        new.set_weights(weights)
    return clone


def _is_depthwise(layer: keras.Layer) -> bool:
    if not isinstance(layer, keras.layers.Conv2D) or layer.groups == 1:
        return False
    return layer.get_weights()[0].shape[2:] == (1, layer.groups)  # kernels are [h, w, channels in a group, filters]


def _rewritten(layer: keras.Layer) -> keras.Layer:
    if not _is_depthwise(layer):
        return layer.__class__.from_config(layer.get_config())
    config = layer.get_config()
    kept = ("name", "kernel_size", "strides", "padding", "dilation_rate", "activation", "use_bias", "dtype")
    return keras.layers.DepthwiseConv2D(**{key: config[key] for key in kept})
