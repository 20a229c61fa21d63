from __future__ import annotations

import random

import pytest

from balance_hil.bundle import model_id

from .probe import Probe


@pytest.mark.parametrize("size", [1, 55, 56, 63, 64, 65, 119, 120, 128, 10_000])
def test_equals_the_bundle_id(probe: Probe, size: int) -> None:
    model = random.Random(size).randbytes(size)
    assert probe.ask("model_id", model.hex()) == [model_id(model)]


def test_no_model_has_no_id(probe: Probe) -> None:
    assert probe.ask("model_id") == [""]
