"""Fixtures that several areas share."""

from pathlib import Path

import pytest

from balance_hil.bundle import Bundle
from balance_hil.envs import spec_for
from balance_hil.quantize import QuantParams


@pytest.fixture
def linear_bundle():
    """A bundle without files, for boards that run ``linear_policy``: scales are powers of two, so INFO carries them exactly."""
    return Bundle(
        path=Path("models/linear"),
        id="0123456789ab",
        algorithm="linear",
        spec=spec_for("Env01-v1"),
        input_quant=QuantParams(1 / 128, 0),
        output_quant=QuantParams(1 / 128, 0),
    )
