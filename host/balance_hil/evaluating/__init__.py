"""Evaluate: how often a policy keeps the robot up, on any runtime or on a board, watched or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from balance_hil.bundle import MANIFEST, POLICY, TRAINING, Bundle
from balance_hil.envs import balance as envs
from balance_hil.envs.balance.env import BalanceEnv
from balance_hil.envs.balance.options import RobotOptions
from balance_hil.errors import EnvironmentMismatchError, HarnessError, UsageError, require
from balance_hil.metrics import EpisodeAccumulator, EpisodeMetrics
from balance_hil.rollout import RolloutStep, rollout
from balance_hil.runtimes import RUNTIME_NAMES, load_runtime
from balance_hil.runtimes.base import Runtime
from balance_hil.spec import PolicySpec

BOARD_RUNTIME = "board"
RUNTIMES = (*RUNTIME_NAMES, BOARD_RUNTIME)
DEFAULT_ENVIRONMENT = "balance/Balance-v0"
VIDEO_FRAMES_PER_S = 25

StepCallback = Callable[[RolloutStep], None]


@dataclass(frozen=True)
class OpenPolicy:
    """A policy that is ready to act, and the environment that it runs on."""

    runtime: Runtime
    environment: str
    bundle_id: str  # "" for a checkpoint that was not exported
    options: RobotOptions | None = None  # None: the environment's own


@contextmanager
def open_policy(
    path: Path,
    runtime: str,
    *,
    environment: str | None = None,
    options: RobotOptions | None = None,
    board: str = "native",
    port: str | None = None,
    trust: bool = False,
) -> Iterator[OpenPolicy]:
    """Opens a policy on a runtime, or on a board that is connected for as long as the ``with`` block runs.

    Args:
        path: bundle folder. The runtime ``torch`` also takes a folder with nothing but a checkpoint, or the checkpoint itself.
        runtime: one of RUNTIMES.
        environment: what to run on; None takes the environment that the policy was made for.
        options: how the robot differs from the ideal one; None takes the environment's own.
        board: for the runtime ``board``: name of a board definition.
        port: for the runtime ``board``: device or URL.
        trust: for a checkpoint that was not exported: it may run pickled code.

    Raises:
        EnvironmentMismatchError: the signals of the environment are not those that the policy was made for.
        BundleError, CheckpointError, UsageError, MissingExtraError, and what ``boards.connect`` raises.
    """
    if runtime == "torch" and not (path / MANIFEST).is_file():
        yield replace(_open_checkpoint(path, environment, trust), options=options)
        return
    bundle = Bundle.load(path)
    chosen = environment or bundle.spec.environment
    envs.require_same_signals(bundle.spec, chosen)  # before a board is started
    if runtime == BOARD_RUNTIME:
        from balance_hil.boards import connect

        with connect(board, bundle, port=port) as connected:
            yield OpenPolicy(connected.as_runtime(), chosen, bundle.id, options)
    else:
        with load_runtime(runtime, bundle) as loaded:
            yield OpenPolicy(loaded, chosen, bundle.id, options)


def evaluate(
    policy: OpenPolicy, seeds: Sequence[int], *, max_steps: int | None = None, on_step: StepCallback | None = None
) -> list[EpisodeMetrics]:
    """Runs one episode per seed, all side by side. Raises what the runtime and ``rollout`` raise."""
    return rollout(
        policy.runtime.act_batch, policy.environment, seeds, max_steps=max_steps, on_step=on_step, options=policy.options
    )


def watch(
    policy: OpenPolicy, seeds: Sequence[int], *, max_steps: int | None = None, on_step: StepCallback | None = None
) -> list[EpisodeMetrics]:
    """Runs the episodes one after the other in MuJoCo's viewer, at real speed. Raises DisplayMissingError."""
    return _one_by_one(policy, seeds, max_steps, on_step, render_mode="human")


def film(
    policy: OpenPolicy, seeds: Sequence[int], path: Path, *, max_steps: int | None = None, on_step: StepCallback | None = None
) -> list[EpisodeMetrics]:
    """Runs the episodes one after the other and writes them as one film of 25 frames per second, without a display.

    The file appears when it is complete.

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
    partial = path.with_name(f".{path.stem}.part.mp4")
    try:
        with imageio.get_writer(partial, fps=VIDEO_FRAMES_PER_S, macro_block_size=1, quality=7) as writer:
            episodes = _one_by_one(policy, seeds, max_steps, on_step, render_mode="rgb_array", on_frame=writer.append_data)
        partial.replace(path)
    except OSError as exc:
        if isinstance(exc, HarnessError):  # a board's errors are OSErrors, too
            raise
        raise UsageError(f"the film {path} cannot be written: {exc}", "choose another file: --video FILE.mp4") from exc
    finally:
        partial.unlink(missing_ok=True)
    return episodes


def _one_by_one(
    policy: OpenPolicy,
    seeds: Sequence[int],
    max_steps: int | None,
    on_step: StepCallback | None,
    *,
    render_mode: str,
    on_frame: Callable[[NDArray[np.uint8]], None] | None = None,
) -> list[EpisodeMetrics]:
    env = cast(BalanceEnv, envs.make(policy.environment, render_mode=render_mode, options=policy.options).unwrapped)
    steps_per_frame = round(1.0 / (VIDEO_FRAMES_PER_S * env.control_period_s))
    episodes = []
    try:
        for index, seed in enumerate(seeds):
            accumulator, fallen = EpisodeAccumulator(seed), False
            observation, _ = env.reset(seed=seed)
            for step in range(max_steps or envs.EPISODE_STEPS):
                action = np.clip(policy.runtime.act(observation), -1.0, 1.0)
                if on_step is not None:
                    on_step(RolloutStep(step, [index], observation[np.newaxis, :], action[np.newaxis, :]))
                observation, _, fallen, _, info = env.step(action)
                accumulator.add(action, info)
                if on_frame is not None and step % steps_per_frame == 0:
                    frame = env.render()
                    assert frame is not None
                    on_frame(frame)
                if fallen:
                    break
            episodes.append(accumulator.finish(not fallen))
    finally:
        env.close()
    return episodes


def _open_checkpoint(path: Path, environment: str | None, trust: bool) -> OpenPolicy:
    from balance_hil.runtimes.torch import TorchRuntime

    checkpoint = path / POLICY if path.is_dir() else path
    trained_for = _training_spec(checkpoint.parent / TRAINING)
    chosen = environment or (trained_for.environment if trained_for else DEFAULT_ENVIRONMENT)
    if trained_for is not None:
        envs.require_same_signals(trained_for, chosen)
    spec = envs.spec_for(chosen)
    runtime = TorchRuntime.from_checkpoint(checkpoint, trust=trust)
    if (runtime.n_obs, runtime.n_act) != (spec.n_obs, spec.n_act):
        raise EnvironmentMismatchError(
            f"the policy takes {runtime.n_obs} observations and gives {runtime.n_act} actions, {chosen} has {spec.n_obs} and "
            f"{spec.n_act}",
            "name the environment that it was trained in: -e ENVIRONMENT",
        )
    return OpenPolicy(runtime, chosen, "")


def _training_spec(path: Path) -> PolicySpec | None:
    try:
        return PolicySpec.from_dict(json.loads(path.read_text())["spec"])
    except (OSError, ValueError, KeyError, TypeError):  # none there, or not ours: the environment is then the caller's choice
        return None
