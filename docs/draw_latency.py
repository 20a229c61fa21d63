"""Draws docs/pictures/pico-latency.webp: ``python docs/draw_latency.py``, which runs ``hil run ppo --board pico`` on both clocks.

Every control step's latency, from the observation's first byte to the action's last, by the chip's time and by this computer's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from balance_hil.bundle import Bundle
from balance_hil.protocol import messages
from balance_hil.protocol.codec import encode
from balance_hil.recording import read_recording

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "pico-latency.webp"
CLOCKS = {"device": ("on the chip's clock (--clock device)", "#0b7285"), "realtime": ("on this computer's clock", "#e8590c")}
BAUD, BITS_PER_BYTE = 921_600, 10
PARTS = (
    ("request on the wire", "#74c0fc"),
    ("inference", "#0b7285"),
    ("firmware", "#96f2d7"),
    ("reply on the wire", "#a5d8ff"),
)


def main() -> None:
    """Runs both and draws."""
    with tempfile.TemporaryDirectory() as folder:
        steps = {clock: _run(clock, Path(folder) / f"{clock}.mcap") for clock in CLOCKS}
    figure = Figure(figsize=(9, 4.2), layout="constrained", facecolor="white")
    trace, parts = figure.subplots(2, 1, height_ratios=[3, 1])
    for clock, (label, color) in reversed(CLOCKS.items()):
        latency_ms = steps[clock][0] / 1000
        spread = f"{np.nanmedian(latency_ms):.2f} ms at the median, {np.nanmax(latency_ms):.2f} at most"
        trace.plot(np.arange(len(latency_ms)) * 0.005, latency_ms, ".", ms=3, color=color, label=f"{label}: {spread}")
    trace.axhline(5, color="#868e96", lw=1, ls="--")
    trace.text(10.05, 5, "control\nperiod", va="center", color="#495057", fontsize=8)
    trace.set(
        yscale="log",
        xlim=(0, 10),
        xlabel="simulated time, s",
        ylabel="latency, ms",
        title="hil run ppo --board pico: latency of each step",
    )
    trace.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"], minor=False)
    trace.minorticks_off()
    trace.legend(loc="upper left", fontsize=8, markerscale=3)
    start_us = 0.0
    for (name, color), us in zip(PARTS, _parts(*steps["device"]), strict=True):
        parts.barh(0, us, left=start_us, color=color, edgecolor="white")
        parts.text(
            start_us + us / 2,
            0,
            f"{name}\n{us:.0f} µs",
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if color == "#0b7285" else "black",
        )
        start_us += us
    parts.set(yticks=[], xlim=(0, start_us), xlabel="µs on the chip's clock, at the median", ylim=(-0.5, 0.5))
    figure.savefig(PICTURE, dpi=110, pil_kwargs={"quality": 85})


def _run(clock: str, recording: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Round trips and inference times, µs; NaN of a step whose reply was late."""
    command = [sys.executable, "-m", "balance_hil", "run", "ppo", "--board", "pico", "--clock", clock, "--seconds", "10"]
    done = subprocess.run([*command, "--record", str(recording)], cwd=ROOT, check=False)
    if done.returncode not in (0, 1):
        sys.exit(done.returncode)
    read = read_recording(recording)
    return np.asarray(read.round_trip_us, np.float64), np.asarray(read.inference_us, np.float64)


def _parts(round_trip_us: NDArray[np.float64], inference_us: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Of the median round trip, µs: bytes of the request, inference, the rest, bytes of the reply."""
    spec = Bundle.load(ROOT / "models" / "ppo").spec
    observation, action = np.zeros(spec.n_obs, np.float32), np.zeros(spec.n_act, np.float32)
    reply = messages.Action(0, np.zeros(spec.n_obs, np.int8), np.zeros(spec.n_act, np.int8), action, 0, 0)
    out, back = (len(encode(message, 1)) * BITS_PER_BYTE / BAUD * 1e6 for message in (messages.Infer(observation), reply))
    whole, inference = float(np.nanmedian(round_trip_us)), float(np.nanmedian(inference_us))
    return out, inference, whole - out - inference - back, back


if __name__ == "__main__":
    main()
