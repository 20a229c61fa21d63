"""TensorFlow Lite Micro's library: compiled once for all images of a processor. A stand-in of three files plays the library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from balance_hil import firmware_build
from balance_hil.benchmarks.image_sizes import image_sizes
from balance_hil.bundle import HEADER, Bundle
from balance_hil.firmware_build import build_image, check_cross_tools
from balance_hil.model_image import ModelImage
from balance_hil.testing.convolutional_models import image_network

HEADERS = (
    "micro/kernels/fully_connected.h",
    "micro/memory_planner/linear_memory_planner.h",
    "micro/micro_interpreter.h",
    "micro/micro_mutable_op_resolver.h",
    "schema/schema_generated.h",
    "schema/schema_utils.h",
)
SOURCES = {
    "allocate.cc": "TfLiteStatus MicroInterpreter::AllocateTensors() { return kTfLiteError; }",
    "invoke.cc": "TfLiteStatus MicroInterpreter::Invoke() { return kTfLiteError; }",
    "register.cc": "TFLMRegistration Register_FULLY_CONNECTED_INT8() { return {}; }",
}


def write_fake_library(folder: Path) -> None:
    """The stand-in for the library."""
    for name in HEADERS:
        header = folder / "tensorflow/lite" / name
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text('#include "fake_tflm.h"\n')
    shutil.copy(Path(__file__).with_name("fake_tflm.h"), folder)
    for name, code in SOURCES.items():
        (folder / name).write_text(f'#include "fake_tflm.h"\nnamespace tflite {{\n{code}\n}}\n')
    manifest = {"name": "tflm", "version": "1.2.3", "build": {"srcDir": ".", "includeDir": "."}}
    (folder / "library.json").write_text(json.dumps(manifest))


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library's folder; HIL_TFLM_LIB names its parent."""
    folder = tmp_path / "libraries/tflm"
    write_fake_library(folder)
    monkeypatch.setenv("HIL_TFLM_LIB", str(folder.parent))
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder of its own: nothing is built there yet."""
    check_cross_tools()
    folder = tmp_path / "project"
    for name in firmware_build.SOURCES:
        source, copy = firmware_build.PROJECT / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
    monkeypatch.setattr(firmware_build, "PROJECT", folder)
    monkeypatch.setattr(firmware_build, "IMAGES", folder / ".pio/images")
    monkeypatch.setattr(firmware_build, "PROGRESS_INTERVAL_S", 0.0)
    return folder


def build(environment: str, bundle: Bundle) -> list[str]:
    """Files of the library that were compiled for an image, as progress told."""
    said: list[str] = []
    assert build_image(environment, bundle.file(HEADER), said.append).is_file()
    return [line for line in said if line.startswith("TensorFlow Lite Micro")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_library_is_compiled_once_for_running_and_for_counting(project: Path, library: Path, ppo_bundle: Bundle) -> None:
    # Two files are compiled at a time, so they may end in any order.
    assert sorted(build("bench_m4_tflm", ppo_bundle)) == [f"TensorFlow Lite Micro: file {number} of 3" for number in (1, 2, 3)]
    # A convolutional model in the other image: its operators are registered, its arena is as large as the build was told.
    header, said = project / "conv/model.h", list[str]()
    ModelImage(model=image_network()).write_header(header)
    image = build_image("qemu_m4_tflm", header, said.append, arena_bytes=20_000)
    assert [line for line in said if line.startswith("TensorFlow Lite Micro")] == []
    assert b"1.2.3" in image.read_bytes()
    sizes = image_sizes(image)
    assert sorted(size for name, size in sizes.ram.items() if name.endswith("vE5arena")) == [16_384, 20_000]
    assert [name for name in sizes.ram if "TflmOperators" in name and all(f"Lh{code}E" in name for code in (0, 1, 3, 4, 22, 25))]


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_what_makes_the_library_stale(project: Path, library: Path, ppo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(build("bench_m4_tflm", ppo_bundle)) == 3
    monkeypatch.delenv("HIL_TFLM_LIB")
    assert build("bench_m4", ppo_bundle) == []  # PlatformIO would wipe a folder that is shared with other settings
    monkeypatch.setenv("HIL_TFLM_LIB", str(library.parent))
    shutil.rmtree(project / ".pio/build_tflm")  # as PlatformIO does when a source of the project is added
    shutil.rmtree(project / ".pio/images")
    assert build("bench_m4_tflm", ppo_bundle) == []
    (library / "invoke.cc").write_text((library / "invoke.cc").read_text() + "// changed\n")
    assert build("bench_m4_tflm", ppo_bundle) == ["TensorFlow Lite Micro: file 2 of 3"]
    assert len(build("bench_m7_tflm", ppo_bundle)) == 3  # another processor
