"""The environments against what is written about them."""

from itertools import pairwise
from pathlib import Path

import pytest

from balance_hil.envs.balance import CATALOG, config_for, make
from balance_hil.envs.balance.env import BalanceEnv
from balance_hil.envs.balance.motor_stand import MOTOR_STAND, MotorStandConfig

ROOT = Path(__file__).parents[4]
DOCUMENT = (ROOT / "docs" / "environments.md").read_text()


@pytest.mark.parametrize("environment", CATALOG)
def test_every_environment_takes_the_policies_of_every_other(environment):
    assert (
        config_for("balance/Balance-v0")
        .policy_spec("balance/Balance-v0")
        .difference(config_for(environment).policy_spec(environment))
        is None
    )
    assert isinstance(make(environment).unwrapped, BalanceEnv)
    assert (
        config_for("balance/Balance-v0")
        .policy_spec("balance/Balance-v0")
        .difference(MotorStandConfig().policy_spec(MOTOR_STAND))
        .startswith("control period")
    )


@pytest.mark.parametrize("environment", [*CATALOG, MOTOR_STAND])
def test_every_environment_is_in_the_document_with_its_picture(environment):
    assert f"| `{environment}` |" in DOCUMENT
    picture = environment.removeprefix("balance/").removesuffix("-v0") + ".png"
    assert (ROOT / "docs" / "pictures" / "envs" / picture).is_file()
    assert f"pictures/envs/{picture}" in DOCUMENT


def test_targets_of_env01_v3_rest_then_move_at_their_rate():
    env = make("balance/BalanceTargets-v0").unwrapped
    _, info = env.reset(seed=4)
    speeds, yaws = [info["speed_error_rad_s"]], [info["wheel_speed_difference_error_rad_s"]]
    for _ in range(3000):  # without physics: the errors are the targets
        info = env.finish_step()[4]
        speeds.append(info["speed_error_rad_s"])
        yaws.append(info["wheel_speed_difference_error_rad_s"])
    assert set(speeds[:600]) == set(yaws[:600]) == {0.0}
    for values, limit, slew in ((speeds, 30.0, 20.0), (yaws, 15.0, 15.0)):
        steps = [abs(b - a) for a, b in pairwise(values)]
        assert max(steps) == pytest.approx(slew * 0.005)
        assert 0.2 * limit < max(map(abs, values)) <= limit
    fixed = env.reset(options={"speed_target_rad_s": 7.0})[1]
    assert fixed["speed_error_rad_s"] == 7.0
    assert {env.finish_step()[4]["speed_error_rad_s"] for _ in range(2000)} == {7.0}
