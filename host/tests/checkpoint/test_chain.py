"""Lines of steps become normalization, dense layers and limits that compute the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balance_hil.checkpoint.actor import ACTIVATIONS, act_through
from balance_hil.checkpoint.chain import Activation, Affine, Dense, Limits, Network, denormalized, network_of, with_box
from balance_hil.quantize import Normalization
from balance_hil.spec import ActionMap

N = 4


def evaluate(steps, rows):
    """What the steps mean, in float64."""
    values = rows.astype(np.float64)
    for step in steps:
        match step:
            case Affine(scale, offset):
                values = values * scale + offset
            case Limits(low, high):
                values = np.clip(values, low, high)
            case Dense(weight, bias):
                values = values @ weight.T.astype(np.float64) + bias
            case Activation(name):
                values = np.asarray(ACTIVATIONS[name](values.astype(np.float32)), np.float64)
    return values


def affine(rng, *, positive=False):
    scale = rng.uniform(0.3, 2, N)
    return Affine(scale if positive else scale * rng.choice([-1, 1], N), rng.normal(0, 1, N))


def dense(rng):
    return Dense(rng.normal(0, 0.7, (N, N)).astype(np.float32), rng.normal(0, 0.5, N).astype(np.float32))


@st.composite
def lines(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = [affine(rng, positive=draw(st.booleans())) for _ in range(draw(st.integers(0, 2)))]
    if draw(st.booleans()):
        steps.append(Limits(-2.0, 2.0))
    for _ in range(draw(st.integers(1, 3))):
        steps.append(dense(rng))
        steps += [affine(rng)] * draw(st.booleans())
        steps.append(Activation(draw(st.sampled_from(["relu", "tanh", "elu", "silu", "sigmoid"]))))
        steps += [affine(rng)] * draw(st.booleans())
    if draw(st.booleans()):
        steps.append(dense(rng))
    steps += [Limits(-0.4, 0.7)] * draw(st.booleans())
    return steps


@given(lines(), st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_the_network_computes_what_the_steps_mean(steps, seed):
    rows = np.random.default_rng(seed).normal(0, 2, (20, N)).astype(np.float32)
    network = network_of(steps, N)
    if isinstance(network, str):
        return
    inputs = network.normalization.apply(rows) if network.normalization else rows
    expected = evaluate(steps, rows)
    outputs = act_through(network.layers, inputs)
    limits = network.limits or Limits(-np.inf, np.inf)
    assert np.allclose(np.clip(outputs, limits.low, limits.high), expected, atol=2e-4, rtol=2e-4)
    for low, high in ((-1.0, 1.0), (-0.3, 0.5), (-3.0, 2.0)):
        ends = np.full(N, low), np.full(N, high)
        action_map = ActionMap.of_box(*(end.astype(np.float32) for end in ends))
        scaled = act_through(with_box(network, *ends), inputs)
        assert np.all(np.abs(scaled) <= 1 + 1e-6)
        assert np.allclose(action_map(scaled), np.clip(expected, low, high), atol=5e-4, rtol=2e-4)


def test_a_normalization_in_front_is_taken_out():
    rng = np.random.default_rng(0)
    front = Affine(np.array([2.0, 0.5, 1, 4]), np.array([1.0, 0, -1, 2]))
    network = network_of([front, Limits(-5.0, 5.0), dense(rng)], N)
    assert np.allclose(network.normalization.inverse_std, [2, 0.5, 1, 4])
    assert np.allclose(network.normalization.mean, [-0.5, 0, 1, -0.5])
    assert network.normalization.clip == 5.0
    assert len(network.layers) == 1


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([Activation("relu")], "none precedes"),
        ([Affine(np.ones(N), np.ones(N))], "no dense layer"),
        ([dense(np.random.default_rng(0)), Activation("relu"), Activation("tanh")], "two activations"),
        ([dense(np.random.default_rng(0)), Limits(-1, 1), dense(np.random.default_rng(0))], "after its limits"),
    ],
)
def test_a_line_that_is_no_chain_says_why(steps, reason):
    assert reason in network_of(steps, N)


def test_layers_for_normalized_observations_compute_the_same():
    rng = np.random.default_rng(0)
    network = network_of([dense(rng), Activation("tanh"), dense(rng)], N)
    assert isinstance(network, Network)
    normalization = Normalization(np.float32([1, -50, 0, 3]), np.float32([10, 0.02, 1, 5]), 1e6)
    rows = rng.normal(0, 1, (50, N)).astype(np.float32) / normalization.inverse_std + normalization.mean
    expected = act_through(network.layers, rows)
    found = act_through(denormalized(network.layers, normalization), normalization.apply(rows))
    assert np.allclose(found, expected, atol=1e-4)
