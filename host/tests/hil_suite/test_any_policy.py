"""The HIL suite, text line included, with policies that are not the balance robot's."""

from __future__ import annotations

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

from ..suite import outcomes

WITHOUT_A_ROBOT = "hil_tests/test_episodes.py"  # a bundle of random weights has no environment
# The native board compares 20,000 and more: the engine has the same sources there.
FEWER = {"qemu-m4": ["--hil-inputs=500"]}
WIDE = Normalization(np.linspace(-5, 5, 24), np.geomspace(1e-3, 1e3, 24), 10.0)
POLICIES = {"normalized-24-4": (24, 4, WIDE), "24-4": (24, 4, None), "1-1": (1, 1, None)}
ON_BOARDS = [
    pytest.param("native", ("normalized-24-4",), id="native"),
    pytest.param("native", ("24-4", "1-1"), id="native-others", marks=pytest.mark.slow),
    pytest.param("qemu-m4", ("normalized-24-4",), id="qemu-m4", marks=pytest.mark.slow),
    pytest.param("qemu-m4", ("24-4", "1-1"), id="qemu-m4-others", marks=pytest.mark.nightly),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("board", "policies"), ON_BOARDS)
def test_the_whole_suite_passes(board: str, policies: tuple[str, ...], tmp_path: Path) -> None:
    try:
        check_installation(find_definition(board))
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    bundles = []
    for policy in policies:
        n_obs, n_act, normalization = POLICIES[policy]
        bundles.append(str(synthetic_bundle(tmp_path / policy, n_obs, n_act, normalization=normalization).path))
    options = [f"--hil-board={board}", f"--hil-bundle={','.join(bundles)}", "--hil-engine=int8", *FEWER.get(board, [])]
    found, printed = outcomes(tmp_path / "out.xml", "hil_tests", f"--ignore={WITHOUT_A_ROBOT}", *options)
    assert len(found) > 100 * len(policies)
    assert "failed" not in found.values(), printed[-5000:]
    assert "skipped" not in found.values() or board == "native"


@pytest.fixture(scope="module")
def of_types(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    """How the tests ended on the native board with a policy of each other element type."""
    folder = tmp_path_factory.mktemp("types")
    models = {
        INT16X8.name: actor((24, 16, 4), "RELU", per_channel=True, seed=0, element=INT16X8),
        FLOAT32.name: Bundle.load("ppo").file(FLOAT_MODEL).read_bytes(),
    }
    made = ",".join(str(bundle_of_model(folder / name, model).path) for name, model in models.items())
    options = ["--hil-board=native", f"--hil-bundle={made}", "--hil-engine=tflm", "--hil-inputs=2000"]
    return outcomes(folder / "out.xml", "hil_tests", f"--ignore={WITHOUT_A_ROBOT}", *options)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", [INT16X8, FLOAT32], ids=lambda kind: kind.name)
def test_the_whole_suite_passes_with_other_element_types(of_types: tuple[dict[str, str], str], kind: ElementType) -> None:
    found, printed = of_types
    mine = [outcome for name, outcome in found.items() if f"[native-{kind.name}" in name]
    assert len(mine) > 100
    assert "failed" not in mine, printed[-5000:]
