"""Loads a policy, runs it on a board, compares it with the desktop: python examples/compare_a_board.py [BUNDLE] [BOARD]."""

import sys

import numpy as np

import balance_hil as hil

folder, name = (*sys.argv[1:], "models/ppo", "native")[:2] if len(sys.argv) < 3 else sys.argv[1:3]
bundle = hil.Bundle.load(folder)
observation = np.zeros(bundle.spec.n_obs, np.float32)

with hil.connect(name, bundle) as board, hil.runtime("tflm", bundle) as desktop:
    reply = board.infer(observation)
    print(f"{name}: {reply.action} in {reply.inference_us} us; desktop: {desktop.act(observation)}")
    result = hil.compare(bundle, board=board)
print(result.verdict.line)
sys.exit(0 if result.verdict.good else 1)
