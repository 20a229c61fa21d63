"""Every parser survives damaged input: no error outside the family, no crash, at most 256 MiB and 5 s, whatever arrives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..installed import require_installed
from .parsers import PARSERS, bombs

PROGRAM = Path(__file__).with_name("parsers.py")


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_damaged_input(name, tmp_path, faults, tell):
    for package in {
        "checkpoint_zip": ["torch"],
        "pickles": ["stable_baselines3"],
        "onnx": ["onnx", "onnxruntime"],
        "keras_h5": ["h5py"],
    }.get(name, []):
        require_installed(package)
    first, last, found = -len(bombs(name)), max(1, round((2 if faults >= 1000 else 0.3) * faults)), []
    while first < last:
        (tmp_path / str(first)).mkdir()
        command = [sys.executable, PROGRAM, name, tmp_path / str(first), str(first), str(last)]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        found += [line for line in lines if "fault" in line]
        if done.returncode == 0 and lines and "inputs" in lines[-1]:
            break
        assert (tmp_path / str(first) / "at").is_file(), done.stderr
        number = int((tmp_path / str(first) / "at").read_text())
        found.append({"parser": name, "input": number, "fault": f"exit status {done.returncode}: {done.stderr[-300:]}"})
        first = number + 1
    assert not found, "\n".join(f"{line['parser']} {line['input']}: {line['fault']}" for line in found[:20])
    all_of_it = lines[-1]  # where nothing was found, in one process
    tell(all_of_it["inputs"], f"inputs, at most {all_of_it['slowest_s']:.2f} s and {all_of_it['grown_mib']:.0f} MiB")
