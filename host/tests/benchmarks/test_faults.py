import json

import pytest

from balance_hil.benchmarks import faults
from balance_hil.benchmarks.faults import NONE, Axis, conditions, run_fault_suite
from balance_hil.benchmarks.faults_picture import draw
from balance_hil.evaluating.robustness_run import RobustnessConfig
from balance_hil.farm.campaign import Campaign
from balance_hil.link import parse_fault
from balance_hil.paths import MODELS

HERE = Campaign(jobs=1)
SHORT = (
    Axis("lost replies", "drop:rate={},direction=rx", (0.5,), "{:g} %", 100),
    Axis("added latency", "delay:s={},direction=rx", (0.08,), "{:g} ms", 1000),
)


@pytest.fixture(scope="module")
def table():
    patch = pytest.MonkeyPatch()
    patch.setattr(faults, "AXES", SHORT)
    config = RobustnessConfig(
        policies=(MODELS / "ppo",),
        conditions=conditions(),
        runtime="board",
        environment=None,
        seeds=range(10000, 10002),
        max_steps=200,
    )
    shares = []
    yield run_fault_suite(config, lambda done, what: shares.append(done), HERE), run_fault_suite(config, campaign=HERE), shares
    patch.undo()


def test_every_condition_can_be_injected():
    for axis in faults.AXES:
        assert all(str(parse_fault(condition.name)) for condition in axis.conditions())


@pytest.mark.slow
def test_latency_makes_the_robot_fall_and_losses_calm_the_action(table):
    first, again, shares = table
    none, lost, late = (
        first.cell("ppo", name) for name in (NONE.name, "drop:rate=0.5,direction=rx", "delay:s=0.08,direction=rx")
    )
    assert (none.failed, lost.failed, late.failed) == (0, 0, 2)
    assert lost.metrics["action_rate"].high < none.metrics["action_rate"].low
    assert first.to_dict() == again.to_dict(), "simulated time repeats"
    assert shares[-1] == 1.0
    assert "added latency 80 ms" in first.to_markdown()
    json.dumps(first.to_dict(), allow_nan=False)


def test_the_picture_has_a_curve_for_each_policy_and_fault(table, monkeypatch):
    from balance_hil.benchmarks import faults_picture

    monkeypatch.setattr(faults_picture, "AXES", SHORT)
    figure = draw(table[0])
    assert [len(axes.containers) for axes in figure.axes] == [1] * 4
