"""The fuzz targets of firmware/test/fuzz over their corpus, and over changed copies of it. Needs no fuzzer: `make fuzz` does."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from balance_hil.boards.engines import MAX_VALUES
from balance_hil.model_image import KERNELS
from balance_hil.testing import convolutional_models
from balance_hil.testing.convolutional_models import random_network, random_operator
from balance_hil.testing.synthetic_models import TANH_QUANT, ModelBuilder, random_dense, random_policy

from .engine_build import REPOSITORY, SANITIZERS
from .kernel_models import flattened_image

FUZZ = REPOSITORY / "firmware" / "test" / "fuzz"
TARGETS = ("frame", "model", "server", "upload")
ROUNDS = {"frame": 10, "model": 20, "server": 1, "upload": 1}  # changed copies of each input: a second or two for each target
CORPUS_LIMIT = 200_000  # bytes


@pytest.fixture(scope="session")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", FUZZ / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def target(fuzz: ModuleType, sanitized_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles a target with a main() of its own, against the firmware's libraries as the sanitized board has them."""
    folder = tmp_path_factory.mktemp("fuzz")
    libraries = [next(sanitized_program.parent.glob(f"lib*/lib{name}.a")) for name in reversed(fuzz.BOARD)]

    def compiled(source: Path) -> Path:
        thing = folder / f"{source.stem}.o"
        if not thing.exists():
            sizes = [f"-DHIL_MAX_{what}={MAX_VALUES}" for what in ("OBS", "ACT")]  # as the libraries
            flags = ["-std=c++17", "-O1", "-fno-exceptions", "-fno-rtti", *SANITIZERS, *sizes, *fuzz.includes()]
            done = subprocess.run(["g++", *flags, "-c", str(source), "-o", str(thing)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        return thing

    def build(name: str) -> Path:
        program = folder / name
        if not program.exists():
            own = [path for path in fuzz.sources(name) if path.parent == FUZZ] + [FUZZ / "replay.cpp"]
            parts = [*map(compiled, own), *libraries]
            done = subprocess.run(["g++", *SANITIZERS, *map(str, parts), "-o", str(program)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        return program

    return build


def run(program: Path, rounds: int, files: list[Path]) -> None:
    assert files, "no inputs"
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([program, str(rounds), "1", *map(str, files)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_and_what_is_near_it(fuzz: ModuleType, target: Callable[[str], Path], name: str) -> None:
    run(target(name), ROUNDS[name], fuzz.corpus(name))


def test_the_corpus_stays_small() -> None:
    sizes = [path.stat().st_size for path in (FUZZ / "corpus").rglob("*") if path.is_file()]
    assert sum(sizes) < CORPUS_LIMIT


def test_every_target_has_a_source_and_inputs(fuzz: ModuleType) -> None:
    assert set(fuzz.TARGETS) == set(TARGETS) == {path.name for path in (FUZZ / "corpus").iterdir()}
    assert all((FUZZ / f"{name}.cpp").is_file() for name in TARGETS)


def test_mutated_models_never_leave_their_memory(target: Callable[[str], Path], tmp_path: Path) -> None:
    """Models that are made anew: whatever the corpus holds. Small, so that most mutations hit the structure, not the weights."""
    builder = ModelBuilder()
    source = builder.tensor((1, 3), scale=0.1, zero_point=-3)
    hidden = random_dense(builder, np.random.default_rng(0), source, 4, per_channel=True, activation="RELU6")
    hidden = builder.elementwise("TANH", hidden, TANH_QUANT)
    out = random_dense(builder, np.random.default_rng(1), hidden, 2, per_channel=False)
    paths = []
    models = [builder.build([source], [out]), *(random_policy(seed) for seed in range(3))]
    kernels = [name for name in convolutional_models.OPERATORS if name in KERNELS]
    models += [*(random_operator(name, 1) for name in kernels), *(random_network(seed, kernels) for seed in range(2))]
    models += [flattened_image(convolves) for convolves in (True, False)]
    for i, model in enumerate(models):
        paths.append(tmp_path / f"{i}.tflite")
        paths[-1].write_bytes(model)
    run(target("model"), 1000, paths)


def test_models_cut_anywhere_never_leave_their_memory(target: Callable[[str], Path], tmp_path: Path) -> None:
    model = random_policy(1)
    paths = []
    for size in range(0, len(model), max(1, len(model) // 400)):
        paths.append(tmp_path / f"cut-{size}.tflite")
        paths[-1].write_bytes(model[:size])
    run(target("model"), 0, paths)


def test_a_target_can_fail(fuzz: ModuleType, tmp_path: Path) -> None:
    """The board of the targets looks at what is sent: a server whose answers lose their number is found with the first input."""
    right, wrong = "encoder_.Encode(message, frame_.seq, out_ + 1)", "encoder_.Encode(message, 0, out_ + 1)"
    sources = []
    for path in fuzz.sources("server"):
        text = path.read_text()
        if right in text:
            path = tmp_path / "server_broken.cpp"
            path.write_text(text.replace(right, wrong))
        sources.append(path)
    assert tmp_path / "server_broken.cpp" in sources
    broken = tmp_path / "broken"
    command = ["g++", "-std=c++17", "-O0", *fuzz.includes(), *map(str, sources), str(FUZZ / "replay.cpp"), "-o", str(broken)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([broken, "0", "1", FUZZ / "corpus/server/seed-conversation"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "a reply carries the number of its request" in done.stderr
