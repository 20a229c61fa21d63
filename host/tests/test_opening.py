"""A .tflite beside the bundle route, and tables of signals."""

import numpy as np
import pytest

from balance_hil import opening
from balance_hil.bundle import HEADER, Bundle
from balance_hil.cli import hil
from balance_hil.errors import BundleError, ConfigError, EnvironmentMismatchError, ModelTooWideError, UsageError
from balance_hil.model_image import ModelImage
from balance_hil.opening import open_policy
from balance_hil.runtimes import load_runtime
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.signals import read_signals
from balance_hil.testing.synthetic_models import actor
from balance_hil.tflite.codec import pack, unpack

SIGNALS = """
control_period_ms: 5
observation: [a, b, c, d, e, {name: f, unit: rad, scale: 0.5, min: -1, max: 1}]
action: [{name: left, min: -1, max: 1}, {name: right, min: -1, max: 1}]
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MODELS", tmp_path / "cache")


@pytest.fixture
def model(tmp_path, ppo_bundle):
    """A model of three outputs, the second of which is the action."""
    parsed = unpack(ppo_bundle.model())
    graph = parsed.subgraphs[0]
    hidden = [operator.outputs[0] for operator in graph.operators]
    graph.outputs = [hidden[0], hidden[-1], hidden[1]]
    parsed.signatureDefs = []
    path = tmp_path / "theirs.tflite"
    path.write_bytes(pack(parsed))
    return path


@pytest.fixture
def signals(tmp_path):
    path = tmp_path / "signals.yaml"
    path.write_text(SIGNALS)
    return path


def test_a_model_with_three_outputs_opens_as_a_bundle(model, signals, ppo_bundle):
    bundle = open_policy(model, spec=signals, output="1")
    assert Bundle.load(bundle.path) == bundle
    assert bundle.path.name == "theirs"
    assert (bundle.spec.n_obs, bundle.spec.n_act, bundle.spec.control_period_s) == (6, 2, 0.005)
    assert bundle.spec.observation[5].unit == "rad"
    assert bundle.id in bundle.file(HEADER).read_text()
    image = ModelImage.of(bundle)
    assert np.array_equal(TflmRuntime(image.model).infer_raw_batch(image.inputs), image.outputs)
    rows = np.random.default_rng(0).uniform(-1, 1, (50, 6)).astype(np.float32)
    with load_runtime("tflm", bundle) as mine, load_runtime("tflm", ppo_bundle) as theirs:
        assert np.array_equal(mine.act_batch(rows), theirs.act_batch(rows))
    with pytest.raises(BundleError, match="holds no float model"):
        load_runtime("float32", bundle)


def test_a_model_that_is_too_wide_is_refused_before_anything_is_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr("balance_hil.bundle.MAX_MANIFEST_BYTES", 2000)
    monkeypatch.setattr(opening, "write_vectors", None)  # takes long for such a model
    with pytest.raises(ModelTooWideError, match=r"its 6 inputs and 2 outputs take \d+ bytes in bundle.json, the limit is 2000"):
        open_policy(model, output="1", unnamed=True)
    assert not (tmp_path / "cache").exists()


def test_an_environment_says_what_the_numbers_are(model, ppo_bundle):
    assert open_policy(model, output="1", environment="balance/Balance-v0").spec == ppo_bundle.spec
    with pytest.raises(EnvironmentMismatchError, match="gives 32 outputs"):
        open_policy(model, output="0", environment="balance/Balance-v0")


def test_a_model_runs_without_a_bundle(model, signals, capsys):
    for words in (["evaluate", "--episodes", "1"], ["run", "--no-record"]):
        options = ["--spec", str(signals), "--output", "1", "-e", "balance/Balance-v0", "--steps", "40", "--json"]
        with pytest.raises(SystemExit) as ended:
            hil([words[0], str(model), *words[1:], *options], standalone_mode=False)
        assert ended.value.code == 0, capsys.readouterr()
        assert '"good": true' in capsys.readouterr().out


def test_a_model_alone_opens_for_a_board_without_a_table(tmp_path):
    path = tmp_path / "wide.tflite"
    path.write_bytes(actor((200, 4, 3), "RELU", per_channel=True, seed=0))
    bundle = open_policy(path, unnamed=True)
    assert [signal.name for signal in bundle.spec.action] == ["act_0", "act_1", "act_2"]
    assert (bundle.spec.n_obs, bundle.spec.environment, len(ModelImage.of(bundle).inputs)) == (200, "", 8)
    with pytest.raises(UsageError, match="names no environment") as caught:
        open_policy(path)
    assert f"hil compare {path} --board native" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "3 outputs"),
        ({"output": "7"}, UsageError, "no output '7'"),
        ({"output": "1"}, UsageError, "has no signal table"),
    ],
)
def test_what_is_missing_is_said(model, options, error, message):
    with pytest.raises(error, match=message):
        open_policy(model, **options)


def test_a_bundle_opens_as_ever(ppo_bundle, signals):
    assert open_policy(ppo_bundle.path) == ppo_bundle
    with pytest.raises(UsageError, match="alone: a bundle has its own"):
        open_policy(ppo_bundle.path, spec=signals)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"absent\.tflite cannot be read"):
        open_policy(tmp_path / "absent.tflite")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SIGNALS.replace("control_period_ms: 5", ""), "control_period_ms must be a time"),
        (SIGNALS.replace("ms: 5", "ms: no"), "must be a number of float32, not False"),
        (SIGNALS + "colour: red\n", "unknown key 'colour'"),
        (SIGNALS.replace("a, b", "a"), "observation has 5 rows, the policy has 6"),
        (SIGNALS.replace("a, b", "a, a"), "two elements of observation have one name"),
        (SIGNALS.replace("min: -1, max: 1}]\n", "min: 1, max: 1}]\n", 1), "observation 5: min must be below max"),
        (SIGNALS.replace("unit: rad", "units: rad"), "observation 5 must have a name"),
        (SIGNALS.replace("[{name: left, min: -1, max: 1}, {name: right, min: -1, max: 1}]", "2"), "action must be a list"),
        ("[1, 2]", "not a table"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_table_is_refused_with_the_place_named(signals, text, message):
    signals.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_signals(signals, 6, 2)


def test_a_table_without_limits_leaves_outputs_alone(signals):
    signals.write_text("control_period_ms: 20\nobservation: [a]\naction: [b]\n")
    spec = read_signals(signals, 1, 1)
    outputs = np.array([[-1e6], [0.5], [1e6]], np.float32)
    assert np.array_equal(spec.action_map(outputs), outputs)
    assert (spec.action[0].min, spec.action[0].max) == (None, None)
