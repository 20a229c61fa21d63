"""A network as a chain of steps: normalization, dense layers with activations, limits.

The readers of ONNX and Keras give the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.checkpoint.actor import Layer
from balance_hil.quantize import Normalization

Float64Array = NDArray[np.float64]
UNCLIPPED = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Affine:
    """``scale * x + offset``, element by element; both broadcast to the elements."""

    scale: Float64Array
    offset: Float64Array


@dataclass(frozen=True)
class Limits:
    """``clip(x, low, high)``."""

    low: float
    high: float


@dataclass(frozen=True)
class Dense:
    """``weight @ x + bias``; weight float32 [outputs, inputs]."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True)
class Activation:
    """One of ``actor.ACTIVATIONS``."""

    name: str


Step = Affine | Limits | Dense | Activation


def affine(kind: str, constant: NDArray[Any], *, first: bool) -> list[Step] | str:
    """The step of an elementwise ``kind`` ("Add", "Sub", "Mul", "Div") with a constant, or why it is not one.

    ``first``: the observation is the first operand.
    """
    vector = np.asarray(constant, np.float64)
    if vector.size != max((1, *vector.shape)):
        return f"{kind} with a constant of shape {vector.shape}"
    vector = vector.reshape(-1) if vector.size > 1 else vector.reshape(())
    one, zero = np.ones_like(vector), np.zeros_like(vector)
    match kind:
        case "Add":
            return [Affine(one, vector)]
        case "Sub":
            return [Affine(one, -vector)] if first else [Affine(-one, vector)]
        case "Mul":
            return [Affine(vector, zero)]
        case _ if first and np.all(vector != 0):
            return [Affine(1 / vector, zero)]
    return "a division by an observation, or by zero"


@dataclass(frozen=True, eq=False)
class Network:
    """What the steps compute. ``limits`` are those of the outputs, None where nothing limits them at the end."""

    normalization: Normalization | None
    layers: tuple[Layer, ...]
    limits: Limits | None = None


def split_normalization(steps: Sequence[Step], n_obs: int) -> tuple[Normalization | None, list[Step]]:
    """The normalization at the front, and the other steps. One that subtracts and divides without a clip has none in effect."""
    scale, offset, clip = np.ones(n_obs), np.zeros(n_obs), UNCLIPPED
    count = 0
    for step in steps:
        if isinstance(step, Affine) and clip == UNCLIPPED:
            scale, offset = scale * step.scale, offset * step.scale + step.offset
        elif isinstance(step, Limits) and clip == UNCLIPPED and step.high == -step.low > 0:
            clip = step.high
        else:
            break
        count += 1
    rest = list(steps[count:])
    if np.all(scale == 1) and np.all(offset == 0) and clip == UNCLIPPED:
        return None, rest
    if not (np.isfinite(scale).all() and np.isfinite(offset).all() and (scale > 0).all()):
        return None, list(steps)
    return Normalization((-offset / scale).astype(np.float32), scale.astype(np.float32), clip), rest


def network_of(steps: Sequence[Step], n_obs: int) -> Network | str:
    """The network of a line of steps, or why it is not a chain of dense layers."""
    normalization, rest = split_normalization(steps, n_obs)
    layers: list[Layer] = []
    before: Affine | None = None  # waits for the dense layer after it
    limits: Limits | None = None
    for step in rest:
        if limits is not None:
            if not isinstance(step, Limits):
                return "something comes after its limits"
            limits = Limits(max(limits.low, step.low), min(limits.high, step.high))
            continue
        match step:
            case Dense(weight, bias):
                layers.append(_dense(weight, bias, before))
                before = None
            case Affine() if layers and not layers[-1].activation and before is None:
                last = layers[-1]
                scale = np.broadcast_to(step.scale, last.bias.shape)
                weight, bias = scale[:, np.newaxis] * last.weight, scale * last.bias + step.offset
                layers[-1] = Layer(weight.astype(np.float32), bias.astype(np.float32))
            case Affine():
                before = step if before is None else Affine(before.scale * step.scale, before.offset * step.scale + step.offset)
            case Activation(name) if layers and before is None and not layers[-1].activation:
                layers[-1] = Layer(layers[-1].weight, layers[-1].bias, name)
            case Activation():
                return "two activations follow one another, or none precedes them"
            case Limits() if layers and before is None:
                limits = step
            case _:
                return "its limits are not at the end"
    if not layers:
        return "it has no dense layer"
    if before is not None:
        n = len(layers[-1].bias)
        layers.append(_dense(np.eye(n, dtype=np.float32), np.zeros(n, np.float32), before))
    return Network(normalization, tuple(layers), limits)


def with_box(network: Network, low: Float64Array, high: Float64Array) -> tuple[Layer, ...]:
    """The layers with outputs of -1..1 for actions of low..high, float64 [n_act] each; the network's own limits are kept."""
    half, middle = (high - low) / 2, (high + low) / 2
    last = network.layers[-1]
    layers = network.layers
    if network.limits is not None and (np.any(network.limits.low > low) or np.any(network.limits.high < high)):
        # Its own limits are tighter than the box: clipped to them, and stretched to the box.
        own_half, own_middle = (network.limits.high - network.limits.low) / 2, (network.limits.high + network.limits.low) / 2
        ones = np.ones_like(half)
        layers = (*with_box(Network(None, layers), own_middle - own_half * ones, own_middle + own_half * ones),)
        scale = own_half / half
        return (
            *layers,
            _dense(np.diag(scale).astype(np.float32), ((own_middle - middle) / half).astype(np.float32), None, "clip"),
        )
    if not last.activation:
        weight, bias = last.weight / half[:, np.newaxis], (last.bias - middle) / half
        return (*layers[:-1], Layer(weight.astype(np.float32), bias.astype(np.float32), "clip"))
    if last.activation in ("tanh", "clip") and np.all(half == 1) and np.all(middle == 0):
        return layers
    return (*layers, Layer(np.diag(1 / half).astype(np.float32), (-middle / half).astype(np.float32), "clip"))


def denormalized(layers: Sequence[Layer], normalization: Normalization) -> tuple[Layer, ...]:
    """The same network for normalized observations: the first layer undoes the normalization, its clip apart."""
    std = 1.0 / normalization.inverse_std.astype(np.float64)
    first = layers[0]
    folded = _dense(first.weight, first.bias, Affine(std, normalization.mean.astype(np.float64)), first.activation)
    return (folded, *layers[1:])


def _dense(weight: NDArray[np.float32], bias: NDArray[np.float32], before: Affine | None, activation: str = "") -> Layer:
    if before is None:
        return Layer(weight, bias, activation)
    wide = weight.astype(np.float64)
    inputs = weight.shape[1:]
    shifted = bias + wide @ np.broadcast_to(before.offset, inputs)
    return Layer((wide * np.broadcast_to(before.scale, inputs)).astype(np.float32), shifted.astype(np.float32), activation)
