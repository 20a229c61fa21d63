"""Training: ``train`` runs one algorithm on one environment and writes ``policy.zip`` and ``training.json``."""

from __future__ import annotations

import os
from collections.abc import Callable

from balance_hil.checkpoint import keep_tensorflow_out
from balance_hil.files import new_run_folder
from balance_hil.paths import CACHE
from balance_hil.training.algorithms import ALGORITHMS, algorithm_for
from balance_hil.training.plan import open_requested, plan
from balance_hil.training.request import TrainingProgress, TrainingRequest, TrainingResult


def train(request: TrainingRequest, on_progress: Callable[[TrainingProgress], None] | None = None) -> TrainingResult:
    """Trains a policy and writes it to ``request.output``.

    Ctrl-C (or SIGTERM) ends the training after the running step; the result then has the path of the checkpoint.

    Raises:
        TrainingError: an observation or a weight is no longer finite; the latest checkpoint is from before that.
        And everything that ``plan`` raises.
    """
    report = on_progress or (lambda progress: None)
    if request.algorithm not in ALGORITHMS:  # computed, not learned
        with open_requested(request) as environment:
            designs = getattr(environment.env.unwrapped, "policy_designs", ())
            if request.algorithm not in designs:
                algorithm_for(request.algorithm, designs)
            from balance_hil.training.designed import design

            return design(request, environment, report)
    checked = plan(request)
    report(TrainingProgress(phase="starting", steps=checked.record.steps, total_steps=checked.config.steps))
    keep_tensorflow_out()
    # Else PyTorch leaves a folder among the temporary files.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE / "torch"))
    from balance_hil.training.session import TrainingSession

    return TrainingSession(checked, new_run_folder(request.runs, request.output.name or request.algorithm), report).run()
