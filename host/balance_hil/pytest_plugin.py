"""pytest plugin: ``--hil-*`` options and ``hil_*`` fixtures for tests that talk to a board.

    def test_my_board(hil_board, hil_runtime_tflm, hil_measure):
        ...

    pytest --hil-board native,teensy41 --hil-bundle ppo

Installed with balance_hil (entry point ``pytest11``). Every option is also a fixture and an ini option (``hil_board = native``
in pytest.ini); the command line wins. Every name carries the prefix, nothing happens in a test session that uses none of them,
and heavy modules are imported only when a fixture is requested.

A default that is missing (no bundle exported, no compiler) skips the test and names what is missing; a board or bundle that was
named and is missing is an error. A board with wrong replies is always an error.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from _pytest._code.code import ExceptionRepr

if TYPE_CHECKING:
    from balance_hil.boards import Board
    from balance_hil.bundle import Bundle
    from balance_hil.errors import HarnessError
    from balance_hil.runtimes.base import ModelRuntime

DEFAULT_BOARD = "native"
DEFAULT_BUNDLE = "ppo"
DEFAULT_EPISODES = 10
DEFAULT_INPUTS = 20_000
KEPT_S = 5.0  # of the recordings of a failed test
_EMULATED_CORES = 0.65  # of this computer: what a run on a board in QEMU takes, with loop and plant
_log_dir_key = pytest.StashKey[Path]()
_report_dir_key = pytest.StashKey[Path | None]()
_board_key = pytest.StashKey[str]()


# --- options, each of them a fixture ----------------------------------------------------------------------------------

# Name: metavar, type, help. Each is --hil-NAME on the command line, hil_NAME in pytest.ini or pyproject.toml, and a fixture.
_OPTIONS: dict[str, tuple[str, type[str] | type[int] | type[float], str]] = {
    "board": ("NAME", str, f"board to test; repeat it or give a comma-separated list (default: {DEFAULT_BOARD})"),
    "bundle": ("NAME", str, f"bundle that the board runs; repeat it or give a list (default: {DEFAULT_BUNDLE})"),
    "port": ("PORT", str, "serial port or URL of the board"),
    "baud": ("BITS_PER_S", int, "baud rate, if not the board's usual one"),
    "wait": ("S", float, "time to wait for a board that another user holds (default: 0)"),
    "engine": ("NAME", str, "engine of an emulated board, if not its usual one"),
    "fault": ("FAULT|FILE.yaml", str, "inject this fault into every connection; repeat it: docs/faults.md"),
    "fault_seed": ("N", int, "the same seed injects the same faults (default: 0)"),
    "episodes": ("N", int, f"lockstep episodes (default: {DEFAULT_EPISODES})"),
    "seconds": ("S", float, "length of an episode (default: the environment's own)"),
    "inputs": ("N", int, f"random inputs for which the board must equal TensorFlow Lite Micro (default: {DEFAULT_INPUTS})"),
    "broken": ("NAME", str, "break the board or its link on purpose; names: hil verify --list"),
    "record": ("DIR", str, "keep every test's log directory under DIR (default: pytest's own)"),
    "retries": ("N", int, "repeat a failed test of a board up to N times; one that passes then is counted as flaky (default: 0)"),
    "history": ("off|FILE", str, "add a row about each board to FILE (default: recordings/history.db here; see hil history)"),
    "report": ("DIR", str, "write a page about every test that recorded a run, and the last seconds of a failed one, to DIR"),
}
_SEVERAL = ("board", "bundle", "fault")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Registers the ``--hil-*`` options and the ``hil_*`` ini options."""
    group = parser.getgroup("hil", "hardware in the loop (balance_hil)")
    for name, (metavar, kind, text) in _OPTIONS.items():
        if name in _SEVERAL:
            group.addoption(_flag(name), action="append", metavar=metavar, help=text)
        else:
            group.addoption(_flag(name), type=kind, metavar=metavar, help=text)
        parser.addini(f"hil_{name}", text, default=None)


def pytest_configure(config: pytest.Config) -> None:
    """Switches ``--hil-retries`` and ``--hil-history`` on."""
    config.addinivalue_line("markers", "timeout(seconds): of pytest-timeout, if that is installed")
    _keep_history(config)
    if most := _option(config, "retries"):
        if most < 0:
            raise pytest.UsageError(f"--hil-retries must not be negative, not {most}")
        from balance_hil.pytest_retries import Retries

        config.pluginmanager.register(Retries(most))


def _keep_history(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # of xdist: the process that started it gathers the reports
        return
    from balance_hil.history import database
    from balance_hil.pytest_history import History

    given = _option(config, "history")
    path = None if given == "off" else _path(config, "history", given) if given else database()
    if path is not None:
        config.pluginmanager.register(History(path.absolute()))


def _flag(name: str) -> str:
    return f"--hil-{name.replace('_', '-')}"


def _option(config: pytest.Config, name: str) -> Any:
    """Value from the command line, else from the ini file; None if neither sets it. Raises pytest.UsageError."""
    given = config.getoption(_flag(name))
    if given is not None:
        return given
    text = config.getini(f"hil_{name}")
    if not text:
        return None
    if name in _SEVERAL:
        return [text]
    _, kind, _ = _OPTIONS[name]
    try:
        return kind(text)
    except ValueError:
        raise pytest.UsageError(f"hil_{name} of {config.inipath} is {text!r}, not a number") from None


def _several(config: pytest.Config, name: str) -> list[str]:
    """Values of an option that may be repeated and may hold lists, without duplicates."""
    given = _option(config, name) or []
    return list(dict.fromkeys(name.strip() for names in given for name in re.split(r"[,\n]", names) if name.strip()))


def _board_names(config: pytest.Config) -> list[str]:
    """``--hil-board``, with the boards of the bench in place of "@LABEL:all"; an unknown one fails the collection."""
    names = _several(config, "board") or [DEFAULT_BOARD]
    if not any(name.startswith("@") for name in names):
        return names
    from balance_hil.boards.bench import expanded
    from balance_hil.errors import HarnessError

    try:
        return list(dict.fromkeys(expanded(names)))
    except HarnessError as exc:
        pytest.fail(f"{exc.message}; {exc.hint}", pytrace=False)


def _path(config: pytest.Config, name: str, given: str) -> Path:
    """A path in the ini file is relative to that file, one on the command line to the working directory."""
    return Path(given) if config.getoption(_flag(name)) is not None else config.rootpath / given


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs every test that uses a board once for each board and bundle asked for."""
    if "hil_board_name" in metafunc.fixturenames:
        metafunc.parametrize("hil_board_name", _board_names(metafunc.config), scope="session")
    bundles = _several(metafunc.config, "bundle")
    if "hil_bundle_dir" in metafunc.fixturenames and len(bundles) > 1:
        metafunc.parametrize("hil_bundle_dir", bundles, ids=lambda folder: Path(folder).name, indirect=True, scope="session")


# --- several boards at once: pytest-xdist ------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """With ``-n`` and named boards, tests are distributed by board unless ``--dist`` says otherwise."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no" and _several(config, "board"):
        config.option.dist = "loadgroup"
    return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One process runs all tests of a board; ``--dist loadscope`` also those of each module.

    ``--dist loadgroup`` alone does not group with pytest 9.2: pytest-dev/pytest-xdist#1386.
    """
    if config.option.dist not in ("loadgroup", "loadscope") or not (boards := _found_boards(config)):
        return None
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    of_module = scheduler._split_scope

    def split(nodeid: str) -> str:
        parameters = f"-{nodeid.partition('[')[2].rstrip(']')}-"
        if found := [name for name in boards if f"-{name}-" in parameters]:
            return str(_option(config, "port") or max(found, key=len))
        return str(of_module(nodeid)) if config.option.dist == "loadscope" else nodeid

    scheduler._split_scope = split
    return scheduler


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """``-n auto``: a process for each physical board, and for emulated ones no more than the cores carry."""
    from balance_hil.scheduling import usable_cores

    boards = _found_boards(config)
    emulated = sum(boards.values())
    return len(boards) - emulated + min(emulated, int(usable_cores() / _EMULATED_CORES)) or None


def _found_boards(config: pytest.Config) -> dict[str, bool]:
    """The boards that were named, and whether each is emulated; none if one is unknown, which its tests say."""
    from balance_hil.boards.bench import LABEL, expanded, find_board
    from balance_hil.errors import HarnessError

    try:
        names = expanded(_several(config, "board"))
        return {name: not name.startswith(LABEL) and find_board(name).is_emulated for name in names}
    except HarnessError:
        return {}


@pytest.fixture(scope="session")
def hil_board_name(request: pytest.FixtureRequest) -> str:
    """``--hil-board``: the board of this run of the test."""
    return str(request.param)


def _fixture(name: str, default: Any = None) -> Any:
    """The fixture of an option: its value, or ``default``."""

    def value(pytestconfig: pytest.Config) -> Any:
        given = _option(pytestconfig, name)
        return default if given is None else given

    value.__doc__ = f"``{_flag(name)}``: {_OPTIONS[name][2]}."
    return pytest.fixture(value, scope="session", name=f"hil_{name}")


hil_port = _fixture("port")
hil_baud = _fixture("baud")
hil_engine = _fixture("engine")
hil_wait = _fixture("wait", 0.0)
hil_fault_seed = _fixture("fault_seed", 0)
hil_broken = _fixture("broken")
hil_episodes = _fixture("episodes", DEFAULT_EPISODES)
hil_seconds = _fixture("seconds")
hil_inputs = _fixture("inputs", DEFAULT_INPUTS)


@pytest.fixture(scope="session")
def hil_faults(pytestconfig: pytest.Config) -> list[str]:
    """``--hil-fault``: faults injected into every connection that does not name its own."""
    return [fault for given in _option(pytestconfig, "fault") or [] for fault in given.split()]


@pytest.fixture(scope="session")
def hil_record(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``--hil-record``: the folder that holds every test's log directory."""
    given = _option(pytestconfig, "record")
    return _path(pytestconfig, "record", given).resolve() if given else tmp_path_factory.mktemp("hil")


@pytest.fixture(scope="session")
def hil_report(pytestconfig: pytest.Config) -> Path | None:
    """``--hil-report``: the folder of the pages; None: none are written."""
    given = _option(pytestconfig, "report")
    return _path(pytestconfig, "report", given).resolve() if given else None


@pytest.fixture(scope="session")
def hil_bundle_dir(request: pytest.FixtureRequest) -> Path:
    """``--hil-bundle``: the bundle's folder in this run of the test."""
    from balance_hil.bundle import locate

    given = getattr(request, "param", None) or next(iter(_several(request.config, "bundle")), DEFAULT_BUNDLE)
    return _path(request.config, "bundle", str(locate(given)))


@pytest.fixture(scope="session")
def hil_bundle(hil_bundle_dir: Path, pytestconfig: pytest.Config) -> Bundle:
    """``--hil-bundle``, loaded and validated."""
    from balance_hil.bundle import Bundle
    from balance_hil.errors import HarnessError

    try:
        return Bundle.load(hil_bundle_dir)
    except HarnessError as exc:
        _missing(exc, asked_for=bool(_several(pytestconfig, "bundle")))


# --- the board --------------------------------------------------------------------------------------------------------


class HilBench:
    """The board of a test session: opened on first use, kept open between tests, reopened after one that broke or altered it."""

    def __init__(self, connect: Callable[..., Board]) -> None:
        self._connect = connect
        self._board: Board | None = None

    def board(self) -> Board:
        """The open and identified board. Raises HarnessError."""
        if self._board is not None and (_is_altered(self._board) or not self._alive(self._board)):
            self.release()
        if self._board is None:
            self._board = self._connect()
        return self._board

    def release(self) -> None:
        """Closes the shared connection, for a test that opens the port itself. The next ``board()`` opens it again."""
        board, self._board = self._board, None
        if board is not None:
            board.close()

    def _alive(self, board: Board) -> bool:
        from balance_hil.errors import HarnessError

        try:
            board.identify()  # a test may have left it without a handshake, or with another model
        except HarnessError as exc:
            warnings.warn(f"the board does not work after the previous test: {exc}; opening it again", stacklevel=2)
            return False
        return True


def _is_altered(board: Board) -> bool:
    """Whether an injected fault changed its memory: it would fail the next tests, whatever they are about."""
    return board.faults is not None and board.faults.flipped


@pytest.fixture(scope="session")
def hil_open(
    hil_board_name: str,
    hil_bundle: Bundle,
    hil_port: str | None,
    hil_baud: int | None,
    hil_engine: str | None,
    hil_wait: float,
    hil_faults: list[str],
    hil_fault_seed: int,
    hil_broken: str | None,
    pytestconfig: pytest.Config,
) -> Iterator[Callable[..., Board]]:
    """``hil_open(bundle=…, **options) -> Board``: ``connect()`` with the options of the command line."""
    held, chosen = ExitStack(), [hil_board_name]

    def open_board(bundle: Bundle | None = hil_bundle, **options: Any) -> Board:
        from balance_hil import boards
        from balance_hil.boards.bench import is_bound_when_held
        from balance_hil.errors import CableUnpluggedError, ReplyTimeoutError, SilentBoardError

        say = _say_to(pytestconfig) if hil_wait else None
        if is_bound_when_held(chosen[0]):  # for the whole session
            chosen[0] = held.enter_context(boards.held(chosen[0], hil_wait, say, port=hil_port)).definition.name
        where: dict[str, Any] = {"port": hil_port, "baud": hil_baud, "engine": hil_engine, "progress": say, "wait_s": hil_wait}
        where |= {"faults": hil_faults, "fault_seed": hil_fault_seed} if hil_faults else {}
        if hil_broken is not None:
            from balance_hil.verifying.faults import find_fault

            where |= find_fault(hil_broken).options(hil_bundle)
        where |= options
        try:
            return boards.connect(chosen[0], bundle, **where)
        except (CableUnpluggedError, ReplyTimeoutError, SilentBoardError) as exc:
            if where.get("faults") or where.get("tamper") or not boards.power_cycled(chosen[0], hil_wait):
                raise
            warnings.warn(f"{chosen[0]} was power-cycled: {exc}", stacklevel=2)
            return boards.connect(chosen[0], bundle, **where)

    with held:
        yield open_board


@pytest.fixture(scope="session")
def hil_bench(hil_open: Callable[..., Board]) -> Iterator[HilBench]:
    """The board of this session."""
    bench = HilBench(hil_open)
    yield bench
    bench.release()


@pytest.fixture
def hil_board(hil_bench: HilBench, hil_log_dir: Path, request: pytest.FixtureRequest) -> Board:
    """The board under test: identified and responsive, one connection for the whole session."""
    from balance_hil.errors import HarnessError

    try:
        board = hil_bench.board()
    except HarnessError as exc:
        _missing(exc, asked_for=bool(_several(request.config, "board")))
    _record_identity(request.node, board, hil_log_dir)
    return board


@pytest.fixture
def hil_connect(hil_bench: HilBench, hil_open: Callable[..., Board], hil_log_dir: Path) -> Iterator[Callable[..., Board]]:
    """``hil_connect(bundle=…, faults=…) -> Board``: another connection to the same board, closed after the test.

    The session's own connection is released first, because a physical port opens only once.
    """
    with ExitStack() as stack:

        def connect(*args: Any, **options: Any) -> Board:
            hil_bench.release()
            board = hil_open(*args, **options)
            stack.callback(board.close)
            return board

        yield connect


@pytest.fixture(scope="session")
def hil_runtime_tflm(hil_bundle: Bundle) -> Iterator[ModelRuntime]:
    """The reference that a board must equal bit for bit: the official TensorFlow Lite Micro."""
    from balance_hil.errors import HarnessError
    from balance_hil.runtimes import load_runtime
    from balance_hil.runtimes.base import ModelRuntime

    try:
        runtime = load_runtime("tflm", hil_bundle)
    except HarnessError as exc:
        _missing(exc, asked_for=False)
    assert isinstance(runtime, ModelRuntime)
    with runtime:
        yield runtime


# --- logs and measurements --------------------------------------------------------------------------------------------


@pytest.fixture
def hil_log_dir(request: pytest.FixtureRequest, hil_record: Path, hil_report: Path | None) -> Path:
    """A folder for recordings and logs of this test; a failure report names it."""
    from balance_hil.pytest_retries import attempt_key

    attempt = request.node.stash.get(attempt_key, 1)
    name = re.sub(r"[^\w.-]+", "_", request.node.nodeid).strip("_") + (f"_attempt_{attempt}" if attempt > 1 else "")
    folder = hil_record / name
    folder.mkdir(parents=True, exist_ok=True)
    request.node.stash[_log_dir_key] = folder
    request.node.stash[_report_dir_key] = hil_report
    return folder


@pytest.fixture
def hil_measure(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``hil_measure(name, value, unit, minimum=…, maximum=…)``: records a measurement; fails outside its limits."""

    def measure(name: str, value: float, unit: str, *, minimum: float | None = None, maximum: float | None = None) -> None:
        limits = f"[{'' if minimum is None else f'{minimum:g}'}..{'' if maximum is None else f'{maximum:g}'}] {unit}"
        good = (minimum is None or value >= minimum) and (maximum is None or value <= maximum)
        verdict = "" if minimum is None and maximum is None else f" {limits} {'pass' if good else 'fail'}"
        request.node.user_properties.append((f"hil_{name}", f"{value:g} {unit}{verdict}"))
        assert good, f"{name} is {value:g} {unit}, outside {limits}"

    return measure


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Writes the page about a test, and adds board, log directory and the command that repeats it to a failure report."""
    report = yield
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if "hil_board_name" in parameters:
        bundle = parameters.get("hil_bundle_dir") or next(iter(_several(item.config, "bundle")), DEFAULT_BUNDLE)
        vars(report)["hil_suite"] = [parameters["hil_board_name"], Path(str(bundle)).name]
    folder = item.stash.get(_log_dir_key, None)
    pages = item.stash.get(_report_dir_key, None)
    written = _write_page(item, folder, pages, report.failed) if folder and pages and report.when == "call" else []
    if report.failed and folder is not None:
        lines = [
            item.stash.get(_board_key, "no board was open"),
            f"log directory: {folder}",
            *written,
            f"repeat: {_repeated(item)}",
        ]
        if isinstance(report.longrepr, ExceptionRepr):
            report.longrepr.addsection("hil", "\n".join(lines))
        (folder / "failure.txt").write_text(report.longreprtext + "\n")
    return report


def _write_page(item: pytest.Item, folder: Path, pages: Path, failed: bool) -> list[str]:
    """The page about the recordings of a test; of a failed one also their last seconds. Returns what to say about them."""
    from balance_hil.errors import HarnessError
    from balance_hil.recording.folder import keep_last
    from balance_hil.reporting import write_page

    recordings = sorted(folder.glob("*.mcap*"))
    if not recordings:
        return []
    page = pages / f"{folder.name}.html"
    said = []
    try:
        write_page(recordings, page, frames=None if failed else False)
        item.user_properties.append(("hil_report", str(page)))
        said.append(f"report: {page}")
        for recording in recordings if failed else ():
            last = pages / f"{folder.name}-{recording.name.removesuffix('.partial').removesuffix('.mcap')}-last.mcap"
            keep_last(recording, last, KEPT_S)
            said.append(f"last {KEPT_S:g} s of {recording.name}: {last}")
    except HarnessError as exc:
        said.append(f"report: {exc.message}; {exc.hint}")
    return said


def _repeated(item: pytest.Item) -> str:
    """The command that runs this test again, where pytest was started; a node id is relative to another folder."""
    start = item.config.invocation_params.dir
    path = item.path.relative_to(start) if item.path.is_relative_to(start) else item.path
    words = [*_program(start), f"{path}::{item.nodeid.partition('::')[2]}"]
    if ini := item.config.getoption("inifilename"):
        words += ["-c", str(ini)]
    for name in _OPTIONS:
        given = item.config.getoption(_flag(name))
        for value in given if isinstance(given, list) else [] if given is None else [given]:
            # pytest reads a word that begins with "@" as the name of a file
            words += [f"{_flag(name)}={value}"] if str(value).startswith("@") else [_flag(name), str(value)]
    return shlex.join(words)


def _program(start: Path) -> list[str]:
    """pytest of this Python, as it is called in the folder ``start``."""
    found = shutil.which("pytest")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return ["pytest"]
    python = Path(sys.executable)
    return [str(python.relative_to(start) if python.is_relative_to(start) else python), "-m", "pytest"]


def _record_identity(item: pytest.Item, board: Board, folder: Path) -> None:
    info = asdict(board.info)
    (folder / "board.json").write_text(json.dumps(info, indent=2, default=str) + "\n")
    properties = {
        "hil_board": info["board"],
        "hil_engine": f"{info['engine']} {info['engine_version']}".strip(),
        "hil_firmware_commit": info["firmware_commit"],
        "hil_bundle": info["model_id"],
    }
    item.user_properties.extend(properties.items())
    item.stash[_board_key] = ", ".join(f"{name.removeprefix('hil_')} {value}" for name, value in properties.items())


def _say_to(config: pytest.Config) -> Callable[[str], None] | None:
    """Prints lines to the terminal while the output of tests is captured; None: another process has the terminal."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return None if reporter is None else reporter.write_line


def _missing(exc: HarnessError, *, asked_for: bool) -> NoReturn:
    """Skips when a default is missing something it needs, fails otherwise; either way the text names it and the remedy."""
    from balance_hil import errors

    text = f"{exc.message}; {exc.hint}"
    absent = (errors.MissingExtraError, errors.FlashToolMissingError, errors.PortNotFoundError)
    no_bundle = isinstance(exc, errors.BundleError) and not asked_for
    if not asked_for and (isinstance(exc, absent) or no_bundle):
        pytest.skip(text)
    pytest.fail(text, pytrace=False)
