import subprocess
import sys

import numpy as np
import pytest

from balance_hil.bundle import FLOAT_MODEL, INT8_MODEL, ONNX_MODEL
from balance_hil.environment import open_environment
from balance_hil.errors import ExportError, MissingExtraError, UnsupportedOperatorError
from balance_hil.exporting import convert
from balance_hil.exporting.calibration import record_calibration
from balance_hil.exporting.convert import TensorFlowProcess
from balance_hil.exporting.episodes import EpisodeRuns, EpisodesRequest
from balance_hil.quantize import INT16X8
from balance_hil.runtimes import load_runtime
from balance_hil.runtimes.tflm import TflmRuntime


def request(folder, **changes):
    values = {
        "onnx": str(folder / "actor.onnx"),
        "calibration": str(folder / "calibration.npy"),
        "models": {kind: str(folder / f"{kind}.tflite") for kind in ("float32", "int8", "int16x8")},
        "per_tensor": True,
        "seed": 3,
    }
    return values | changes


def stage(**changes):
    values = {
        "runtime": "tflm",
        "model": "",
        "trust": False,
        "normalization": None,
        "options": {},
        "period_s": None,
        "terminated": "",
        "environment": "balance/Balance-v0",
        "seeds": [10_000, 10_001],
        "max_steps": 30,
    }
    return EpisodesRequest(**values | changes)


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    """Puts a script in the place of the conversion's Python."""

    def install(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(convert.sys, "executable", str(path))

    return install


def test_the_same_checkpoint_and_seed_give_the_same_models_without_a_word(tmp_path, tiny_bundle, capfd):
    with load_runtime("onnx", tiny_bundle) as runtime, open_environment("balance/Balance-v0") as env:
        rows = record_calibration(runtime.act_batch, env, 3)
    assert rows.origin["sha256"] == tiny_bundle.calibration["sha256"]
    np.save(tmp_path / "calibration.npy", rows.observations)
    with TensorFlowProcess(tmp_path / "log") as process:
        process.start("convert", **request(tmp_path, onnx=str(tiny_bundle.file(ONNX_MODEL))))
        process.finish()
    assert (tmp_path / "float32.tflite").read_bytes() == tiny_bundle.file(FLOAT_MODEL).read_bytes()
    assert (tmp_path / "int8.tflite").read_bytes() == tiny_bundle.file(INT8_MODEL).read_bytes()
    wide, narrow = (TflmRuntime((tmp_path / f"{kind}.tflite").read_bytes()) for kind in ("int16x8", "int8"))
    right = load_runtime("float32", tiny_bundle).act_batch(rows.held_out)
    errors = [np.sqrt(np.mean((model.act_batch(rows.held_out) - right) ** 2)) for model in (wide, narrow)]
    assert wide.input_quant.kind == INT16X8
    assert errors[0] < 0.5 * errors[1]
    assert capfd.readouterr() == ("", "")


def test_an_operator_without_an_int16_form_is_named(tmp_path, interpreter):
    interpreter("read line; echo \"ValueError: Quantization to 16x8-bit not yet supported for op: 'ELU'.\" >&2; exit 1")
    with TensorFlowProcess(tmp_path / "log") as process:
        process.start("convert", **request(tmp_path))
        with pytest.raises(UnsupportedOperatorError, match="no int16 form of ELU") as refused:
            process.finish()
    assert "--quantize int8" in refused.value.hint


def test_a_failed_conversion_shows_the_last_lines(tmp_path, interpreter):
    interpreter("read line; echo noise >&2; echo 'the reason' >&2; exit 3")
    with TensorFlowProcess(tmp_path / "log") as process:
        process.start("convert", **request(tmp_path))
        with pytest.raises(ExportError, match=r"status 3:\n(.*\n)*the reason"):
            process.finish()


def test_an_operator_that_tensorflow_lite_lacks_is_named(tmp_path, interpreter):
    interpreter("read line; echo \"error: 'tf.Erf' op is neither a custom op nor a flex op\" >&2; exit 1")
    with TensorFlowProcess(tmp_path / "log") as process:
        process.start("convert", **request(tmp_path))
        with pytest.raises(UnsupportedOperatorError, match="no operator Erf"):
            process.finish()


def test_a_conversion_that_ends_before_it_is_asked_is_an_error(tmp_path, interpreter):
    interpreter("exec <&-; echo 'no module' >&2; exit 1")

    def convert_anyway():
        with TensorFlowProcess(tmp_path / "log") as process:
            process._process.wait()
            process.start("convert", **request(tmp_path))
            process.finish()

    with pytest.raises(ExportError, match="no module"):
        convert_anyway()


def test_a_conversion_that_hangs_is_ended(tmp_path, interpreter, monkeypatch):
    interpreter("exec sleep 1000")
    monkeypatch.setattr(convert, "CONVERSION_TIMEOUT_S", 0.2)
    with TensorFlowProcess(tmp_path / "log") as process:
        process.start("convert", **request(tmp_path))
        with pytest.raises(ExportError, match="did not end"):
            process.finish()
    assert process._process.returncode is not None


def test_leaving_ends_the_process(tmp_path, interpreter):
    interpreter("exec sleep 1000")
    with TensorFlowProcess(tmp_path / "log") as process:
        assert process._process.poll() is None
    assert process._process.returncode is not None


def test_a_missing_converter_names_its_extra(tmp_path, monkeypatch):
    def without(module, extra):
        raise MissingExtraError(module, extra)

    monkeypatch.setattr(convert, "require", without)
    with pytest.raises(MissingExtraError) as caught:
        TensorFlowProcess(tmp_path / "log")
    assert caught.value.hint == "export"


def test_a_stage_reports_progress_episodes_and_saturated_inputs(tmp_path, ppo_bundle):
    seen = []
    with EpisodeRuns(tmp_path / "log") as runs:
        ended = runs.submit(stage(model=str(ppo_bundle.file(INT8_MODEL))), seen.append).result()
    assert [(episode.seed, episode.steps, episode.failed) for episode in ended.episodes] == [
        (10_000, 30, False),
        (10_001, 30, False),
    ]
    assert len(ended.saturated) == 6
    assert max(ended.saturated) < 0.5
    assert seen == [0.0]


def test_a_stage_that_fails_says_why(tmp_path):
    with EpisodeRuns(tmp_path / "log") as runs:
        future = runs.submit(stage(model=str(tmp_path / "none.tflite")), lambda done: None)
        with pytest.raises(ExportError, match=r"none\.tflite"):
            future.result()


def test_leaving_ends_the_stages(tmp_path, ppo_bundle):
    with EpisodeRuns(tmp_path / "log") as runs:
        futures = [
            runs.submit(stage(model=str(ppo_bundle.file(INT8_MODEL)), max_steps=10**6), lambda done: None) for _ in range(3)
        ]
    assert all(future.done() for future in futures)
    assert all(child.returncode is not None for child in runs._children)


@pytest.mark.parametrize("module", ["tensorflow_worker", "episodes"])
def test_a_worker_whose_parent_is_gone_ends(module):
    command = [sys.executable, "-m", f"balance_hil.exporting.{module}"]
    if module == "tensorflow_worker":  # TensorFlow's import is not what is tested
        command = [
            sys.executable,
            "-c",
            "import sys, types, io\n"
            "sys.modules['onnx2tf'] = sys.modules['tensorflow'] = types.ModuleType('stub')\n"
            "from balance_hil.exporting.tensorflow_worker import serve\n"
            "serve(sys.stdin, sys.stdout)",
        ]
    assert subprocess.run(command, input=b"", capture_output=True, check=True, timeout=60).stdout == b""
