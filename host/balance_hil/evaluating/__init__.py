"""Evaluate: episodes of a policy in simulation, on any runtime or on a board, with or without rendering."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from balance_hil import opening
from balance_hil.bundle import MANIFEST, TRAINING, Bundle
from balance_hil.environment import Environment, open_environment, open_for, require_control_steps
from balance_hil.envs import DEFAULT_ENVIRONMENT
from balance_hil.errors import HarnessError, UsageError, require
from balance_hil.files import parse_json, replacing
from balance_hil.metrics import EpisodeAccumulator, EpisodeMetrics
from balance_hil.rollout import RolloutStep, rollout
from balance_hil.runtimes import RUNTIME_NAMES, load_runtime
from balance_hil.runtimes.base import Runtime
from balance_hil.spec import PolicySpec

if TYPE_CHECKING:
    from balance_hil.boards import Board

BOARD_RUNTIME = "board"
RUNTIMES = (*RUNTIME_NAMES, BOARD_RUNTIME)
VIDEO_FRAMES_PER_S = 25

StepCallback = Callable[[RolloutStep], None]


@dataclass(frozen=True)
class OpenPolicy:
    """A policy that is ready to act, and the environment that it acts in."""

    runtime: Runtime
    environment: Environment
    bundle_id: str  # "" for a checkpoint that was not exported


@contextmanager
def open_policy(
    path: Path,
    runtime: str,
    *,
    environment: str | None = None,
    options: Mapping[str, Any] | None = None,
    connect: Callable[[Bundle], Board] | None = None,
    trust: bool = False,
    render_mode: str | None = None,
    spec: Path | None = None,
    output: str | None = None,
) -> Iterator[OpenPolicy]:
    """Opens a policy on a runtime, or on a board that is connected for as long as the ``with`` block runs.

    Args:
        path: bundle folder. The runtime ``torch`` also takes a folder with nothing but a checkpoint, or the checkpoint itself.
        runtime: one of RUNTIMES.
        environment: what to run in; None: the environment that the policy was made for.
        options: of the environment; see ``open_environment``.
        connect: for the runtime ``board``: opens the board with a bundle; None: ``boards.connect`` of the native one.
        trust: for a checkpoint that was not exported: it may run pickled code.
        render_mode: of the environment: "human" or "rgb_array" to watch or to film.
        spec: ``signals.yaml`` of a ``.tflite`` alone.
        output: which of its outputs is the action.

    Raises:
        EnvironmentMismatchError: the signals of the environment are not those that the policy was made for.
        BundleError, CheckpointError, UsageError, MissingExtraError, and what ``open_environment`` and ``boards.connect`` raise.
    """
    if runtime == "torch" and not (path / MANIFEST).is_file():
        with _checkpoint_environment(path, environment, options, render_mode) as env:
            yield OpenPolicy(_open_checkpoint(path, env, trust), env, "")
        return
    bundle = opening.open_policy(path, spec=spec, output=output, environment=environment, options=options)
    with open_for(bundle.spec, environment, options, render_mode=render_mode) as env:  # before a board is started
        if runtime == BOARD_RUNTIME:
            from balance_hil import boards

            with connect(bundle) if connect else boards.connect("native", bundle) as connected:
                yield OpenPolicy(connected.as_runtime(), env, bundle.id)
        else:
            with load_runtime(runtime, bundle) as loaded:
                yield OpenPolicy(loaded, env, bundle.id)


def evaluate(
    policy: OpenPolicy, seeds: Sequence[int], *, max_steps: int | None = None, on_step: StepCallback | None = None
) -> list[EpisodeMetrics]:
    """Runs one episode per seed, all side by side. Raises what the runtime and ``rollout`` raise."""
    return rollout(policy.runtime.act_batch, policy.environment, seeds, max_steps=max_steps, on_step=on_step)


def film(
    policy: OpenPolicy, seeds: Sequence[int], path: Path, *, max_steps: int | None = None, on_step: StepCallback | None = None
) -> list[EpisodeMetrics]:
    """Runs the episodes one after the other and writes them as one video of at most 25 frames per second, without a display.

    ``policy`` is opened with render mode "rgb_array". The file appears when it is complete.

    Raises:
        DisplayMissingError: no headless OpenGL.
        MissingExtraError: imageio or its ffmpeg is not installed.
        UsageError: the file cannot be written, or its name does not end in .mp4.
    """
    require("imageio", "video")
    require("imageio_ffmpeg", "video")
    import imageio

    if path.suffix != ".mp4":
        raise UsageError(f"{path} does not end in .mp4", "name the film so: --video run.mp4")
    if not path.parent.is_dir():
        raise UsageError(f"no such folder: {path.parent}", f"make it: mkdir -p {path.parent}")
    try:
        steps_per_frame = max(1, round(1.0 / (VIDEO_FRAMES_PER_S * policy.environment.spec.control_period_s)))
        fps = 1.0 / (steps_per_frame * policy.environment.spec.control_period_s)
        with replacing(path) as partial, imageio.get_writer(partial, fps=fps, macro_block_size=1, quality=7) as writer:

            def on_frame(frame: NDArray[np.uint8]) -> None:
                # Video needs even sizes.
                writer.append_data(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])

            episodes = watch(
                policy, seeds, max_steps=max_steps, on_step=on_step, on_frame=on_frame, steps_per_frame=steps_per_frame
            )
    except OSError as exc:
        if isinstance(exc, HarnessError):  # a board's errors are OSErrors, too
            raise
        raise UsageError(f"the film {path} cannot be written: {exc}", "choose another file: --video FILE.mp4") from exc
    return episodes


def watch(
    policy: OpenPolicy,
    seeds: Sequence[int],
    *,
    max_steps: int | None = None,
    on_step: StepCallback | None = None,
    on_frame: Callable[[NDArray[np.uint8]], None] | None = None,
    steps_per_frame: int = 1,
) -> list[EpisodeMetrics]:
    """Runs the episodes one after the other in a window; ``policy`` is opened with render mode "human"."""
    env = policy.environment
    limit = require_control_steps(env, max_steps)
    episodes = []
    for index, seed in enumerate(seeds):
        accumulator, failed = EpisodeAccumulator(seed, env.metrics), False
        observation = env.reset(seed)
        for step in range(limit):
            outputs = env.spec.clip(policy.runtime.act(observation))
            if on_step is not None:
                on_step(RolloutStep(step, [index], observation[np.newaxis, :], outputs[np.newaxis, :]))
            observation, reward, terminated, truncated, info = env.step(outputs)
            accumulator.add(outputs, reward, info)
            if step % steps_per_frame == 0 and (on_frame is not None or env.is_watched):
                frame = env.render()
                if on_frame is not None:
                    on_frame(frame)
            if terminated or truncated or step == limit - 1:
                failed = env.failed(terminated, truncated or step == limit - 1, info)
                break
        episodes.append(accumulator.finish(failed))
    return episodes


def _checkpoint_environment(
    path: Path, environment: str | None, options: Mapping[str, Any] | None, render_mode: str | None
) -> Environment:
    folder = path if path.is_dir() else path.parent
    try:
        trained_for = PolicySpec.from_dict(parse_json((folder / TRAINING).read_text())["spec"])
    except (OSError, ValueError, KeyError, TypeError):  # missing, or of another program
        return open_environment(environment or DEFAULT_ENVIRONMENT, options, render_mode=render_mode)
    return open_for(trained_for, environment, options, render_mode=render_mode)


def _open_checkpoint(path: Path, env: Environment, trust: bool) -> Runtime:
    from balance_hil.runtimes.torch import TorchRuntime

    runtime = TorchRuntime.from_checkpoint(path, trust=trust)
    runtime.actor.require_spaces(path, env.spec.environment, env.env)
    return runtime
