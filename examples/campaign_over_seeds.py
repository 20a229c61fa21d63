"""Runs many seeds on a board and prints one line per seed: python examples/campaign_over_seeds.py [BUNDLE] [BOARD] [EPISODES]."""

import sys

import balance_hil as hil
from balance_hil.rollout import evaluation_seeds

arguments = sys.argv[1:] + ["models/ppo", "native", "20"][len(sys.argv) - 1 :]
bundle = hil.Bundle.load(arguments[0])
with hil.connect(arguments[1], bundle) as board:
    config = hil.RunConfig(seeds=evaluation_seeds(int(arguments[2])), clock="lockstep")
    result = hil.run(board, bundle, config)
for episode in result.episodes:
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in episode.metrics.items())
    print(f"seed {episode.seed}: {'failed' if episode.failed else 'good'} after {episode.steps} steps; {numbers}")
print(result.verdict.line)
sys.exit(0 if result.verdict.good else 1)
