"""Real-time runs of several processes: none disturbs another, none is overtaken, and the dead do not count."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from balance_hil import core_queue
from balance_hil.core_queue import cores

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has no such locks")
HOLD = """
import sys
from pathlib import Path
from balance_hil import core_queue
core_queue.FOLDER = Path(sys.argv[1])
core_queue.usable_cores = lambda: 2
with core_queue.cores(float(sys.argv[2])):
    print("holds", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(core_queue, "FOLDER", tmp_path / "cores")
    monkeypatch.setattr(core_queue, "LOOK_INTERVAL_S", 0.001)
    monkeypatch.setattr(core_queue, "usable_cores", lambda: 2)
    return tmp_path / "cores"


@contextlib.contextmanager
def another(folder, share):
    """Another process that holds cores until it is told to end."""
    command = [sys.executable, "-c", HOLD, str(folder), str(share)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


class WaitedTooLongError(Exception):
    pass


def blocked(share):
    """What a run that cannot begin is told."""
    told = []

    def give_up():
        raise WaitedTooLongError

    with pytest.raises(WaitedTooLongError), cores(share, told.append, lambda: give_up() if told else None):
        pytest.fail("it began")
    return told


def test_what_fits_begins_at_once_and_leaves_nothing(folder):
    with cores(0.65), cores(0.65), cores(0.65):
        assert len(list(folder.iterdir())) == 3
    assert list(folder.iterdir()) == []


def test_what_does_not_fit_waits_and_says_for_how_many(folder):
    with cores(0.65), cores(0.65):
        assert blocked(0.75) == ["waiting for a free core: 2 real-time runs ahead"]
        with cores(0.7):
            pass
    with another(folder, 1.5):
        assert blocked(1.0) == ["waiting for a free core: 1 real-time run ahead"]


def test_more_than_there_are_is_all_of_them():
    with cores(8.0):
        assert blocked(0.1) == ["waiting for a free core: 1 real-time run ahead"]
    with cores(0.1):
        assert blocked(8.0)


def test_a_killed_owner_does_not_count(folder):
    with another(folder, 2.0) as process:
        told = []

        def kill():
            if told:
                os.kill(process.pid, signal.SIGKILL)

        with cores(1.0, told.append, kill):
            assert told == ["waiting for a free core: 1 real-time run ahead"]
        with cores(2.0):
            assert len(list(folder.iterdir())) == 1, "its ticket is gone, too"


def test_nobody_is_overtaken(folder):
    order = []
    waits, asked = threading.Event(), threading.Event()

    def take(name, share, ready):
        with cores(share, lambda text: ready.set()):
            order.append(name)

    with cores(1.0):
        large = threading.Thread(target=take, args=("large", 2.0, waits))
        large.start()
        assert waits.wait(60)
        small = threading.Thread(target=take, args=("small", 0.5, asked))  # there would be room for it
        small.start()
        assert asked.wait(60)
        assert order == []
    for thread in (large, small):
        thread.join()
    assert order == ["large", "small"]


def test_files_that_are_no_tickets_are_nobodys(folder):
    folder.mkdir()
    (folder / "99999-2000.ticket").mkdir()
    (folder / "1-2000.ticket").symlink_to(folder)
    (folder / "2-2000.ticket").write_text("left by a process that is gone")
    (folder / "x-9.ticket").touch()
    with cores(2.0):
        pass


def test_a_folder_that_cannot_be_written_keeps_nobody_from_running(folder):
    folder.write_text("in the way")
    told = []
    with cores(2.0, told.append), cores(2.0, told.append):
        pass
    assert told[0].startswith(f"real-time runs do not queue for cores here: {folder}: ")


def test_what_a_link_in_its_place_points_to_is_left_alone(folder, tmp_path):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    folder.symlink_to(private)
    told = []
    with cores(1, told.append):
        pass
    assert told == [f"real-time runs do not queue for cores here: {folder}: it is not a folder"]
    assert private.stat().st_mode & 0o777 == 0o700
    assert list(private.iterdir()) == []
