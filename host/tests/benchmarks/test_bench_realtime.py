import subprocess

from click.testing import CliRunner

from balance_hil.benchmarks import realtime
from balance_hil.cli.bench import command
from balance_hil.running.soak import Statistics

from .. import contract


def test_idle_and_loaded_side_by_side_and_nothing_is_left_running(ppo_bundle, monkeypatch):
    started = []

    def popen(command, **options):
        started.append(subprocess.Popen(command, **options))
        return started[-1]

    monkeypatch.setattr(realtime, "TURNS", 1)
    monkeypatch.setattr(realtime, "STEPS", 60)
    monkeypatch.setattr(realtime, "popen", popen)
    rows = realtime.run()
    contract.check("bench", {"schema": "balance_hil/bench@2", "name": "realtime", "rows": rows})
    idle, loaded = (rows[: len(rows) // 2], rows[len(rows) // 2 :])
    assert [row["metric"] for row in idle] == [row["metric"] for row in loaded]
    assert "busy processes, a disk writer" in loaded[0]["what"]
    values = {row["metric"]: row["value"] for row in loaded}
    assert values["control steps"] == 60
    assert sum(values[f"misses by the {cause}"] for cause in ("host", "board", "link")) == values["late"] + values["lost"]
    assert len(started) == realtime.BUSY_PER_CORE * realtime.usable_cores() + 1
    assert all(process.poll() is not None for process in started)


def test_the_table_is_that_of_the_documentation(monkeypatch):
    loaded = Statistics(steps=12_000)
    loaded.jitter_us.add(1204.4)
    monkeypatch.setattr(realtime, "run", lambda: realtime.rows({"idle": Statistics(steps=400), "loaded": loaded}, "idle"))
    lines = [line.split() for line in CliRunner().invoke(command, ["realtime"]).stdout.splitlines()]
    assert ["|", "|", "idle", "|", "loaded", "|"] in lines
    assert ["|", "tick", "jitter", "p99.9", "(us)", "|", "0", "|", "1,204", "|"] in lines
    assert ["|", "control", "steps", "|", "400", "|", "12,000", "|"] in lines
