"""The HIL suite, text line included, with policies that are not the balance robot's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from balance_hil.boards import find_definition
from balance_hil.boards.kinds.machines import check_installation
from balance_hil.bundle import FLOAT_MODEL, Bundle
from balance_hil.errors import HarnessError
from balance_hil.quantize import FLOAT32, INT16X8, ElementType, Normalization
from balance_hil.testing.synthetic_bundle import bundle_of_model, synthetic_bundle
from balance_hil.testing.synthetic_models import actor

REPOSITORY = Path(__file__).parents[3]
WITHOUT_A_ROBOT = "hil_tests/test_episodes.py"  # a bundle of random weights has no environment
# The native board compares 20,000 and more: the engine has the same sources there.
FEWER = {"qemu-m4": ["--hil-inputs=500"]}
WIDE = Normalization(np.linspace(-5, 5, 24), np.geomspace(1e-3, 1e3, 24), 10.0)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("board", ["native", "qemu-m4"])
@pytest.mark.parametrize(
    ("n_obs", "n_act", "normalization"), [(24, 4, WIDE), (24, 4, None), (1, 1, None)], ids=["24-4-normalized", "24-4", "1-1"]
)
def test_the_whole_suite_passes(tmp_path: Path, board: str, n_obs: int, n_act: int, normalization: Normalization | None) -> None:
    try:
        check_installation(find_definition(board))
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    bundle = synthetic_bundle(tmp_path / "policy", n_obs, n_act, normalization=normalization)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "hil_tests", f"--ignore={WITHOUT_A_ROBOT}"]
    command += [f"--hil-board={board}", f"--hil-bundle={bundle.path}", "--hil-engine=int8"]
    command += FEWER.get(board, [])
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "skipped" not in done.stdout.splitlines()[-1] or board == "native"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", [INT16X8, FLOAT32], ids=lambda kind: kind.name)
def test_the_whole_suite_passes_with_other_element_types(tmp_path: Path, kind: ElementType) -> None:
    if kind == FLOAT32:
        model = Bundle.load("ppo").file(FLOAT_MODEL).read_bytes()
    else:
        model = actor((24, 16, 4), "RELU", per_channel=True, seed=0, element=kind)
    bundle = bundle_of_model(tmp_path / "policy", model)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "hil_tests", f"--ignore={WITHOUT_A_ROBOT}"]
    command += ["--hil-board=native", f"--hil-bundle={bundle.path}", "--hil-engine=tflm", "--hil-inputs=2000"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
