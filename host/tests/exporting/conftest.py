import shutil
from pathlib import Path

import numpy as np
import pytest

from balance_hil.bundle import FLOAT_MODEL
from balance_hil.checkpoint import Actor, Layer
from balance_hil.exporting import calibration, pipeline
from balance_hil.spec import ActionMap

from ..few_processes import EpisodesHere, KeptTensorFlow

FEW_ROWS = 100


@pytest.fixture
def contents():
    """Every file below a folder with its bytes; hidden ones too."""

    def read(folder: Path):
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    return read


@pytest.fixture
def make_actor():
    """An actor of random weights: ``make_actor(activation, bound, layers)``."""

    def make(activation="relu", bound="clip", layers=(6, 8, 8, 2)):
        rng = np.random.default_rng(0)
        shapes = list(zip(layers[1:], layers[:-1], strict=True))
        kinds = [activation] * (len(shapes) - 1) + [bound]
        ones = np.ones(layers[-1], np.float32)
        return Actor(
            algorithm="ppo",
            layers=tuple(
                Layer(rng.normal(0, 1, shape).astype(np.float32), rng.normal(0, 1, shape[0]).astype(np.float32), kind)
                for shape, kind in zip(shapes, kinds, strict=True)
            ),
            action_map=ActionMap.of_box(-ones, ones),
        )

    return make


@pytest.fixture
def episodes_here(monkeypatch):
    """Exports run the episodes of their stages in this process: four more would import the same again."""
    monkeypatch.setattr(pipeline, "EpisodeRuns", EpisodesHere)


@pytest.fixture(scope="session")
def tensorflow_process(tmp_path_factory):
    """In the place of ``TensorFlowProcess``: one for all."""
    KeptTensorFlow.folder = tmp_path_factory.mktemp("tensorflow")
    yield KeptTensorFlow
    KeptTensorFlow.end()


@pytest.fixture
def in_few_processes(monkeypatch, tensorflow_process, episodes_here):
    """A whole export in this process and the one TensorFlow."""
    monkeypatch.setattr(pipeline, "TensorFlowProcess", tensorflow_process)


@pytest.fixture
def converted(monkeypatch):
    """Puts finished TFLite models in the place of the conversion: ``converted(float_from=bundle, int8_from=bundle)``."""

    def install(*, float_from, int8_from):
        class Converted:
            def __init__(self, log):
                pass

            def start(self, task, **request):
                models = request["models"]
                shutil.copy(float_from.file(FLOAT_MODEL), models["float32"])
                for kind in models.keys() - {"float32"}:
                    shutil.copy(int8_from.model_file, models[kind])

            def finish(self):
                pass

            def __enter__(self):
                return self

            def __exit__(self, *exception):
                pass

        monkeypatch.setattr(pipeline, "TensorFlowProcess", Converted)
        monkeypatch.setattr(calibration, "RECORDED_ROWS", FEW_ROWS)  # nothing is calibrated with them
        monkeypatch.setattr(calibration, "HELD_OUT_ROWS", FEW_ROWS)
        # The models are those of other policies or versions: their own answers are not asked for.
        monkeypatch.setattr(pipeline, "check_against_source", lambda *args: {"by": None, "why": "a test"})

    return install
