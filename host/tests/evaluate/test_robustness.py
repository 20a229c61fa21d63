"""The condition table: its YAML, its processes, what the command prints and refuses."""

import json
from dataclasses import replace

import pytest

from balance_hil.cli import hil
from balance_hil.envs.balance.env import BalanceEnv
from balance_hil.envs.balance.options import NOMINAL, Uniform, options_from_dict
from balance_hil.errors import BundleError, ConfigError, UsageError
from balance_hil.evaluating.robustness import Condition, load_suite, own_suite, suite_from_dict
from balance_hil.evaluating.robustness_run import RobustnessConfig, run_suite
from balance_hil.evaluating.robustness_table import RobustnessTable, SuitePolicy
from balance_hil.farm.campaign import Campaign
from balance_hil.metrics import RETURN, EpisodeMetrics, Metric
from balance_hil.rollout import EVALUATION_SEED_BASE

SHIPPED = BalanceEnv.robustness_suite
TWO = "nominal: {options: {}}\nweak: {title: no torque, options: {motor: {torque_limit_nm: 0.001}}}\n"


def test_the_shipped_conditions_are_those_that_are_promised():
    conditions = {condition.name: options_from_dict(condition.options) for condition in load_suite(SHIPPED)}
    assert conditions["nominal"] == NOMINAL
    assert conditions["mass"].physics.mass_scale == Uniform(low=0.85, high=1.15)
    assert conditions["friction"].physics.friction == Uniform(low=0.5, high=1.2)
    assert conditions["servo"].motor.servo_gain_scale == Uniform(low=0.6, high=1.4)
    assert conditions["center-of-mass"].physics.com_offset_x_m == Uniform(low=-0.006, high=0.006)
    assert conditions["pitch-bias"].sensors.pitch_bias_rad == Uniform(low=-0.02, high=0.02)
    assert conditions["delay"].delays.observation_steps == Uniform(low=1, high=4)
    assert conditions["pushes"].pushes.impulse_n_s.high > 0
    assert conditions["blocks"].blocks.sides == ("front", "back", "left", "right")


def test_all_together_is_each_of_them():
    conditions = {condition.name: options_from_dict(condition.options) for condition in load_suite(SHIPPED)}
    together = conditions["all"]
    assert together.physics == replace(
        conditions["mass"].physics,
        friction=conditions["friction"].physics.friction,
        com_offset_x_m=conditions["center-of-mass"].physics.com_offset_x_m,
    )
    for name, group in {
        "servo": "motor",
        "pitch-bias": "sensors",
        "delay": "delays",
        "pushes": "pushes",
        "blocks": "blocks",
    }.items():
        assert getattr(together, group) == getattr(conditions[name], group)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"a": {"optoins": {}}}, "did you mean 'options'"),
        ({"a": {"title": "x"}}, "needs either"),
        ({"a": {"options": {}, "together": []}}, "needs either"),
        ({"a": {"options": []}, "b": 3}, "'b'"),
        ({"mass": {"options": {}}, "a": {"together": ["mas"]}}, "did you mean 'mass'"),
        ({"m": {"options": {}}, "a": {"together": ["m"]}, "b": {"together": ["a"]}}, "itself joins"),
    ],
)
def test_a_wrong_table_is_refused_with_the_place_named(table, complaint):
    with pytest.raises(ConfigError) as error:
        suite_from_dict(table)
    assert complaint in error.value.message


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_suite(tmp_path / "none.yaml")
    file = tmp_path / "list.yaml"
    file.write_text("- a\n")
    with pytest.raises(ConfigError, match="is not a table"):
        load_suite(file)


ERROR = Metric(name="error_rms_rad", unit="rad", source="error_rad", reduction="rms")


def metrics(seed, steps, failed, error):
    return EpisodeMetrics(seed=seed, steps=steps, failed=failed, metrics={"return": 1.0, "error_rms_rad": error})


@pytest.fixture
def table():
    good = [metrics(i, 100, False, 5.0) for i in range(10)]
    bad = [metrics(i, 100 if i else 1, not i, 5.0 if i else 50.0) for i in range(10)]
    return RobustnessTable(
        runtime="torch",
        environment="balance/Balance-v0",
        metrics=(RETURN, ERROR),
        max_steps=100,
        policies=(SuitePolicy(name="a", path="models/a", id="123"), SuitePolicy(name="b", path="models/b", id="")),
        conditions=(Condition("nominal", "nominal", {}), Condition("wind", "wind", {"wind_m_s": 3.0})),
        episodes={("a", "nominal"): good, ("a", "wind"): good, ("b", "nominal"): good, ("b", "wind"): bad},
    )


def test_a_cell_has_success_with_its_interval_and_errors_weighted_by_steps(table):
    cell = table.cell("b", "wind")
    assert (cell.failed, cell.episodes, cell.success_rate.value) == (1, 10, 0.9)
    assert (cell.success_rate.low, cell.success_rate.high) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert cell.metrics["error_rms_rad"].value == pytest.approx(((900 * 25 + 2500) / 901) ** 0.5)


def test_markdown_and_json_say_the_same(table):
    markdown, document = table.to_markdown(), json.loads(json.dumps(table.to_dict()))
    assert "| wind | 100 (72-100) | 90 (60-98) |" in markdown
    assert "| condition | only a / only b failed | return | error_rms_rad |" in markdown
    assert "| wind | 0 / 1 | +0 | +0 |" in markdown  # 9 pairs are too few for an interval
    assert [(c["policy"], c["condition"], c["failed"]) for c in document["cells"]][-1] == ("b", "wind", 1)
    assert document["policies"][0] == {"name": "a", "path": "models/a", "id": "123"}


def test_a_difference_is_found_on_the_same_episodes_however_much_they_differ_among_themselves(table):
    spread = [10.0 * i for i in range(20)]
    first, second = ([metrics(i, 100, False, error + more) for i, error in enumerate(spread)] for more in (0.0, 0.5))
    compared = replace(table, episodes={**table.episodes, ("a", "wind"): first, ("b", "wind"): second})
    success, (_, error) = compared.paired("wind")
    assert (success.differs, error.differs, error.mean_difference, error.interval) == (False, True, 0.5, (0.5, 0.5))
    assert error.level == 0.05 / 6  # two conditions, each with success and two metrics
    assert "| wind | 0 / 0 | +0 (+0 to +0) | +0.5 (+0.5 to +0.5) * |" in compared.to_markdown()


def test_the_picture_shows_every_cell(table, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'balance-hil[report]'")
    from balance_hil.evaluating.robustness_picture import draw
    from balance_hil.files import require_picture, save_figure

    file = tmp_path / "table.svg"
    require_picture(file)
    save_figure(draw(table), file)
    save_figure(draw(table), tmp_path / "again.svg")
    assert file.read_bytes()[:5] == b"<?xml"
    with pytest.raises(UsageError, match="cannot draw"):
        require_picture(tmp_path / "table.bmp")


@pytest.fixture
def command(capsys, tmp_path):
    """Runs ``hil evaluate`` and returns exit status, stdout and stderr."""
    conditions = tmp_path / "two.yaml"
    conditions.write_text(TWO)

    def run(*arguments):
        words = [str(conditions) if word == "TWO" else str(word) for word in arguments]
        with pytest.raises(SystemExit) as ended:
            hil(["evaluate", *words], standalone_mode=False)
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


def test_the_command_writes_the_table_and_fails_where_a_policy_falls(command, ppo_bundle, tmp_path):
    output = tmp_path / "table.md"
    words = (
        ppo_bundle.path,
        "--robustness",
        "--suite",
        "TWO",
        "--episodes",
        2,
        "--steps",
        300,
        "-r",
        "int8-reference",
        "-o",
        output,
        "--json",
    )
    status, out, _ = command(*words, "--jobs", 2)
    cells = {cell["condition"]: cell for cell in json.loads(out)["cells"]}
    assert status == 1
    assert cells["nominal"]["success_rate"] == 1.0
    assert cells["weak"]["success_rate"] == 0.0
    assert "no torque" in output.read_text()
    status, again, _ = command(*words, "--jobs", 1)
    assert json.loads(again) == json.loads(out)


def test_the_same_episodes_as_without_condition(command, ppo_bundle):
    words = (ppo_bundle.path, "--episodes", 2, "--steps", 200, "-r", "torch", "--json")
    status, plain, _ = command(*words)
    _, conditioned, _ = command(*words, "--robustness", "--suite", "TWO", "--jobs", 1)
    nominal = json.loads(conditioned)["cells"][0]
    assert status == 0
    document = json.loads(plain)
    for name, value in {"success_rate": document["success_rate"], **document["metrics"]}.items():
        assert nominal[name] == pytest.approx(value)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("models/a", "models/b"), "add --robustness"),
        (("models/a", "--robustness", "--view"), "leave --view out"),
        (("models/a", "--jobs", "2"), "leave --jobs out"),
        (("models/a", "--port", "COM7"), "add --runtime board"),
        (("models/a", "--robustness", "--runtime", "board"), "in simulation"),
    ],
)
def test_what_does_not_go_together_is_refused(words, complaint):
    with pytest.raises(UsageError) as error:
        hil(["evaluate", *words], standalone_mode=False)
    assert complaint in error.value.message + error.value.hint


def config(*policies):
    return RobustnessConfig(
        policies=policies,
        conditions=load_suite(SHIPPED)[:1],
        runtime="torch",
        environment="balance/Balance-v0",
        seeds=range(EVALUATION_SEED_BASE, EVALUATION_SEED_BASE + 1),
        max_steps=10,
    )


def test_a_policy_that_is_not_there_is_said_before_any_work(ppo_bundle, tmp_path):
    with pytest.raises(BundleError):
        run_suite(replace(config(ppo_bundle.path, tmp_path), runtime="tflm"))
    with pytest.raises(UsageError, match="same name"):
        run_suite(config(ppo_bundle.path, ppo_bundle.path))


def test_an_error_of_a_run_arrives(ppo_bundle):
    with pytest.raises(UsageError, match="at least one episode and one step"):
        run_suite(replace(config(ppo_bundle.path), max_steps=-1), campaign=Campaign(jobs=1))


def test_an_option_that_the_environment_does_not_know_is_said_before_any_work(ppo_bundle):
    conditions = (Condition("nominal", "nominal", {}), Condition("a", "a", {"physics": {"mas_scale": 1}}))
    with pytest.raises(ConfigError, match=r"physics\.mas_scale"):
        run_suite(replace(config(ppo_bundle.path), conditions=conditions))


def test_an_environment_without_a_suite_says_how_to_name_one(command, tmp_path):
    with pytest.raises(UsageError, match="CartPole-v1 has no robustness suite"):
        own_suite(tmp_path, "CartPole-v1")
