"""Types of the arguments that name a policy, a board or a runtime: found by name, completed by the shell."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from balance_hil.cli.console import say
from balance_hil.errors import UsageError
from balance_hil.paths import MODELS, POLICIES

if TYPE_CHECKING:
    from balance_hil.boards import Board
    from balance_hil.bundle import Bundle

Command = TypeVar("Command", bound=Callable[..., Any])


class PolicyType(click.ParamType[Path]):
    """A policy: a path, or the bare name of one in ``policies/`` or of a shipped one."""

    name = "policy"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path. Raises BundleError."""
        from balance_hil.bundle import locate, no_such_bundle

        path = locate(value)
        if len(path.parts) == 1 and not path.suffix and not path.exists():
            raise no_such_bundle(path)
        if path.parent == POLICIES and Path(value) != path and (MODELS / path.name).is_dir():
            say(f"{value} is your {path}; the shipped one is {MODELS / path.name}")
        return path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names, and whatever the shell finds in this folder."""
        from balance_hil.bundle import bundle_names

        names = [CompletionItem(name) for name in bundle_names() if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]


class NamesType(click.ParamType[str]):
    """A name out of a list that is read when the shell asks for it; several with commas between them."""

    def __init__(self, name: str, known: Callable[[], Iterable[str]]) -> None:
        self.name = name
        self._known = known

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that begin like what follows the last comma."""
        before, comma, begun = incomplete.rpartition(",")
        return [CompletionItem(before + comma + name) for name in self._known() if name.startswith(begun)]


def _boards() -> Iterable[str]:
    from balance_hil.boards.bench import board_names

    return board_names()


def _runtimes() -> Iterable[str]:
    from balance_hil.runtimes import RUNTIME_NAMES

    return RUNTIME_NAMES


@dataclass(frozen=True)
class Access:
    """Connection to a board, or the engine of an emulated one: ``--port``, ``--baud``, ``--engine`` and ``--wait``."""

    port: str | None = None
    baud: int | None = None
    engine: str | None = None
    wait_s: float = 0.0

    def connect(self, board: str, bundle: Bundle | None, **options: Any) -> Board:
        """See ``boards.connect``; its progress goes to stderr."""
        from balance_hil import boards

        return boards.connect(board, bundle, **asdict(self), progress=say, **options)

    @contextlib.contextmanager
    def held(self, board: str) -> Iterator[str]:
        """Reserves the board that "@LABEL" or a farm has, and yields its name; another name stays what it is."""
        from balance_hil import boards
        from balance_hil.boards.bench import is_bound_when_held

        if not is_bound_when_held(board):
            yield board
            return
        with boards.held(board, self.wait_s, say, port=self.port) as place:
            yield place.definition.name

    def require_board(self, board: str | None) -> None:
        """Raises UsageError if an option was given and no board was named."""
        if board is None and self != Access():
            raise UsageError("--port, --baud, --engine and --wait belong to a board", "add --board NAME; list them: hil boards")


WAIT = click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0), default=0.0, metavar="S",
    help="Wait this long, in seconds, for a board that another user holds; see hil boards.",
)  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document: docs/json.md.")


def board_options(command: Command) -> Command:
    """Adds --port, --wait, --baud and --engine, which arrive as ``access``."""

    @functools.wraps(command)
    def with_access(
        *arguments: Any, port: str | None, baud: int | None, engine: str | None, wait_s: float, **options: Any
    ) -> Any:
        return command(*arguments, access=Access(port, baud, engine, wait_s), **options)

    decorated: Any = with_access
    for option in (
        click.option("--engine", metavar="NAME", help="Inference engine of an emulated board; by default from its definition."),
        click.option(
            "--baud", type=click.IntRange(min=1), metavar="BITS_PER_S", help="Baud rate; by default from the board definition."
        ),
        WAIT,
        click.option(
            "--port",
            metavar="PORT",
            help="Device or URL: /dev/ttyACM0, socket://host:port, or the port that hil emulate printed.",
        ),
    ):
        decorated = option(decorated)
    return cast(Command, decorated)


CAMPAIGN = ("jobs", "cluster", "resume")  # parameters that campaign_options adds


@contextlib.contextmanager
def continued_with(folder: Path | None) -> Iterator[None]:
    """Says, when a command is interrupted, that --resume with ``folder`` continues it; None: nothing is kept."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is not None and folder.is_dir():
            say(f"interrupted; the same command with --resume {folder} continues")
        raise


def campaign_options(command: Command) -> Command:
    """Adds --jobs, --cluster and --resume, which arrive as ``campaign``."""

    @functools.wraps(command)
    def with_campaign(*arguments: Any, jobs: int | None, cluster: str | None, resume: Path | None, **options: Any) -> Any:
        from balance_hil.farm.campaign import Campaign

        with continued_with(resume):
            return command(*arguments, campaign=Campaign(jobs=jobs, cluster=cluster, results=resume), **options)

    decorated: Any = with_campaign
    for option in (
        click.option(
            "--resume", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
            help="Keep the result of each task in FOLDER, and do not repeat those that are there.",
        ),
        click.option("--cluster", metavar="local|ADDRESS", help="Use a dask cluster: docs/campaigns.md."),
        click.option("--jobs", type=click.IntRange(min=1), help="Processes; by default one per core."),
    ):  # fmt: skip
        decorated = option(decorated)
    return cast(Command, decorated)


def only(allowed: Iterable[str], mode: str) -> None:
    """Raises UsageError for an option of the command line, by its parameter's name, that would do nothing in ``mode``."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = str(parameter.name)
        if (
            isinstance(parameter, click.Option)
            and name not in (*allowed, "no_history")
            and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        ):
            raise UsageError(f"{parameter.opts[0]} does not go with {mode}", f"leave {parameter.opts[0]} out")


def model_options(command: Command) -> Command:
    """``--spec`` and ``--output``, for a policy that is a ``.tflite`` alone."""
    spec = click.option(
        "--spec", type=click.Path(path_type=Path, dir_okay=False), metavar="SIGNALS.yaml",
        help="Signal table of a bare .tflite: docs/policies.md.",
    )  # fmt: skip
    return spec(click.option("--output", metavar="NAME|K", help="Output of a bare .tflite that is the action.")(command))


def split_board_names(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Each name, also those of lists with commas; "@LABEL:all" becomes its boards. Raises UnknownBoardError, ConfigError."""
    from balance_hil.boards.bench import expanded

    return tuple(expanded(name.strip() for item in given for name in item.split(",") if name.strip()))


POLICY = PolicyType()
BOARD = NamesType("board", _boards)
RUNTIME = NamesType("runtime", _runtimes)
BOARDS = click.option(
    "-b", "--board", "boards", type=BOARD, multiple=True, default=("native",), show_default=True, callback=split_board_names,
    help="Board to run on, or @LABEL, @LABEL:all of boards.toml; see hil boards. Repeat it, or separate by commas, for several.",
)  # fmt: skip
ENVIRONMENT = click.option(
    "-e", "--env", "--environment", "environment", metavar="ID", help="Environment to use instead of the policy's own."
)
OPTIONS = click.option(
    "--options", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.yaml",
    help='Arguments of the environment, and under "reset" options of its reset: docs/environments.md.',
)  # fmt: skip
FAULTS = click.option(
    "--fault", "faults", multiple=True, metavar="FAULT|FILE.yaml",
    help="Inject a fault, NAME[:key=value,…]: drop:rate=0.01, hang:at_s=2; or a sequence from a file: docs/faults.md.",
)  # fmt: skip
SEED = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Index of the first evaluation seed."
)
STEPS = click.option("--steps", type=click.IntRange(min=1), help="Control steps of an episode; by default the environment's own.")
