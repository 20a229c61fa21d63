"""A signal at a random time ends any command within a second: ports closed, board safe, no process, folder or descriptor left."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("signals.py")
SIDE_BY_SIDE = 4  # commands wait for their signal most of the time


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc and emulated boards")
def test_commands_that_are_ended_by_signals(tmp_path, faults, tell):
    pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")
    parts = [8] if faults < 1000 else [faults // SIDE_BY_SIDE] * SIDE_BY_SIDE
    programs, wrong = [], []
    for part, count in enumerate(parts):
        (tmp_path / str(part)).mkdir()
        output, errors = ((tmp_path / f"{part}.{name}").open("w") for name in ("out", "err"))
        with output, errors:
            command = [sys.executable, PROGRAM, tmp_path / str(part), str(count), str(part + 1)]
            programs.append(subprocess.Popen(command, stdout=output, stderr=errors))
    for part, (program, count) in enumerate(zip(programs, parts, strict=True)):
        status = program.wait()
        *cases, last = ["", *(tmp_path / f"{part}.out").read_text().splitlines()]
        if status or not last.startswith(f"ended {count}, "):
            cases += [last, f"the program ended with exit status {status}", (tmp_path / f"{part}.err").read_text()[-3000:]]
        else:
            tell(count, last.replace(f"ended {count}, ", "commands, "))
        if any(cases):
            wrong.append(f"program {part + 1} of {len(parts)}:" + "\n".join(cases))
    if wrong:
        pytest.fail("\n\n".join(wrong), pytrace=False)
