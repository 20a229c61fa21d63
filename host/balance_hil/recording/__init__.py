"""A recording: one run in one MCAP file that Foxglove and PlotJuggler open directly.

    /step      one message per control step: observation, raw input and output, action, plant, timings
    /fault     when it occurred: lost and late replies, reboots, damaged frames, stalls of the host
    /episode   one message per episode: seed, steps, survived, metrics
    /scene     the MuJoCo model of the plant without meshes: foxglove.SceneUpdate
    /tf        where its bodies are, at most 50 times a second: foxglove.FrameTransforms
    /log       faults, episodes and the verdict: foxglove.Log
    metadata   "run": bundle, board and settings; "end": how the run ended, its verdict
    attachment a Foxglove layout for these signals

Messages are JSON with a JSON Schema each. A lockstep recording is stamped with simulated time and carries no timing, so that the
same seed, bundle and board give the same bytes. A realtime recording carries timings; it is stamped with the wall clock at the
start plus simulated time.
"""

from __future__ import annotations

from balance_hil.recording.format import Step
from balance_hil.recording.reader import Recording, read_recording
from balance_hil.recording.writer import RecordingWriter

__all__ = ["Recording", "RecordingWriter", "Step", "read_recording"]
