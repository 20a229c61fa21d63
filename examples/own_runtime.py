"""A custom runtime in closed loop, next to TensorFlow Lite Micro: python examples/own_runtime.py [BUNDLE]."""

import sys

import numpy as np

import balance_hil as hil
from balance_hil.rollout import evaluation_seeds, rollout
from balance_hil.runtimes.base import Runtime


class Rounded(Runtime):
    """A policy whose outputs are rounded to 1/16, as for an actuator interface with fewer bits."""

    name = "rounded"

    def __init__(self, inner: Runtime) -> None:
        self.inner, self.n_obs, self.n_act = inner, inner.n_obs, inner.n_act

    def act_batch(self, observations):
        return np.round(self.inner.act_batch(observations) * 16) / 16


bundle = hil.Bundle.load(sys.argv[1] if len(sys.argv) > 1 else "models/ppo")
with hil.runtime("tflm", bundle) as tflm, hil.open_environment(bundle.spec.environment) as env:
    for runtime in (tflm, Rounded(tflm)):
        episodes = rollout(runtime.act_batch, env, evaluation_seeds(5), max_steps=1000)
        print(runtime.name, [f"{episode.metrics['return']:.1f}" for episode in episodes])
