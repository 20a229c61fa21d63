"""Draws docs/pictures/run.webp, the animation of the README: ``python docs/draw_animation.py``.

models/ppo on the emulated Raspberry Pi Pico is the controller; blocks are thrown at the robot. The seed is fixed.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import gymnasium
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import balance_hil  # noqa: F401  # registers the environments
from balance_hil.boards import connect
from balance_hil.bundle import Bundle
from balance_hil.runtimes import load_runtime

ROOT = Path(__file__).parents[1]
SEED, STEPS, STEPS_PER_FRAME = 5, 1200, 16
DPI = 100


def main() -> None:
    """Runs one episode and writes the animation."""
    bundle = Bundle.load(ROOT / "models" / "ppo")
    env = gymnasium.make("balance/BalanceBlocks-v0", render_mode="rgb_array", width=400, height=225)
    tflm = load_runtime("tflm", bundle)
    observation, _ = env.reset(seed=SEED)
    pitches, actions, frames, equal = [], [], [], 0
    with connect("pico", bundle) as board:
        for step in range(STEPS):
            reply = board.infer(observation)
            equal += np.array_equal(reply.output, tflm.infer_raw_batch(reply.input[np.newaxis])[0])
            observation, _, terminated, _, info = env.step(reply.action)
            pitches.append(math.degrees(info["pitch_rad"]))
            actions.append(reply.action.tolist())
            if step % STEPS_PER_FRAME == 0:
                frames.append(
                    _frame(env.render(), pitches, actions, f"board equals TensorFlow Lite Micro: {equal} of {step + 1}")
                )
            if terminated:
                raise SystemExit(f"the robot fell at step {step}: choose another seed")
    env.close()
    period_ms = round(STEPS_PER_FRAME * 5)
    frames[0].save(
        ROOT / "docs" / "pictures" / "run.webp",
        save_all=True,
        append_images=frames[1:],
        duration=period_ms,
        loop=0,
        quality=25,
        method=6,
    )


def _frame(picture: np.ndarray, pitches: list[float], actions: list[list[float]], verdict: str) -> Image.Image:
    figure = Figure(figsize=(8, 2.25), dpi=DPI, facecolor="white")
    robot = figure.add_axes((0, 0, 0.5, 1))
    robot.imshow(picture)
    robot.axis("off")
    times = np.arange(len(pitches)) * 0.005
    for bottom, label, values, limit in ((0.58, "pitch (°)", pitches, 12), (0.16, "action", actions, 1)):
        axes = figure.add_axes((0.58, bottom, 0.4, 0.3))
        axes.plot(times, values, linewidth=1)
        axes.set(xlim=(0, STEPS * 0.005), ylim=(-limit, limit), ylabel=label)
        axes.tick_params(labelsize=7)
        axes.yaxis.label.set_size(8)
    axes.set_xlabel("time (s)", fontsize=7, labelpad=1)
    figure.text(0.58, 0.93, verdict, fontsize=8, color="green", weight="bold")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


if __name__ == "__main__":
    main()
