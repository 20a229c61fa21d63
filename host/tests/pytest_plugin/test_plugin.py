"""The plugin itself, by pytest's own means: made-up test files are run against a made-up board."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from balance_hil import boards, bundle, runtimes
from balance_hil.errors import BundleError, FlashToolMissingError, ModelMismatchError, SilentBoardError
from balance_hil.history import read
from balance_hil.recording import read_recording
from balance_hil.scheduling import usable_cores

from ..reporting.recordings import write_run

pytest_plugins = ["pytester"]


@dataclass(frozen=True)
class Info:
    board: str
    engine: str = "tflm"
    engine_version: str = "1"
    firmware_commit: str = "abc"
    model_id: str = "0123456789ab"


@dataclass
class FakeBoard:
    info: Info
    log: list[str]
    dead: bool = field(default=False)
    identified: bool = field(default=True)
    faults: SimpleNamespace | None = field(default=None)

    def identify(self) -> Info:
        if self.dead:
            raise SilentBoardError("no byte from the board", "look at the cable")
        self.identified = True
        return self.info

    def echo(self, data: bytes) -> bytes:
        return data

    def close(self) -> None:
        self.log.append(f"close {self.info.board}")


@pytest.fixture(autouse=True)
def only_this_plugin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other plugins take over a second to load, and every test here starts a pytest of its own."""
    if "autoload" not in request.node.name:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.setenv("PYTEST_PLUGINS", "balance_hil.pytest_plugin")


@pytest.fixture
def bench_log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was opened and closed, with a bundle and boards that are always there."""
    log: list[str] = []

    def connect(name: str, bundle: object, **options: object) -> FakeBoard:
        given = [f"{key}={value}" for key, value in options.items() if value]
        log.append(" ".join(["open", name, f"bundle={bundle}", *given]))
        return FakeBoard(Info(name), log)

    monkeypatch.setattr(boards, "connect", connect, raising=False)
    monkeypatch.setattr(bundle.Bundle, "load", lambda path: f"<{path}>")
    return log


def test_every_test_runs_once_on_each_board_over_one_connection_each(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makepyfile("""
        def test_a(hil_board): assert hil_board.echo(b"x") == b"x"
        def test_b(hil_board, hil_board_name): assert hil_board.info.board == hil_board_name
        def test_without_a_board(): pass
    """)
    result = pytester.runpytest("-v", "--hil-board=one,two", "--hil-board", "three", "--hil-bundle=models/x")
    result.assert_outcomes(passed=7)
    opened = [line for line in bench_log if line.startswith("open")]
    assert opened == [f"open {name} bundle=<models/x>" for name in ("one", "two", "three")]
    assert len(bench_log) == 6, "each is closed once"


def test_several_bundles_run_on_each_board(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makepyfile("""
        def test_a(hil_board): pass
        def test_b(hil_board, hil_bundle): assert hil_bundle in ("<models/x>", "<models/y>")
    """)
    result = pytester.runpytest("-v", "--hil-board=one,two", "--hil-bundle=models/x,models/y")
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(["*test_b?one-x? PASSED*"])
    opened = [line for line in bench_log if line.startswith("open")]
    assert sorted(opened) == [f"open {name} bundle=<models/{model}>" for name in ("one", "two") for model in "xy"]


BENCH = """
[left]
kind = "native"
labels = ["fast"]
[right]
kind = "native"
labels = ["fast"]
"""


def test_every_board_of_a_label_and_one_that_is_free_for_the_whole_session(
    pytester: pytest.Pytester, bench_log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boards.reservation, "LOCKS", pytester.path / "locks")
    (pytester.path / "boards.toml").write_text(BENCH)
    pytester.makepyfile("""
        def test_a(hil_board): pass
        def test_b(hil_connect): hil_connect()
    """)
    pytester.runpytest("--hil-board=@fast:all").assert_outcomes(passed=4)
    assert {line.split()[1] for line in bench_log} == {"left", "right"}
    bench_log.clear()
    with boards.held("left"):
        pytester.runpytest("--hil-board=@fast").assert_outcomes(passed=2)
        assert {line.split()[1] for line in bench_log} == {"right"}
        with boards.held("right"):
            result = pytester.runpytest("--hil-board=@fast")
    result.stdout.fnmatch_lines(["repeat: *pytest * --hil-board=@fast"])
    result.assert_outcomes(errors=1, failed=1)  # of a fixture, and of a call in the test
    result.stdout.fnmatch_lines(["*no board with the label @fast is free: left is held by *; right is held by *"])
    result = pytester.runpytest("--hil-board=@fst:all")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.fnmatch_lines(["*has the label 'fst', did you mean '@fast'?; labels: fast*"])


def test_options_reach_connect_and_are_fixtures(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makepyfile("""
        def test_it(hil_board, hil_port, hil_baud, hil_engine, hil_record, hil_log_dir, hil_episodes, hil_seconds, hil_inputs):
            assert (hil_episodes, hil_seconds, hil_inputs) == (3, 1.5, 7)
            assert (hil_port, hil_baud, hil_engine) == ("socket://x:1", 115200, "int8")
            assert hil_record.name == "logs" and hil_log_dir.parent == hil_record
    """)
    options = ["--hil-episodes=3", "--hil-seconds=1.5", "--hil-inputs=7"]
    options += ["--hil-port=socket://x:1", "--hil-baud=115200", "--hil-engine=int8", "--hil-record=logs", "--hil-wait=9"]
    pytester.runpytest(*options).assert_outcomes(passed=1)
    assert "port=socket://x:1 baud=115200 engine=int8 progress=" in bench_log[0]
    assert bench_log[0].endswith("wait_s=9.0")
    assert bench_log[0].startswith("open native ")
    (folder,) = (pytester.path / "logs").iterdir()
    assert '"firmware_commit": "abc"' in (folder / "board.json").read_text()


INI = """
[pytest]
hil_board = one, two
hil_bundle = policies/x
hil_port = socket://x:1
hil_baud = 115200
hil_seconds = 2.5
hil_episodes = 4
hil_record = logs
"""


def test_options_of_the_ini_file_and_the_command_line_above_them(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makefile(".ini", pytest=INI)
    pytester.mkdir("sub")
    (pytester.path / "sub" / "test_it.py").write_text("""def test_it(hil_board, hil_episodes, hil_seconds, hil_record):
        print("seen", hil_episodes, hil_seconds, hil_record)
""")
    pytester.runpytest("-s", "sub").stdout.fnmatch_lines([f"*seen 4 2.5 {pytester.path / 'logs'}*"])
    opened = [line for line in bench_log if line.startswith("open")]
    folder = pytester.path / "policies" / "x"
    assert opened == [f"open {name} bundle=<{folder}> port=socket://x:1 baud=115200" for name in ("one", "two")]
    bench_log.clear()
    options = ["--hil-board=three", "--hil-bundle=there", "--hil-seconds=1"]
    pytester.runpytest("-s", *options).stdout.fnmatch_lines(["*seen 4 1.0 *"])
    assert bench_log[0].startswith("open three bundle=<there> ")


def test_an_ini_option_that_is_no_number_is_named(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makefile(".ini", pytest="[pytest]\nhil_baud = fast\n")
    pytester.makepyfile("def test_it(hil_board): pass")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*hil_baud of *pytest.ini is 'fast', not a number*"])


def test_a_failure_names_the_board_and_the_log_directory(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makepyfile("def test_it(hil_board): assert False, 'on purpose'")
    result = pytester.runpytest("--hil-record=logs", "--junitxml=out.xml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*on purpose*", "board native, engine tflm 1, firmware_commit abc, *", "log directory: */logs/*test_it*"]
    )
    (folder,) = (pytester.path / "logs").iterdir()
    assert "on purpose" in (folder / "failure.txt").read_text()
    failure = ET.parse(pytester.path / "out.xml").find(".//failure")  # written a moment ago by pytest
    assert failure is not None
    assert "log directory" in (failure.text or "")


def test_junit_carries_the_identity_and_the_measurements(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makepyfile("""
        def test_it(hil_board, hil_measure):
            hil_measure("round_trip_p99", 250, "us", maximum=2000)
            hil_measure("episodes", 10, "1")
    """)
    pytester.runpytest("--junitxml=out.xml").assert_outcomes(passed=1)
    root = ET.parse(pytester.path / "out.xml")
    properties = {p.get("name"): p.get("value") for p in root.iterfind(".//testcase/properties/property")}
    assert properties == {
        "hil_board": "native",
        "hil_engine": "tflm 1",
        "hil_firmware_commit": "abc",
        "hil_bundle": "0123456789ab",
        "hil_round_trip_p99": "250 us [..2000] us pass",
        "hil_episodes": "10 1",
    }


def test_reports_of_a_good_and_a_failed_test(pytester: pytest.Pytester, bench_log: list[str], tmp_path: Path) -> None:
    recording = write_run(tmp_path / "run.mcap", steps=1500)
    pytester.makepyfile(f"""
        import shutil
        def test_good(hil_board, hil_log_dir): shutil.copy({str(recording)!r}, hil_log_dir)
        def test_bad(hil_board, hil_log_dir):
            shutil.copy({str(recording)!r}, hil_log_dir)
            assert False
        def test_without_a_recording(hil_board, hil_log_dir): pass
    """)
    result = pytester.runpytest("--hil-board=one", "--hil-bundle=x", "--hil-report=pages", "--junitxml=junit.xml")
    result.assert_outcomes(passed=2, failed=1)
    name = "test_reports_of_a_good_and_a_failed_test.py_test_{}_one"
    pages = pytester.path / "pages"
    good, bad = (f"{name.format(which)}.html" for which in ("good", "bad"))
    last = f"{name.format('bad')}-run-last.mcap"
    assert sorted(path.name for path in pages.iterdir()) == sorted([good, bad, last])
    tail = read_recording(pages / last)
    assert (len(tail), tail.episode[-1], tail.meta["ended"]) == (1000, 1, "complete")
    linked = {
        case.get("name"): [each.get("value") for each in case.iter("property") if each.get("name") == "hil_report"]
        for case in ET.parse(pytester.path / "junit.xml").iter("testcase")
    }
    assert linked == {
        "test_good[one]": [str(pages / good)],
        "test_bad[one]": [str(pages / bad)],
        "test_without_a_recording[one]": [],
    }
    result.stdout.fnmatch_lines([f"report: *{bad}", f"last 5 s of run.mcap: *{last}"])
    given = "--hil-board one --hil-bundle x --hil-report pages"
    result.stdout.fnmatch_lines([f"repeat: *pytest 'test_reports_of_a_good_and_a_failed_test.py::test_bad[[]one[]]' {given}"])


@pytest.mark.parametrize("path", ["with pytest", pytest.param("without", marks=pytest.mark.slow)])
@pytest.mark.parametrize("where", ["below", "outside"])
def test_the_command_repeats_the_failed_test_when_it_is_pasted(
    pytester: pytest.Pytester, where: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin" if path == "with pytest" else "/usr/bin:/bin")
    folder, start = pytester.mkdir("suite"), pytester.mkdir("start")
    pytester.makefile(".ini", other="[pytest]\nhil_seconds = 2.5\n")
    (folder / "test_it.py").write_text(
        "import pytest\n@pytest.mark.parametrize('text', ['a b', '$x'])\n"
        "def test_it(hil_log_dir, hil_faults, hil_seconds, text): assert (hil_seconds, hil_faults, text) == 0"
    )
    monkeypatch.chdir({"below": folder, "outside": start}[where])
    given = ["-c", str(pytester.path / "other.ini"), "--hil-fault", "drop:rate=0.1 hang:at_s=2", "--hil-record", "my logs"]
    failed = [
        line for line in pytester.run(sys.executable, "-m", "pytest", str(folder), *given).outlines if line.startswith("repeat: ")
    ]
    assert len(failed) == 2
    for line, text in zip(failed, ("a b", "$x"), strict=True):
        assert line.startswith("repeat: pytest " if path == "with pytest" else f"repeat: {sys.executable} -m pytest ")
        result = pytester.run("sh", "-c", line.removeprefix("repeat: "))
        result.assert_outcomes(failed=1)
        assert f"E   AssertionError: assert (2.5, ['drop:rate=0.1', 'hang:at_s=2'], '{text}') == 0" in result.outlines
        assert line in result.outlines


def test_a_measurement_outside_its_limits_fails(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makepyfile("def test_it(hil_measure): hil_measure('survival', 0.5, '1', minimum=1)")
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*survival is 0.5 1, outside [[]1..[]] 1*"])


def test_a_board_that_a_test_left_without_a_handshake_gets_one(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makepyfile("""
        def test_resets_it(hil_board): hil_board.identified = False
        def test_next(hil_board): assert hil_board.identified
    """)
    pytester.runpytest().assert_outcomes(passed=2)
    assert [line.split()[0] for line in bench_log] == ["open", "close"]


def test_a_board_that_a_test_broke_is_opened_again_and_said_so(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makepyfile("""
        def test_breaks_it(hil_board): hil_board.dead = True
        def test_next(hil_board): assert hil_board.echo(b"x") == b"x"
    """)
    result = pytester.runpytest()
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(["*does not work after the previous test: no byte from the board*"])
    assert [line.split()[0] for line in bench_log] == ["open", "close", "open", "close"]


def test_a_board_whose_model_a_fault_altered_is_started_again(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        processes = []

        def test_alters_it(hil_board):
            processes.append(hil_board.process_ids)
            assert hil_board.self_test().mismatches > 0
            assert hil_board.injected_faults == {"flip-bit": 1}
            hil_board.faults.end()  # as at the end of a run

        def test_next(hil_board):
            hil_board.faults.end()  # what the command line asks for is not injected here
            assert hil_board.self_test().mismatches == 0
            processes.append(hil_board.process_ids)

        def test_last(hil_board):
            assert processes[0] != processes[1] == hil_board.process_ids
    """)
    options = ("--hil-board=native", "--hil-engine=int8", "--hil-bundle=ppo", "--hil-fault=flip-bit:at_s=0,bit=6")
    pytester.runpytest(*options).assert_outcomes(passed=3)


def test_a_connection_of_its_own_takes_the_port_and_gives_it_back(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makepyfile("""
        def test_a(hil_board): pass
        def test_own(hil_connect): assert hil_connect(bundle=None, faults="f").info.board == "native"
        def test_b(hil_board): pass
    """)
    pytester.runpytest("--hil-bundle=models/x").assert_outcomes(passed=3)
    assert bench_log == ["open native bundle=<models/x>", "close native", "open native bundle=None faults=f", "close native",
                         "open native bundle=<models/x>", "close native"]  # fmt: skip


@contextmanager
def connect_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Iterator[None]:
    def connect(*args: object, **options: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(boards, "connect", connect, raising=False)
        yield


NO_COMPILER = FlashToolMissingError("no C++ compiler", "install it: apt-get install g++")


def test_a_default_that_is_missing_skips_and_names_it(
    pytester: pytest.Pytester, bench_log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("def test_it(hil_board): pass")
    with connect_raises(monkeypatch, NO_COMPILER):
        result = pytester.runpytest("-rs")
        result.assert_outcomes(skipped=1)
        result.stdout.fnmatch_lines(["SKIPPED*no C++ compiler; install it: apt-get install g++"])


def test_a_board_that_was_asked_for_and_is_missing_is_an_error(
    pytester: pytest.Pytester, bench_log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("def test_it(hil_board): pass")
    with connect_raises(monkeypatch, NO_COMPILER):
        result = pytester.runpytest("--hil-board=native")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*no C++ compiler; install it: apt-get install g++*"])


def test_a_wrong_board_is_an_error_even_by_default(
    pytester: pytest.Pytester, bench_log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile("def test_it(hil_board): pass")
    with connect_raises(monkeypatch, ModelMismatchError("the board runs 1, this run needs 2", "flash it")):
        pytester.runpytest().assert_outcomes(errors=1)


@pytest.mark.parametrize(("options", "outcome"), [([], {"skipped": 1}), (["--hil-bundle=models/nowhere"], {"errors": 1})])
def test_a_missing_bundle(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: list[str], outcome: dict[str, int]
) -> None:
    def load(path: object) -> None:
        raise BundleError(f"no such bundle: {path}", "make one: hil train ppo")

    monkeypatch.setattr(bundle.Bundle, "load", load)
    pytester.makepyfile("def test_it(hil_board): pass")
    result = pytester.runpytest("-rs", *options)
    result.assert_outcomes(**outcome)
    result.stdout.fnmatch_lines(["*no such bundle: *; make one: hil train ppo*"])


def test_the_reference_runtime_is_closed(
    pytester: pytest.Pytester, bench_log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ..comparing.fakes import FakeInt8

    class Reference(FakeInt8):
        def close(self) -> None:
            bench_log.append(f"closed {self.name}")

    monkeypatch.setattr(runtimes, "load_runtime", lambda name, bundle: Reference(name))
    pytester.makepyfile("def test_it(hil_runtime_tflm): assert hil_runtime_tflm.name == 'tflm'")
    pytester.runpytest().assert_outcomes(passed=1)
    assert bench_log == ["closed tflm"]


def test_autoload_leaves_other_projects_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): assert 1 + 1 == 2")
    result = pytester.runpytest("-v", "--strict-markers")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*hil:*")


def test_importing_the_plugin_is_cheap() -> None:
    heavy = [
        "mujoco",
        "torch",
        "tensorflow",
        "serial",
        "mcap",
    ]  # the package itself registers its environments: Gymnasium is there
    code = f"import sys, balance_hil.pytest_plugin; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_faults_of_the_command_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "def test_it(hil_faults, hil_fault_seed):\n"
        "    assert (hil_faults, hil_fault_seed) == (['drop:rate=0.1,direction=rx', 'hang:at_s=2'], 7)"
    )
    options = ("--hil-fault", "drop:rate=0.1,direction=rx", "--hil-fault", "hang:at_s=2", "--hil-fault-seed", "7")
    pytester.runpytest(*options).assert_outcomes(passed=1)


# --- repetitions --------------------------------------------------------------------------------------------------------

FLAKY = """
    import pytest
    seen = []
    def test_second_time(hil_board, hil_log_dir, hil_measure):
        seen.append(hil_log_dir.name)
        hil_measure("tries", len(seen), "1")
        assert len(seen) > 1, "not at first"
        assert seen[1] == seen[0] + "_attempt_2"
    def test_good(hil_board): pass
    def test_never(hil_board): assert False, "never"
    def test_without_a_board():
        seen.append(0)
        assert seen.count(0) > 1, "only boards are repeated"
    def test_fails_then_skips(hil_board):
        seen.append(1)
        if seen.count(1) > 1:
            pytest.skip("no time")
        assert False, "not hidden"
    @pytest.fixture
    def set_up(hil_board):
        seen.append(2)
        assert seen.count(2) > 2, "set-up"
    def test_set_up(set_up): pass
"""


def test_a_test_that_passes_when_it_is_repeated_is_flaky_and_said_so(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makepyfile(FLAKY)
    result = pytester.runpytest("--hil-retries=2", "--junitxml=out.xml", "--hil-record=logs")
    assert result.parseoutcomes() == {"passed": 1, "flaky": 2, "failed": 3}
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    for lines in (["*AssertionError: never*"], ["*only boards are repeated*"], ["*not hidden*"]):
        result.stdout.fnmatch_lines(lines)
    result.stdout.fnmatch_lines(
        [
            "*2 flaky: passed only when repeated*",
            "*::test_second_time[[]native[]]: 1 of 2 attempts failed: *not at first*",
            "*::test_set_up[[]native[]]: 2 of 3 attempts failed: *set-up*",
        ]
    )
    properties = {
        case.get("name"): [(each.get("name"), each.get("value")) for each in case.iter("property")]
        for case in ET.parse(pytester.path / "out.xml").iter("testcase")
    }
    flaky = dict(properties["test_second_time[native]"])
    assert flaky["hil_flaky"] == "1 of 2 attempts failed: AssertionError: not at first"
    assert [value for name, value in properties["test_second_time[native]"] if name == "hil_tries"] == ["2 1"]
    assert "hil_flaky" not in dict(properties["test_good[native]"]) | dict(properties["test_never[native]"])
    (failed,) = (
        case for case in ET.parse(pytester.path / "out.xml").iter("testcase") if case.get("name") == "test_never[native]"
    )
    assert len(failed.findall("failure")) == 1


def test_flaky_tests_alone_are_a_success(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makepyfile("n = []\ndef test_it(hil_board):\n    n.append(0)\n    assert len(n) == 2")
    result = pytester.runpytest("--hil-retries=1", "-v")
    assert (result.parseoutcomes(), result.ret) == ({"flaky": 1}, pytest.ExitCode.OK)
    result.stdout.fnmatch_lines(["*test_it?native? FLAKY*"])
    pytester.makepyfile("n = []\ndef test_it(hil_board):\n    n.append(0)\n    assert len(n) == 2")
    assert pytester.runpytest("-q").ret == pytest.ExitCode.TESTS_FAILED, "nothing is repeated that was not asked for"


def test_a_number_of_retries_that_is_none(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--hil-retries=-1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--hil-retries must not be negative, not -1*"])


def test_a_board_that_hangs_is_power_cycled_and_the_next_test_starts_clean(
    pytester: pytest.Pytester, bench_log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = [False]
    connect = boards.connect

    def connect_to(name: str, *arguments: object, **options: object) -> FakeBoard:
        if hanging[0]:
            raise SilentBoardError("not a byte from the board", "power-cycle it")
        return connect(name, *arguments, **options)

    def power_cycled(name: str, wait_s: float) -> bool:
        bench_log.append(f"power {name}")
        hanging[0] = False
        return True

    monkeypatch.setattr(boards, "connect", connect_to)
    monkeypatch.setattr(boards, "power_cycled", power_cycled)
    monkeypatch.setattr(
        FakeBoard, "hang", lambda self: hanging.__setitem__(0, True) or setattr(self, "dead", True), raising=False
    )
    pytester.makepyfile("""
        n = []
        def test_hangs_it(hil_board):
            n.append(0)
            if len(n) == 1:
                hil_board.hang()
                hil_board.identify()
        def test_next(hil_board): assert not hil_board.dead
        def test_on_purpose(hil_board, hil_connect):
            hil_board.hang()
            hil_connect(faults=["drop:rate=1"])
    """)
    result = pytester.runpytest("--hil-retries=1", "--hil-board=rig")
    assert result.parseoutcomes() == {"flaky": 1, "passed": 1, "failed": 1, "warnings": 3}
    result.stdout.fnmatch_lines(["*rig was power-cycled: not a byte from the board*", "*SilentBoardError*"])
    assert bench_log.count("power rig") == 2  # once for the hang, once before the second attempt of the last test
    assert [line.split()[0] for line in bench_log][:4] == ["open", "close", "power", "open"]


def test_boards_at_once_are_one_process_each(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xdist")
    monkeypatch.setenv("PYTEST_PLUGINS", "xdist.plugin,balance_hil.pytest_plugin")
    pytester.makepyfile("""
        import os
        import pytest

        @pytest.mark.parametrize("n", range(4))
        def test_it(hil_board_name, hil_log_dir, n, record_property):
            record_property("process", os.environ["PYTEST_XDIST_WORKER"])
            assert hil_log_dir.name == f"{os.path.basename(__file__)[:-3]}.py_test_it_{hil_board_name}-{n}"
            assert hil_board_name != "qemu-m7" or n != 3
    """)
    options = ["--hil-board=native,qemu-m7,f405,qemu-m4,teensy41", "--hil-record=logs", "--junitxml=out.xml"]
    result = pytester.runpytest_subprocess("-n", "auto", *options)
    result.assert_outcomes(passed=19, failed=1)
    result.stdout.fnmatch_lines(["*repeat: *pytest *::test_it?qemu-m7-3?' --hil-board *"])
    processes: dict[str, set[str]] = {}
    for case in ET.parse(pytester.path / "out.xml").iter("testcase"):
        assert "@" not in case.get("name", "")
        board = case.get("name", "").partition("[")[2].rpartition("-")[0]
        processes.setdefault(board, set()).update(
            str(p.get("value")) for p in case.iter("property") if p.get("name") == "process"
        )
    assert set(processes) == {"native", "qemu-m7", "f405", "qemu-m4", "teensy41"}
    assert all(len(names) == 1 for names in processes.values())
    emulated = min(4, int(usable_cores() / 0.65))  # what one in QEMU takes with its loop: two cores carry three
    assert len(set.union(*processes.values())) == 1 + emulated, "one for the Teensy; the others are emulated"


# --- results over time --------------------------------------------------------------------------------------------------


def test_a_suite_adds_a_row_for_each_board(pytester: pytest.Pytester, bench_log: list[str]) -> None:
    pytester.makepyfile("""
        n = []
        def test_flaky(hil_board, hil_measure):
            n.append(0)
            hil_measure("round_trip_p99", 250, "us", maximum=2000)
            hil_measure("return", 1.5, "1")
            assert len(n) > 1
        def test_one(hil_board, hil_board_name): assert hil_board_name == "one", "not two"
        def test_without_a_board(): pass
    """)
    pytester.runpytest("--hil-board=one,two", "--hil-bundle=models/x", "--hil-retries=1", "--hil-history=h.db")
    one, two = read(pytester.path / "h.db")
    assert (one.command, one.board, one.bundle, one.bundle_id, one.engine) == ("pytest", "one", "x", "0123456789ab", "tflm 1")
    assert (one.good, one.metrics["flaky"], one.metrics["passed"], one.metrics["return"]) == (True, 1, 2, 1.5)
    assert (one.timing, len(one.flaky)) == ({"round_trip_p99_us": 250.0}, 1)
    assert (two.good, two.metrics["failed"], two.flaky) == (False, 1, ())
    assert two.reasons[0].endswith("::test_one[two] failed")
    pytester.runpytest("--hil-board=one", "--hil-history=off")
    assert len(read(pytester.path / "h.db")) == 2
    pytester.runpytest("-k", "without", "--hil-history=other.db")
    assert not (pytester.path / "other.db").exists()
