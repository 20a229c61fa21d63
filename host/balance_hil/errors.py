"""The one family of errors that balance_hil raises.

Every error states a fact and carries a ``hint``: what the user can type or do next. The library raises; only
``balance_hil.cli`` prints them. Each subclass also inherits the builtin that generic code would catch.
"""

from __future__ import annotations

import shutil
from typing import Any

from balance_hil.paths import IS_CHECKOUT, install_command


class HarnessError(Exception):
    """Root of every error that balance_hil raises on purpose.

    Args:
        message: the fact, one sentence, no trailing stop.
        hint: the remedy, naming the command to run where there is one.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process boundaries whole: the default would call the class with the message alone."""
        return type(self), (self.message, self.hint), self.__dict__


# --- finding and opening the port -------------------------------------------------------------------------------------


class PortNotFoundError(HarnessError, FileNotFoundError):
    """The serial port does not exist."""


class PortBusyError(HarnessError, BlockingIOError):
    """Another program holds the serial port."""


class PortPermissionError(HarnessError, PermissionError):
    """The user may not open the serial port; the message names the group that may."""


class PortOpenError(HarnessError, OSError):
    """The port or URL exists but opening it failed for another reason (connection refused, not a serial port)."""


# --- talking to the board ---------------------------------------------------------------------------------------------


class LinkError(HarnessError):
    """Root of everything that goes wrong on an open link."""


class CableUnpluggedError(LinkError, ConnectionError):
    """The port vanished while it was in use."""


class SilentBoardError(LinkError, TimeoutError):
    """The port is open and not one byte arrived."""


class WrongBaudError(LinkError):
    """Bytes arrive and none of them decode: baud rates differ."""


class NotOurFirmwareError(LinkError):
    """The board sends readable text, but not this project's handshake."""


class ReplyTimeoutError(LinkError, TimeoutError):
    """A board that had identified itself stopped answering."""


class TooManyLostError(LinkError):
    """More replies were lost or late than ``--max-lost`` allows."""


class ProtocolMismatchError(LinkError):
    """The board speaks another protocol version or was built from another message schema."""


class ModelMismatchError(LinkError):
    """The board runs another model than the bundle (stale image)."""


class BoardRebootedError(LinkError):
    """The board restarted while a request was in flight."""


class BoardStatusError(LinkError):
    """The board answered a request with ERROR.

    Args:
        status: name of the status in ``protocol/schema.toml``.
        detail: the one word of detail that came with it.
    """

    def __init__(self, message: str, hint: str, status: str = "", detail: int = 0) -> None:
        super().__init__(message, hint)
        self.status = status
        self.detail = detail


# --- firmware and flashing --------------------------------------------------------------------------------------------


class UnknownBoardError(HarnessError, KeyError):
    """No board has that name."""

    __str__ = HarnessError.__str__


class FirmwareBuildError(HarnessError):
    """Building the firmware failed; the message carries the tool's last lines."""


class FlashToolMissingError(HarnessError, FileNotFoundError):
    """The program that builds or flashes is not installed."""


class FlashFailedError(HarnessError):
    """The flash tool failed; the message carries its last lines."""


class AmbiguousBoardError(HarnessError, LookupError):
    """Several connected boards match; the message lists them."""


class WrongBoardError(HarnessError, ValueError):
    """The board on the port identifies itself as another type."""


class PowerSwitchError(HarnessError, RuntimeError):
    """The power switch of a board of the bench failed."""


class BoardNotBackError(HarnessError, TimeoutError):
    """A board did not come back after it was flashed."""


class FarmError(HarnessError, ConnectionError):
    """A farm of boards does not answer, cannot be understood, or cannot provide the board."""


class UnsupportedOperatorError(HarnessError, NotImplementedError):
    """An engine cannot run an operator of the model; the message names it."""


class ArenaTooSmallError(HarnessError, MemoryError):
    """The tensor arena is too small; the message says what was needed and what there was.

    Args:
        needed_bytes: smallest arena that works; 0 = unknown.
    """

    def __init__(self, message: str, hint: str, needed_bytes: int = 0) -> None:
        super().__init__(message, hint)
        self.needed_bytes = needed_bytes


class ModelTooWideError(HarnessError, ValueError):
    """Inputs, outputs or a layer of the model do not fit a message to or from the board."""


class EmulatorMissingError(HarnessError, FileNotFoundError):
    """The program that emulates a board is not installed."""


class BoardBootError(HarnessError):
    """An emulated board's process ended before it reported READY; the message carries its last lines."""


# --- models and bundles -----------------------------------------------------------------------------------------------


class ElementTypeError(HarnessError, ValueError):
    """The model's input, output or what lies between is of an element type that nothing here, or not this engine, runs."""


class BundleError(HarnessError, ValueError):
    """A bundle is missing a file, was altered, or is not a bundle."""


class EnvironmentMismatchError(HarnessError, ValueError):
    """The signals of an environment are not those that the policy was made for, or a checkpoint is of another environment."""


class UnknownEnvironmentError(HarnessError, KeyError):
    """No environment of that id is registered."""

    __str__ = HarnessError.__str__


class UnsupportedEnvironmentError(HarnessError, TypeError):
    """An environment cannot be the plant of a policy on a board: its spaces, its limits, or no control period."""


class CheckpointError(HarnessError, ValueError):
    """A checkpoint cannot be read, or not without running its code."""


class ConfigError(HarnessError, ValueError):
    """A configuration file has an unknown key or a value out of range; the message names the key."""


class TrainingError(HarnessError, RuntimeError):
    """Training cannot go on (a non-finite observation, a diverged simulation)."""


class SimulationDivergedError(HarnessError, FloatingPointError):
    """The physics is no longer finite; the message carries the state.

    ``crash_repro`` is the episode, for a rerun; None if it was not saved.
    """

    crash_repro: Any = None


class CalibrationLogError(HarnessError, ValueError):
    """A step response cannot be read, or does not determine the motor's parameters."""


class ExportError(HarnessError, RuntimeError):
    """A stage of the export failed, or the quantized policy survives less than the float one."""


class RecordingError(HarnessError, ValueError):
    """A file is not a recording of balance_hil, or is truncated."""


class RecordingExistsError(RecordingError):
    """A recording of this name is being written, or was cut off."""


class RecordingMismatchError(RecordingError):
    """The recording is of a run of another model than the bundle."""


class HistoryError(HarnessError, RuntimeError):
    """The database of results is missing, damaged, or of a later version."""


class NonFiniteInputError(HarnessError, ValueError):
    """A NaN or an infinity where a number is needed; ``crash_repro`` as for SimulationDivergedError."""

    crash_repro: Any = None


# --- the installation -------------------------------------------------------------------------------------------------


class ClusterError(HarnessError, ConnectionError):
    """A cluster does not answer, cannot run the tasks, or lost its workers again and again."""


class MissingExtraError(HarnessError, ImportError):
    """A Python package of an extra is not installed; the hint names the extra."""


class DisplayMissingError(HarnessError, RuntimeError):
    """A window was asked for and there is no display."""


class UsageError(HarnessError, ValueError):
    """Arguments that do not go together, or a value out of its range."""


def first_line(exc: BaseException) -> str:
    """The first line of an exception of another library, or its kind where it has no text."""
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)


def require(module: str, extra: str) -> None:
    """Raises ``MissingExtraError`` unless ``module`` can be imported; ``extra`` names what installs it."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingExtraError(
            f"this needs the Python package {module!r}, which is not installed", f"install it: {install_command(extra)}"
        )


def require_tool(program: str, purpose: str, package: str) -> None:
    """Raises ``FlashToolMissingError`` unless ``program`` is there; ``package`` is what Debian calls it."""
    if shutil.which(program) is None:
        raise FlashToolMissingError(
            f"{purpose} needs the program {program}, which is not installed",
            f"install it: {'make setup' if IS_CHECKOUT else f'apt-get install {package}'}",
        )
