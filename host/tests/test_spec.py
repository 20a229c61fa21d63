import json

import pytest

from balance_hil.envs.balance import config_for
from balance_hil.spec import PolicySpec, Signal


def test_a_spec_survives_json():
    spec = config_for("balance/Balance-v0").policy_spec("balance/Balance-v0")
    assert PolicySpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert (spec.n_obs, spec.n_act) == (6, 2)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: d.pop("environment"), KeyError),
        (lambda d: d["observation"][0].pop("unit"), TypeError),
        (lambda d: d["observation"][0].update(color="red"), TypeError),
        (lambda d: d["observation"].reverse(), KeyError),
        (lambda d: d["action"][1].update(index=0), KeyError),
        (lambda d: d.update(control_period_s="soon"), ValueError),
    ],
)
def test_a_garbled_table_is_refused(change, error):
    table = json.loads(json.dumps(config_for("balance/Balance-v0").policy_spec("balance/Balance-v0").to_dict()))
    change(table)
    with pytest.raises(error):
        PolicySpec.from_dict(table)


def test_signals_of_the_shipped_environment_are_named_once_with_unit_and_limits():
    spec = config_for("balance/Balance-v0").policy_spec("balance/Balance-v0")
    signals = (*spec.observation, *spec.action)
    assert len({signal.name for signal in signals}) == len(signals)
    assert all(signal.unit and signal.min < signal.max and signal.scale > 0 for signal in signals)
    assert isinstance(signals[0], Signal)
