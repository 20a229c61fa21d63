"""What a user's shell does, in one process: each command would import the same again, and each export TensorFlow.

stdin takes JSON lines: the folder, ``hil`` or ``train``, and its arguments; stdout gives status, stdout and stderr of each.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import gymnasium as gym
from few_processes import EpisodesHere, KeptTensorFlow

from balance_hil.checkpoint import keep_tensorflow_out
from balance_hil.cli import main
from balance_hil.exporting import pipeline
from balance_hil.exporting.tensorflow_worker import answers_apart
from balance_hil.processes import end_with_parent


def train(environment: str, algorithm: str, steps: str) -> None:
    """With Stable-Baselines3, as its user would."""
    keep_tensorflow_out()  # before the import of stable_baselines3: saves seconds
    import stable_baselines3

    extra = {"learning_starts": 100} if algorithm == "SAC" else {"n_steps": 256, "learning_rate": 3e-3}
    kwargs = {"net_arch": [16, 16]}
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", gym.make(environment), policy_kwargs=kwargs, seed=0, **extra)
    model.learn(int(steps))
    model.save("best_model")


def hil(*words: str) -> None:
    sys.argv = ["hil", *words]
    main()


def serve() -> None:
    KeptTensorFlow.folder = Path.cwd()
    pipeline.TensorFlowProcess = KeptTensorFlow
    pipeline.EpisodeRuns = EpisodesHere
    with answers_apart() as answers:
        for line in sys.stdin:
            folder, command, *words = json.loads(line)
            os.chdir(folder)
            status, out, err = 0, io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    {"hil": hil, "train": train}[command](*words)
                except SystemExit as end:
                    status = end.code
            answers.write(json.dumps([status, out.getvalue(), err.getvalue()]) + "\n")
            answers.flush()
    KeptTensorFlow.end()


if __name__ == "__main__":
    end_with_parent()
    serve()
