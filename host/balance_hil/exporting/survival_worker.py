"""Episodes of one stage in a process of its own: ``python -m balance_hil.exporting.survival_worker``.

stdin takes one JSON line; stdout gives JSON lines: ``{"progress": 0..1}`` while it runs and ``{"episodes": [...]}`` at the end.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from balance_hil.environment import open_environment
from balance_hil.metrics import EpisodeMetrics
from balance_hil.rollout import RolloutStep, rollout
from balance_hil.runtimes.base import Runtime

_PROGRESS_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class SurvivalRequest:
    """Which policy file to run on which runtime, and in which episodes."""

    runtime: str  # "torch", "onnx", "float32" or "tflm"
    model: str
    trust: bool
    environment: str
    seeds: list[int]
    max_steps: int

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self)) + "\n"


def load_stage(runtime: str, model: Path, *, trust: bool = False) -> Runtime:
    """The runtime for a policy file that is not in a finished bundle yet."""
    if runtime == "torch":
        from balance_hil.runtimes.torch import TorchRuntime

        return TorchRuntime.from_checkpoint(model, trust=trust)
    if runtime == "onnx":
        from balance_hil.runtimes.onnx import OnnxRuntime

        return OnnxRuntime(model.read_bytes())
    if runtime == "float32":
        from balance_hil.runtimes.tflite import TfliteFloatRuntime

        return TfliteFloatRuntime(model.read_bytes())
    from balance_hil.runtimes.tflm import TflmRuntime

    return TflmRuntime(model.read_bytes())


def run_episodes(request: SurvivalRequest) -> list[EpisodeMetrics]:
    """Runs the episodes, reporting progress on stdout."""

    def report(step: RolloutStep) -> None:
        if step.step % _PROGRESS_STEPS == 0:
            _say({"progress": step.step / request.max_steps})

    with (
        load_stage(request.runtime, Path(request.model), trust=request.trust) as runtime,
        open_environment(request.environment) as env,
    ):
        # One thread: the stages already run side by side.
        return rollout(runtime.act_batch, env, request.seeds, max_steps=request.max_steps, on_step=report, n_threads=1)


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    line = sys.stdin.readline()
    if line:
        _say({"episodes": [asdict(episode) for episode in run_episodes(SurvivalRequest(**json.loads(line)))]})
