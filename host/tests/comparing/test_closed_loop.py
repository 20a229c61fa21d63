"""Closed loop: the first differing answer is the one that was put there, and episodes are compared seed by seed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from balance_hil.bundle import Bundle
from balance_hil.cli import compare as cli
from balance_hil.comparing import closed_loop as module
from balance_hil.comparing.closed_loop import ClosedLoop, ClosedLoopConfig, Opened, Pair, closed_loop
from balance_hil.environment import open_for
from balance_hil.errors import MissingExtraError, UsageError
from balance_hil.farm.campaign import Campaign
from balance_hil.quantize import QuantParams, dequantize, quantize
from balance_hil.rollout import EVALUATION_SEED_BASE
from balance_hil.runtimes.base import LayerTensor, ModelRuntime

DOCS = Path(__file__).resolve().parents[3] / "docs" / "json.md"
# Multiples of a power of two: exact in float64, in a batch as one by one.
GAINS = [[2.0, 1.0, 0.0, 0.0, -0.25, -0.25], [2.0, 1.0, 0.0, 0.0, -0.25, 0.25]]
CONFIG = ClosedLoopConfig(episodes=4, seed=3, max_steps=120)
FIRST_SEED = EVALUATION_SEED_BASE + CONFIG.seed
NEVER = 200  # no int8 is above it


@dataclass
class LinearInt8(ModelRuntime):
    """Keeps the robot up without a network. Where the pitch input is above ``above``, ``wrong`` LSB are added to output 1."""

    name: str
    bundle: Bundle
    above: int = NEVER
    wrong: int = 1
    gains: list[list[float]] | None = None

    def __post_init__(self) -> None:
        self.n_obs, self.n_act = 6, 2
        self.input_quant, self.output_quant = self.bundle.input_quant, self.bundle.output_quant
        self._matrix = np.array(self.gains or GAINS).T

    def infer_raw_batch(self, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
        actions = np.clip(dequantize(inputs, self.input_quant).astype(np.float64) @ self._matrix, -1.0, 1.0)
        outputs = quantize(actions, self.output_quant)
        outputs[inputs[:, 0] > self.above, 1] += self.wrong
        return outputs

    def layers_raw_batch(self, inputs: NDArray[np.int8]) -> list[LayerTensor]:
        return [LayerTensor(0, "RELU", inputs), LayerTensor(1, "FULLY_CONNECTED", self.infer_raw_batch(inputs))]


def compared(
    bundle: Bundle, a: LinearInt8, b: LinearInt8, config: ClosedLoopConfig, monkeypatch: pytest.MonkeyPatch
) -> ClosedLoop:
    """The comparison of two runtimes that are there already, in this process."""

    @contextmanager
    def opened(pair: Pair) -> Iterator[Opened]:
        with open_for(bundle.spec) as environment:
            yield Opened(bundle, environment, a, b)

    monkeypatch.setattr(Pair, "open", opened)
    monkeypatch.setattr(Pair, "depends_on", lambda pair: {})
    monkeypatch.setattr(Bundle, "load", lambda path: bundle)
    return closed_loop(Pair(bundle=bundle.path, a="a", b="b"), config, campaign=Campaign(jobs=1))


@pytest.fixture(autouse=True)
def reference(linear_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third opinion: the unspoilt policy."""
    monkeypatch.setattr(module, "load_runtime", lambda name, bundle: LinearInt8(name, bundle))


def first_step_above(bundle: Bundle, seed: int, above: int) -> int | None:
    """When the unspoilt policy first meets such an observation, found in the single environment."""
    policy = LinearInt8("one", bundle)
    with open_for(bundle.spec) as env:
        observation = env.reset(seed)
        for step in range(120):
            if quantize(observation, bundle.input_quant)[0] > above:
                return step
            observation, _, fallen, *_ = env.step(np.clip(policy.act(observation), -1, 1))
            assert not fallen
    return None


def test_equal_runtimes_drive_equal_episodes(linear_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    result = compared(linear_bundle, LinearInt8("a", linear_bundle), LinearInt8("b", linear_bundle), CONFIG, monkeypatch)
    assert result.divergences == ()
    assert result.episodes_a == result.episodes_b
    assert [episode.seed for episode in result.episodes_a] == list(range(FIRST_SEED, FIRST_SEED + 4))
    assert result.success.both == 4
    assert [row.mean_difference for row in result.metrics] == [0.0] * len(result.metrics)
    assert "bit for bit" in result.summary


@pytest.mark.parametrize("spoilt", ["a", "b"])
def test_the_first_bit_is_found_in_every_seed(linear_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, spoilt: str) -> None:
    above = 8
    a, b = (LinearInt8(name, linear_bundle, above=above if name == spoilt else NEVER, wrong=-2) for name in "ab")
    result = compared(linear_bundle, a, b, CONFIG, monkeypatch)
    expected = {seed: first_step_above(linear_bundle, seed, above) for seed in result.seeds}
    assert len({step for step in expected.values() if step is not None}) > 1, "needs several steps"
    assert {p.seed: p.step for p in result.divergences} == {seed: step for seed, step in expected.items() if step is not None}
    for divergence in result.divergences:
        assert (divergence.output, divergence.signal) == (1, linear_bundle.spec.action[1].name)
        assert divergence.lsb == (2.0 if spoilt == "a" else -2.0)
        assert divergence.unlike_tflm == spoilt
        assert (divergence.first_layer, divergence.first_operator) == (1, "FULLY_CONNECTED")
        assert divergence.trajectory_step == divergence.step
        assert divergence.t_s == pytest.approx(divergence.step * 0.005)
    assert result.diverged == len(result.divergences)
    assert f"diverge in {result.diverged} of 4" in result.summary


def test_a_bit_that_is_clipped_away_parts_no_trajectory(linear_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both answer more than 1: the wheels get the same."""
    bundle = replace(linear_bundle, output_quant=QuantParams(1 / 32, 0))
    always = [[1000.0] * 6] * 2  # +-1 before the spoilt LSB: 32 of them are 1.0
    upright = replace(CONFIG, max_steps=3)
    a, b = (LinearInt8(name, bundle, above=-129, wrong=wrong, gains=always) for name, wrong in (("a", 1), ("b", 2)))
    result = compared(bundle, a, b, upright, monkeypatch)
    clipped = [divergence for divergence in result.divergences if divergence.a > 1.0]
    assert clipped, "the test needs seeds that start with full speed forward"
    assert any(divergence.trajectory_step is None for divergence in clipped)
    assert all(divergence.trajectory_step != divergence.step for divergence in clipped)
    assert all(divergence.unlike_tflm == "both" for divergence in result.divergences)


def test_a_policy_that_falls_differs_in_survival(linear_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = LinearInt8("idle", linear_bundle, gains=[[0.0] * 6] * 2)
    config = ClosedLoopConfig(episodes=10, seed=0, max_steps=400)
    result = compared(linear_bundle, LinearInt8("a", linear_bundle), idle, config, monkeypatch)
    assert (result.success.only_a, result.success.only_b) == (10, 0)
    assert result.differs == ("success",)
    assert result.verdict.line == "FAIL: a and idle differ beyond chance in success"
    assert result.metrics == (), "the errors of a fall say nothing about tracking"
    assert max(episode.steps for episode in result.episodes_b) < 400


def test_a_worse_tracker_differs_in_tracking(linear_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    shaky = LinearInt8("shaky", linear_bundle, above=0, wrong=20)
    config = ClosedLoopConfig(episodes=10, seed=0, max_steps=200)
    result = compared(linear_bundle, LinearInt8("a", linear_bundle), shaky, config, monkeypatch)
    assert result.success.both == 10
    rows = {row.metric: row for row in result.metrics}
    assert "action_rate" in result.differs
    interval = rows["action_rate"].interval
    assert interval is not None
    assert 0 < interval[0] <= rows["action_rate"].mean_difference <= interval[1]


def test_without_tflm_nobody_is_blamed(linear_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, bundle: Bundle) -> ModelRuntime:
        raise MissingExtraError("this needs tflite_micro", "install it")

    monkeypatch.setattr(module, "load_runtime", missing)
    a, b = LinearInt8("a", linear_bundle), LinearInt8("b", linear_bundle, above=-129)
    result = compared(linear_bundle, a, b, replace(CONFIG, max_steps=2), monkeypatch)
    assert [divergence.unlike_tflm for divergence in result.divergences] == [None] * 4


def hil_compare(bundle: Bundle, *options: str) -> Result:
    return CliRunner().invoke(cli.command, [str(bundle.path), *options], standalone_mode=False)


def test_the_command(ppo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    options = ("--closed-loop", "tflm,int8-reference", "--episodes", "3", "--steps", "60")
    result = hil_compare(ppo_bundle, *options, "--json")
    assert result.exit_code == 0, result.exception
    document = json.loads(result.stdout)
    assert (document["a"], document["b"], document["seeds"]) == ("tflm", "int8-reference", [10_001, 10_002, 10_003])
    assert {"divergences", "diverged", "success", "metrics", "differs", "method", "verdict", "episodes_a"} <= set(document)
    assert document["divergences"], "the two round differently"
    keys = {*document, *document["divergences"][0], *document["success"], *document["metrics"][0]}
    assert keys <= set(re.findall(r"`(\w+)`", DOCS.read_text())), "every key is documented"
    assert all(divergence["unlike_tflm"] == "b" and abs(divergence["lsb"]) == 1.0 for divergence in document["divergences"])
    printed = hil_compare(ppo_bundle, *options)
    for text in ("Where answers first differ", "Same seeds without failure", "sign-flip", "action_rate"):
        assert text in printed.stdout


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--closed-loop", "tflm"], "takes two runtimes"),
        (["--closed-loop", "tflm,int9"], "takes two runtimes"),
        (["--closed-loop", "board,board"], "takes two runtimes"),
        (["--closed-loop", "tflm,torch", "--board", "native"], "belong to a board"),
        (["--closed-loop", "tflm,torch", "--samples", "5"], "--samples does not go with --closed-loop"),
        (["--episodes", "5"], "belong to --closed-loop"),
    ],
)
def test_bad_arguments(ppo_bundle: Bundle, options: list[str], text: str) -> None:
    result = hil_compare(ppo_bundle, *options)
    assert isinstance(result.exception, UsageError)
    assert text in str(result.exception)
