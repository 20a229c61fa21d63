"""A recording is readable to the last flushed half second, whenever its program was killed or the disk was full."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("recordings.py")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="fork and RLIMIT_FSIZE")
def test_recordings_that_end_early(tmp_path, faults, tell):
    done = subprocess.run([sys.executable, PROGRAM, tmp_path, str(faults)], capture_output=True, text=True, check=True)
    assert done.stdout == f"ended {faults}\n", done.stdout[:2000]
    assert list(tmp_path.iterdir()) == []
    tell(faults, "recordings, half of them killed, half on a full disk: all readable")
