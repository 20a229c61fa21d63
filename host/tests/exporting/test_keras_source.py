"""Keras models and SavedModels, made by TensorFlow in a process of its own, read in another one."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from balance_hil.checkpoint.actor import act_through
from balance_hil.errors import CheckpointError
from balance_hil.exporting.convert import TensorFlowProcess
from balance_hil.exporting.keras_source import check_keras_file, read_network
from balance_hil.exporting.tensorflow_worker import quiet_environment

from ..installed import require_installed

require_installed("tensorflow")
pytestmark = pytest.mark.slow  # TensorFlow makes the models, in a process of its own

MAKE = """
import numpy as np, tensorflow as tf
keras, layers = tf.keras, tf.keras.layers
keras.utils.set_random_seed(0)
norm = layers.Normalization(mean=[1.0, -2.0, 0.5], variance=[4.0, 0.25, 1.0])
model = keras.Sequential([layers.Input((3,)), norm, layers.Dense(6, "elu"), layers.Dense(6, "swish"), layers.Dense(2, "tanh")])
model.save("chain.keras")
class Module(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32)])
    def __call__(self, x): return model(x)
module = Module(); module.model = model
tf.saved_model.save(module, "saved", signatures=module.__call__)
class Reader(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32)])
    def __call__(self, x):
        tf.io.write_file("evidence", "ran")
        return x
tf.saved_model.save(Reader(), "hostile", signatures=Reader().__call__.get_concrete_function())
x = layers.Input((3,)); y = layers.Dense(3)(x)
keras.Model(x, layers.Dense(2)(layers.Add()([x, y]))).save("residual.keras")
keras.Sequential([layers.Input((3,)), layers.Lambda(lambda v: 2 * v), layers.Dense(2)]).save("code.keras")
np.save("rows.npy", rows := np.random.default_rng(0).normal(0, 2, (30, 3)).astype(np.float32))
np.save("expected.npy", model(rows).numpy())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    import os

    folder = tmp_path_factory.mktemp("keras")
    environment = {**os.environ, **quiet_environment()}
    subprocess.run([sys.executable, "-c", MAKE], cwd=folder, env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def tensorflow(made):
    with TensorFlowProcess(made / "log") as process:
        yield process


@pytest.mark.parametrize("name", ["chain.keras", "saved"])
def test_a_chain_is_read_with_its_normalization_and_answers_for_itself(made, tensorflow, tmp_path, name):
    rows, expected = np.load(made / "rows.npy"), np.load(made / "expected.npy")
    network = read_network(made / name, tensorflow, tmp_path)
    assert [layer.activation for layer in network.layers] == ["elu", "silu", "tanh"]
    assert np.allclose(network.normalization.mean, [1, -2, 0.5], atol=1e-6)
    assert np.allclose(network.normalization.inverse_std, [0.5, 2, 1], atol=1e-6)
    assert np.allclose(act_through(network.layers, network.normalization.apply(rows)), expected, atol=1e-5)
    assert np.allclose(tensorflow.predict(rows, tmp_path), expected, atol=1e-6)


def test_what_is_no_chain_is_named(made, tensorflow, tmp_path):
    with pytest.raises(CheckpointError, match=r"residual\.keras is not a chain of dense layers: operator \d, ADD"):
        read_network(made / "residual.keras", tensorflow, tmp_path)


def test_a_model_with_code_of_its_own_is_not_loaded(made):
    with pytest.raises(CheckpointError, match=r"contains its own code, keras.*Lambda"):
        check_keras_file(made / "code.keras")


def test_a_module_of_ones_own_is_not_imported(made, tmp_path):
    with zipfile.ZipFile(made / "chain.keras") as old, zipfile.ZipFile(tmp_path / "mine.keras", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["layers"][1]["module"] = "os"
                content = json.dumps(config)
            new.writestr(name, content)
    with pytest.raises(CheckpointError, match=r"its own code, os\."):
        check_keras_file(tmp_path / "mine.keras")


def test_a_saved_model_that_writes_files_is_not_loaded(made, tensorflow, tmp_path):
    with pytest.raises(CheckpointError, match="operator WriteFile"):
        read_network(made / "hostile", tensorflow, tmp_path)
    assert not (made / "evidence").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" + bytes(60)])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_that_is_none_of_keras_is_refused(tmp_path, content, suffix):
    (tmp_path / f"model{suffix}").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a Keras model"):
        check_keras_file(tmp_path / f"model{suffix}")
