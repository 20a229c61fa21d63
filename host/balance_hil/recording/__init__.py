"""A recording: one run in one MCAP file that Foxglove and PlotJuggler open directly.

    /step      one message per control step: observation, int8 in and out, action, plant, timings
    /fault     when it occurred: lost and late replies, reboots, damaged frames, stalls of the host
    /episode   one message per episode: seed, steps, survived, metrics
    metadata   "run": bundle, board and settings; "end": how the run ended

Messages are JSON with a JSON Schema each. A lockstep recording is stamped with simulated time and carries no timing, so that the
same seed, bundle and board give the same bytes. A realtime recording carries timings; it is stamped with the wall clock at the
start plus simulated time.
"""

from __future__ import annotations

from balance_hil.recording.format import Step
from balance_hil.recording.reader import Recording, read_recording
from balance_hil.recording.writer import RecordingWriter

__all__ = ["Recording", "RecordingWriter", "Step", "read_recording"]
