"""A signal at a random time ends any command within a second: ports closed, board safe, no process, folder or descriptor left."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("signals.py")
SIDE_BY_SIDE = 4  # commands wait for their signal most of the time


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and emulated boards")
def test_commands_that_are_ended_by_signals(tmp_path, faults, tell):
    pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")
    parts = [8] if faults < 1000 else [faults // SIDE_BY_SIDE] * SIDE_BY_SIDE
    for part in range(len(parts)):
        (tmp_path / str(part)).mkdir()
    programs = [
        subprocess.Popen(
            [sys.executable, PROGRAM, tmp_path / str(part), str(count), str(part + 1)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for part, count in enumerate(parts)
    ]
    for program, count in zip(programs, parts, strict=True):
        said, errors = program.communicate()
        assert program.returncode == 0, errors[-3000:]
        assert said.splitlines()[-1].startswith(f"ended {count}, "), said[-3000:]
        assert len(said.splitlines()) == 1, said[:3000]
        tell(count, said.strip().replace(f"ended {count}, ", "commands, "))
