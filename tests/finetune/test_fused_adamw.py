"""The fused optimiser: the update of Keras's AdamW, to the last digits of float32."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from tasks.finetune.fused_adamw import FusedAdamW


def trained(optimizer: Any, ema: dict[str, Any]) -> list[np.ndarray]:
    weights: Any = keras.initializers.GlorotUniform(seed=1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, "relu", kernel_initializer=weights)])
    rate = keras.optimizers.schedules.CosineDecay(0.01, 50)
    model.compile(optimizer(rate, weight_decay=0.01, **ema), loss="mse")
    rows = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    model.fit(rows, 2 * rows[:, :5], epochs=10, batch_size=16, shuffle=False, verbose=0)  # pyright: ignore[reportArgumentType]
    return model.get_weights()


@pytest.mark.parametrize("ema", [{}, {"use_ema": True, "ema_momentum": 0.9}], ids=["plain", "averaged"])
def test_it_trains_the_weights_that_keras_trains(ema: dict[str, Any]):
    for own, theirs in zip(trained(FusedAdamW, ema), trained(keras.optimizers.AdamW, ema), strict=True):
        np.testing.assert_allclose(own, theirs, atol=1e-5)
        assert np.ptp(own) > 0.01
