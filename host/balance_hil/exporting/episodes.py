"""Episodes of each stage of an export, each in a child process: ``python -m balance_hil.exporting.episodes``.

The child's stdin takes one JSON line; its stdout gives JSON lines: ``{"progress": 0..1}`` while it runs and ``{"episodes": [...],
"saturated": [...]}`` at the end.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from balance_hil.environment import open_environment
from balance_hil.errors import ExportError
from balance_hil.exporting.tensorflow_worker import answers_apart
from balance_hil.metrics import EpisodeMetrics
from balance_hil.processes import tied
from balance_hil.quantize import FLOAT32, Normalization
from balance_hil.rollout import RolloutStep, rollout
from balance_hil.runtimes.base import ModelRuntime, Runtime
from balance_hil.spec import Terminated

_SIDE_BY_SIDE = 2  # the machine that this has to be quick on has two cores
_LOG_CHARACTERS = 800
_PROGRESS_STEPS = 200
_ANSWERS = sys.stdout


@dataclass(frozen=True, kw_only=True)
class EpisodesRequest:
    """Which policy file to run on which runtime, and in which episodes."""

    runtime: str  # "torch", "onnx", "float32" or "tflm"
    model: str
    normalization: Mapping[str, Any] | None
    trust: bool
    environment: str
    options: Mapping[str, Any]
    period_s: float | None
    terminated: Terminated
    seeds: list[int]
    max_steps: int


@dataclass(frozen=True)
class StageEpisodes:
    """Episodes of one stage, and for a quantized stage the share of steps in which each input left the range of raw values."""

    episodes: list[EpisodeMetrics]
    saturated: list[float]


class EpisodeRuns:
    """Runs the episodes of stages in the background. Use it as a context manager: leaving it ends whatever still runs."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._pool = ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="episodes")
        self._children: list[subprocess.Popen[str]] = []
        self._closing = False

    def submit(self, request: EpisodesRequest, progress: Callable[[float], None]) -> Future[StageEpisodes]:
        """Starts them as soon as a core is free. The future raises ExportError when the child fails."""
        return self._pool.submit(self._run, request, progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._closing = True
        for child in list(self._children):
            child.kill()
        self._pool.shutdown(cancel_futures=True)

    def _run(self, request: EpisodesRequest, progress: Callable[[float], None]) -> StageEpisodes:
        command = [sys.executable, "-m", "balance_hil.exporting.episodes"]
        with (
            self._log.open("a") as sink,
            subprocess.Popen(tied(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True) as child,
        ):
            self._children.append(child)
            if self._closing:
                child.kill()
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended already; the loop below reads how
                child.stdin.write(json.dumps(asdict(request)) + "\n")
                child.stdin.close()
            for line in child.stdout:
                message = json.loads(line)
                if "episodes" in message:
                    return StageEpisodes([EpisodeMetrics(**episode) for episode in message["episodes"]], message["saturated"])
                progress(message["progress"])
        last = self._log.read_text(errors="replace").strip()[-_LOG_CHARACTERS:]
        raise ExportError(f"the episodes of the {request.runtime} policy failed:\n{last}", "check the installation: hil doctor")


def load_stage(runtime: str, model: Path, normalization: Normalization | None = None, *, trust: bool = False) -> Runtime:
    """The runtime for a policy file that is not in a finished bundle yet."""
    loaded: Runtime
    if runtime == "torch":
        from balance_hil.checkpoint import read_checkpoint
        from balance_hil.runtimes.torch import TorchRuntime

        loaded = TorchRuntime(read_checkpoint(model, trust=trust))
    elif runtime == "onnx":
        from balance_hil.runtimes.onnx import OnnxRuntime

        loaded = OnnxRuntime(model.read_bytes())
    elif runtime == "float32":
        from balance_hil.runtimes.tflite import TfliteFloatRuntime

        loaded = TfliteFloatRuntime(model.read_bytes())
    else:
        from balance_hil.runtimes.tflm import TflmRuntime

        loaded = TflmRuntime(model.read_bytes())
    loaded.normalization = normalization
    return loaded


def run_episodes(request: EpisodesRequest) -> StageEpisodes:
    """Runs the episodes, reporting progress on stdout."""
    normalization = Normalization.from_dict(request.normalization) if request.normalization else None
    with (
        load_stage(request.runtime, Path(request.model), normalization, trust=request.trust) as runtime,
        open_environment(request.environment, request.options, period_s=request.period_s, terminated=request.terminated) as env,
    ):
        beyond, rows = np.zeros(runtime.n_obs), 0

        def report(step: RolloutStep) -> None:
            nonlocal rows
            if isinstance(runtime, ModelRuntime) and runtime.input_quant.kind != FLOAT32:
                quant = runtime.input_quant
                codes = runtime.normalized(step.observations).astype(np.float64) / quant.scale + quant.zero_point
                beyond[:] += np.sum((codes > quant.kind.high + 0.5) | (codes < quant.kind.low - 0.5), axis=0)
                rows += len(codes)
            if step.step % _PROGRESS_STEPS == 0:
                _say({"progress": step.step / request.max_steps})

        # One thread: the stages already run side by side.
        episodes = rollout(runtime.act_batch, env, request.seeds, max_steps=request.max_steps, on_step=report, n_threads=1)
    return StageEpisodes(episodes, (beyond / rows).tolist() if rows else [])


def _say(message: dict[str, object]) -> None:
    _ANSWERS.write(json.dumps(message) + "\n")
    _ANSWERS.flush()


if __name__ == "__main__":
    _ANSWERS = answers_apart()
    line = sys.stdin.readline()
    if line:
        _say(asdict(run_episodes(EpisodesRequest(**json.loads(line)))))
