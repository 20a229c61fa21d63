"""Everything that runs as a campaign gives the same results here and on a cluster."""

import json

import pytest

from balance_hil.benchmarks import verify_emulators as emulators
from balance_hil.benchmarks.faults import NONE, run_fault_suite
from balance_hil.boards import bench
from balance_hil.comparing.closed_loop import BOARD, ClosedLoopConfig, Pair, closed_loop
from balance_hil.errors import UsageError
from balance_hil.evaluating.robustness import Condition
from balance_hil.evaluating.robustness_run import RobustnessConfig, run_suite
from balance_hil.farm.campaign import Campaign
from balance_hil.paths import MODELS
from balance_hil.verifying.faults import FAULTS
from balance_hil.verifying.suites import merged, run_suites
from balance_hil.verifying.verify import VerifyConfig, verify

PPO = MODELS / "ppo"


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed", reason="dask is not installed: pip install 'balance-hil[farm]'")
    local = {"host": "127.0.0.1", "dashboard_address": None}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **local) as started:
        yield started.scheduler_address


def table(runtime, conditions):
    return RobustnessConfig(
        policies=(PPO,), conditions=conditions, runtime=runtime, environment=None, seeds=range(10_000, 10_001), max_steps=10
    )


LIGHT = Condition("light", "light", {"physics": {"mass_scale": 0.9}})
LOSSY = Condition("drop:rate=0.5", "drop", {"faults": ["drop:rate=0.5"]})
PAIR = Pair(bundle=PPO, a="tflm", b="int8-reference")
CAMPAIGNS = {
    "robustness": lambda campaign: run_suite(table("tflm", (Condition("nominal", "nominal", {}), LIGHT)), campaign=campaign),
    "faults": lambda campaign: run_fault_suite(table("board", (NONE, LOSSY)), campaign=campaign),
    "closed loop": lambda campaign: closed_loop(PAIR, ClosedLoopConfig(episodes=11, max_steps=60), campaign=campaign),
    "emulators": lambda campaign: emulators.verify_emulators(1, 50, campaign=campaign),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name != "robustness" else ()) for name in CAMPAIGNS]
)
def test_the_same_here_and_on_a_cluster(cluster, tmp_path, monkeypatch, name):
    monkeypatch.setattr(emulators, "find_spec", lambda module: None)  # TensorFlow would be loaded in each process
    documents, files = [], []
    for number, campaign in enumerate(
        (Campaign(jobs=1, results=tmp_path / "0"), Campaign(cluster=cluster, results=tmp_path / "1"))
    ):
        documents.append(json.dumps(CAMPAIGNS[name](campaign).to_dict()))
        files.append({path.name: path.read_bytes() for path in (tmp_path / str(number)).iterdir()})
    assert documents[0] == documents[1]
    assert files[0] == files[1]
    assert len(files[0]) == {"emulators": 4}.get(name, 2)  # tasks


@pytest.mark.slow
def test_verify(cluster, ppo_bundle):
    def faults(campaign):
        result = verify(ppo_bundle, VerifyConfig(engine="int8"), [FAULTS["identity-stale-image"]], campaign=campaign)
        assert result.verdict.good
        return result.to_dict() | {"faults": [fault.to_dict() | {"wall_s": 0} for fault in result.faults]}

    assert faults(Campaign(jobs=1)) == faults(Campaign(cluster=cluster))


@pytest.mark.slow
def test_the_suite_of_several_policies(cluster, tmp_path):
    def suites(**where):
        found = run_suites(
            [PPO, MODELS / "lqr"], ["native"], ["-k", "self_test", "--hil-engine=int8"], campaign=Campaign(**where)
        )
        assert [(each.bundle, each.board, each.count("passed")) for each in found] == [("ppo", "native", 1), ("lqr", "native", 1)]
        return found

    first, second = suites(jobs=1), suites(cluster=cluster)
    assert [each.cases for each in first] == [each.cases for each in second]
    assert merged(first).count('<testsuite name="ppo on native"') == 1


@pytest.mark.parametrize("where", [{"cluster": "local"}, {"jobs": 2}])
def test_a_physical_board_is_used_once_and_here(ppo_bundle, monkeypatch, where):
    monkeypatch.setattr(bench, "find_board", lambda name: type("Definition", (), {"is_emulated": False}))
    campaign = Campaign(**where)
    with pytest.raises(UsageError, match="desk is one board"):
        verify(ppo_bundle, VerifyConfig(board="desk"), [FAULTS["reply-nan"]], campaign=campaign)
    with pytest.raises(UsageError, match="desk is one board"):
        closed_loop(Pair(bundle=PPO, a="tflm", b=BOARD, board="desk"), ClosedLoopConfig(), campaign=campaign)
    if campaign.cluster:
        with pytest.raises(UsageError, match="desk is at this computer"):
            run_suites([PPO], ["desk"], campaign=campaign)
