"""Small models from the TensorFlow converter: actors, and networks in the style of MLPerf Tiny; weights are random.

Raises MissingExtraError where tensorflow is not installed.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from balance_hil.errors import require
from balance_hil.quantize import INT8, ElementType, Float32Array
from balance_hil.runtimes.native_stderr import captured_stderr

_SHAPES = ((6, 32, 32, 2), (6, 64, 64, 2), (8, 24, 2), (5, 48, 16, 3))


def converted_model(seed: int) -> bytes:
    """An actor from the TensorFlow converter: 32 seeds have all activations × per-channel and per-tensor × shapes.

    Raises:
        MissingExtraError: tensorflow is not installed.
    """
    cases = list(product(_SHAPES, ("tanh", "relu", "relu6", "sigmoid"), (True, False)))
    return _converted(*cases[seed % len(cases)], seed)


def converted_network(seed: int, element: ElementType = INT8) -> bytes:
    """A convolutional network: keyword spotting, ResNet or MobileNet in small."""
    makers: tuple[Callable[..., bytes], ...] = (keyword_spotting, resnet, mobilenet)
    return makers[seed % len(makers)](seed, element=element)


def keyword_spotting(seed: int, element: ElementType = INT8) -> bytes:
    """A depthwise separable network on 25 spectra of 8 bands; its first filter is 10 × 4, as in MLPerf Tiny."""

    def build(layers: Any, x: Any) -> Any:
        x = _block(layers, layers.Conv2D(16, (10, 4), strides=2, padding="same"), x)
        for _ in range(2):
            x = _block(layers, layers.DepthwiseConv2D(3, padding="same"), x)
            x = _block(layers, layers.Conv2D(16, 1), x)
        x = layers.AveragePooling2D((x.shape[1], x.shape[2]))(x)
        return layers.Dense(12, activation="softmax")(layers.Flatten()(x))

    return _network((25, 8, 1), build, seed, element)


def resnet(seed: int, element: ElementType = INT8) -> bytes:
    """Residual blocks on a color image of 12 × 12, the second with a 1 × 1 shortcut of stride 2."""

    def build(layers: Any, x: Any) -> Any:
        x = _block(layers, layers.Conv2D(8, 3, padding="same"), x)
        for channels, stride in ((8, 1), (16, 2)):
            y = _block(layers, layers.Conv2D(channels, 3, strides=stride, padding="same"), x)
            y = layers.BatchNormalization()(layers.Conv2D(channels, 3, padding="same")(y))
            x = layers.Conv2D(channels, 1, strides=stride, padding="same")(x) if stride > 1 else x
            x = layers.ReLU()(layers.Add()([x, y]))
        x = layers.GlobalAveragePooling2D(keepdims=seed % 2 == 0)(x)
        return layers.Dense(10, activation="softmax")(layers.Flatten()(x))

    return _network((12, 12, 3), build, seed, element)


def mobilenet(
    seed: int,
    size: int = 24,
    blocks: Sequence[tuple[int, int]] = ((16, 1), (32, 2), (32, 1), (64, 2)),
    element: ElementType = INT8,
) -> bytes:
    """The start of MobileNetV1 0.25 on a color image; each block has its channels and its stride."""

    def build(layers: Any, x: Any) -> Any:
        x = _block(layers, layers.Conv2D(8, 3, strides=2, padding="same"), x, 6.0)
        for channels, stride in blocks:
            x = _block(layers, layers.DepthwiseConv2D(3, strides=stride, padding="same"), x, 6.0)
            x = _block(layers, layers.Conv2D(channels, 1), x, 6.0)
        x = layers.GlobalAveragePooling2D()(x)
        return layers.Dense(2, activation="softmax")(x)

    return _network((size, size, 3), build, seed, element)


def mobilenet_v1_025(seed: int = 0) -> bytes:
    """MobileNetV1 0.25 at 96 × 96, the size of MLPerf Tiny's visual wake words."""
    later = ((128, 1),) * 5
    return mobilenet(seed, 96, ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *later, (256, 2), (256, 1)))


def _block(layers: Any, layer: Any, x: Any, limit: float | None = None) -> Any:
    return layers.ReLU(limit)(layers.BatchNormalization()(layer(x)))


def _network(shape: tuple[int, ...], build: Callable[[Any, Any], Any], seed: int, element: ElementType) -> bytes:
    tf = _tensorflow()
    layers = tf.keras.layers
    source = tf.keras.Input(shape)
    model = tf.keras.Model(source, build(layers, source))
    rng = np.random.default_rng(seed)
    for layer in model.layers:  # activations of about one whatever the depth, and channels of unequal size
        given = layer.get_weights()
        if isinstance(layer, layers.BatchNormalization):
            channels = len(given[0])
            layer.set_weights([rng.uniform(0.5, 1.5, channels), rng.normal(0.0, 0.5, channels), *given[2:]])
        elif given:
            taps = np.prod(given[0].shape[:2]) if isinstance(layer, layers.DepthwiseConv2D) else np.prod(given[0].shape[:-1])
            weights = rng.normal(0.0, 1.4 / np.sqrt(taps), given[0].shape)
            layer.set_weights([weights, *(rng.normal(0.0, 0.1, bias.shape) for bias in given[1:])])
    return convert(model, rng.normal(0.0, 1.0, (32, *shape)).astype(np.float32), element=element)


def _converted(sizes: Sequence[int], kind: str, per_channel: bool, seed: int) -> bytes:
    tf = _tensorflow()
    rng = np.random.default_rng(seed)
    activation = {"relu6": tf.nn.relu6}.get(kind, kind)
    model = tf.keras.Sequential([tf.keras.Input((sizes[0],))])
    for units in sizes[1:-1]:
        model.add(tf.keras.layers.Dense(units, activation=activation))
    model.add(tf.keras.layers.Dense(sizes[-1], activation="tanh"))
    for layer in model.layers:
        depth, units = layer.get_weights()[0].shape
        # Neurons of unequal size, so that scales per channel differ as they do in a trained network.
        weights = rng.normal(0.0, 1.5 / np.sqrt(depth), (depth, units)) * rng.uniform(0.2, 2.0, units)
        layer.set_weights([weights, rng.normal(0.0, 0.3, units)])
    calibration = rng.normal(0.0, 1.0, (256, sizes[0])).astype(np.float32) * np.float32(rng.uniform(0.3, 3.0))
    return convert(model, calibration, per_channel=per_channel)


def convert(model: Any, calibration: Float32Array, *, per_channel: bool = True, element: ElementType = INT8) -> bytes:
    """A Keras model as a ``.tflite`` of ``element``, calibrated on inputs [n, ...]; ``per_channel`` is for dense layers."""
    tf = _tensorflow()
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[np.newaxis]] for row in calibration)
    sets = tf.lite.OpsSet
    wide = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS_INT8 if element == INT8 else wide]
    converter.inference_input_type = converter.inference_output_type = tf.int8 if element == INT8 else tf.int16
    converter._experimental_disable_per_channel_quantization_for_dense_layers = not per_channel
    with contextlib.redirect_stdout(io.StringIO()), _native_stdout_to_stderr():  # both log their progress
        return bytes(converter.convert())


def _tensorflow() -> Any:
    require("tensorflow", "export")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with captured_stderr():  # logs the devices found there
        import tensorflow as tf

    return tf


@contextlib.contextmanager
def _native_stdout_to_stderr() -> Iterator[None]:
    """Redirects the output of C++ code from stdout, which is reserved for data."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
