"""A signal ends the program whatever it interrupts, and falls never between making something and being responsible for it."""

import contextlib
import gc
import importlib
import io
import signal
import subprocess
import sys
import tempfile
import threading
from importlib.machinery import ExtensionFileLoader

import pytest

from balance_hil import cli
from balance_hil.errors import MissingExtraError
from balance_hil.files import staging_folder
from balance_hil.interrupt import ended_by_signals, entered

DEADLINE_S = 60.0


def swallows(error):
    """What an extension module does that is interrupted while it is loaded."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    raise error


@pytest.mark.parametrize(
    "error", [ImportError("initialization failed"), MissingExtraError("no tflite_micro", "install it"), SystemExit(cli.MISSING)]
)
def test_after_a_signal_every_error_is_an_interruption(monkeypatch, capsys, error):
    monkeypatch.setattr(cli, "hil", lambda standalone_mode: swallows(error))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == cli.INTERRUPTED
    assert capsys.readouterr().err == ""


def test_a_command_that_is_meant_to_end_by_a_signal_ends_well(monkeypatch):
    monkeypatch.setattr(cli, "hil", lambda standalone_mode: swallows(SystemExit(cli.GOOD)))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == cli.GOOD


def test_a_signal_in_a_destructor_is_not_lost():
    class Interrupted:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def run():
        Interrupted()
        threading.Event().wait(DEADLINE_S)

    with ended_by_signals() as ended, pytest.raises(KeyboardInterrupt):
        run()
    assert ended.by_signal


def test_a_signal_is_not_lost_in_a_file_that_is_closed_as_garbage():
    class Port(io.RawIOBase):  # as a serial port: its class is written in Python, so its end may be interrupted
        def close(self):
            signal.raise_signal(signal.SIGTERM)

    def run():
        port = Port()
        port.itself = port
        del port
        gc.collect()
        threading.Event().wait(DEADLINE_S)

    with ended_by_signals() as ended, pytest.raises(KeyboardInterrupt):
        run()
    assert ended.by_signal


class Made:
    """A context that is interrupted as soon as it has been made, before anybody could enter it."""

    def __init__(self):
        self.is_open = True
        signal.raise_signal(signal.SIGINT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_open = False


def test_what_was_made_when_a_signal_came_is_ended():
    made = []
    with pytest.raises(KeyboardInterrupt), entered(lambda: made.append(Made()) or made[0]):
        pytest.fail("not entered")
    assert not made[0].is_open


def test_no_staging_folder_is_left_when_a_signal_comes_as_it_is_made(tmp_path, monkeypatch):
    make = tempfile.mkdtemp

    def interrupted(*arguments, **options):
        folder = make(*arguments, **options)
        signal.raise_signal(signal.SIGINT)
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", interrupted)
    with pytest.raises(KeyboardInterrupt), staging_folder(tmp_path / "bundle"):
        pytest.fail("not entered")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_waits_while_an_extension_module_is_loaded():
    class Loader(ExtensionFileLoader):
        loaded = False

        def create_module(self):
            signal.raise_signal(signal.SIGTERM)
            self.loaded = True

    loader = Loader("name", "path")

    def run():
        loader.create_module()
        threading.Event().wait(DEADLINE_S)

    with ended_by_signals(), pytest.raises(KeyboardInterrupt):
        run()
    assert loader.loaded


def test_a_signal_waits_while_importlib_takes_a_lock():
    lock = importlib._bootstrap._ModuleLock("name")
    seen = []

    class Interrupted(dict):
        def __setitem__(self, key, value):  # of the threads that wait, in the middle of acquire()
            signal.raise_signal(signal.SIGTERM)
            seen.append(key)
            super().__setitem__(key, value)

    def run(monkeypatch):
        monkeypatch.setattr(importlib._bootstrap, "_blocking_on", Interrupted())
        lock.acquire()
        lock.release()
        threading.Event().wait(DEADLINE_S)

    with pytest.MonkeyPatch.context() as patch, ended_by_signals(), pytest.raises(KeyboardInterrupt):
        run(patch)
    assert seen


def test_ctrl_c_that_python_ignores_while_the_command_is_imported_is_raised_again():
    program = (
        "import signal, time, weakref, balance_hil.cli\n"
        "class Lock: pass\n"
        "lock = Lock()\n"
        "callback = weakref.ref(lock, lambda _: signal.raise_signal(signal.SIGINT))  # as importlib has one\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "del lock\n"
        "time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in done.stderr
