"""Boards of a labgrid farm: a real coordinator, exporter and ser2net on loopback, with emulated boards."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from balance_hil import boards
from balance_hil.benchmarks import farm as bench_farm
from balance_hil.boards.farm import acquired
from balance_hil.boards.flash import FlashConfig, flash
from balance_hil.boards.kinds import labgrid
from balance_hil.boards.kinds.machines import emulate
from balance_hil.boards.place import Place
from balance_hil.boards.power import switch
from balance_hil.bundle import Bundle
from balance_hil.cli import hil as command_line
from balance_hil.errors import (
    FarmError,
    FlashToolMissingError,
    HarnessError,
    PortBusyError,
    PortNotFoundError,
    UnknownBoardError,
    UsageError,
)
from balance_hil.paths import HIL_TESTS, IS_CHECKOUT
from balance_hil.verifying import verify as verifying
from balance_hil.verifying.faults import FAULTS
from balance_hil.verifying.verify import VerifyConfig

from .labgrid_farm import PATIENCE_S, Farm, farm, program


@pytest.fixture(scope="module")
def lab(ppo_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """Places left and right with a native board each, empty with a power switch alone, gone without an exporter."""
    program(labgrid.CLIENT)
    try:
        server = bench_farm.ser2net_program()
    except FlashToolMissingError as exc:
        pytest.skip(f"{exc.message}: {exc.hint}")
    folder = tmp_path_factory.mktemp("farm")
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in ("left", "right"):
            machine = stack.enter_context(contextlib.closing(emulate(boards.find_board("native"), ppo_bundle, engine="int8")))
            connections.append(bench_farm.connection("tcp(nodelay)", machine.start_unopened()))
        ports = stack.enter_context(bench_farm.ser2net(server, folder, connections))
        serial = {"host": "127.0.0.1", "protocol": "raw"}
        places: dict[str, dict[str, Any]] = {
            name: {"NetworkSerialPort": {**serial, "port": port}} for name, port in zip(("left", "right"), ports, strict=True)
        }
        power = {"model": "rest", "host": "POWER"}
        places["left"]["NetworkPowerPort"] = {**power, "index": 0}
        places |= {"empty": {"NetworkPowerPort": {**power, "index": 1}}, "gone": {}}
        it = stack.enter_context(farm(folder, places, {"board": "native"}))
        yield it


@pytest.fixture(autouse=True)
def named(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user has named the farm."""
    if "lab" in request.fixturenames:
        monkeypatch.setenv(labgrid.COORDINATOR_VARIABLE, request.getfixturevalue("lab").address)
        monkeypatch.setenv(labgrid.CLIENT_VARIABLE, request.getfixturevalue("lab").program)


@contextlib.contextmanager
def held_by_carol(lab: Farm, place: str) -> Iterator[None]:
    lab.client("-p", place, "acquire")
    try:
        yield
    finally:
        lab.client("-p", place, "release")


def hil(*words: str) -> Result:
    return CliRunner().invoke(command_line, words, standalone_mode=False)


def test_the_suite_runs_on_one_board_while_the_other_is_somebody_elses(lab: Farm, tmp_path: Path) -> None:
    tests = [str(HIL_TESTS / name) for name in ("test_identity.py", "test_protocol_errors.py")]
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "--hil-board", "labgrid:left"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    with held_by_carol(lab, "right"):
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert lab.holder("right") == "desk/carol"
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert lab.holder("left") == "None"


def test_it_is_run_and_listed(lab: Farm, tmp_path: Path) -> None:
    with held_by_carol(lab, "right"):
        words = ["run", "ppo", "--board", "labgrid:left", "--clock", "lockstep", "--seconds", "1", "--json"]
        command = [sys.executable, "-m", "balance_hil", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        listed = hil("boards", "--json")
        table = labgrid.places()[-1].state
    run = json.loads(done.stdout)["runs"][0]
    assert (run["board"], run["equals_tflm"]["differing"]) == ("labgrid:left", 0)
    assert [path.name.partition("ppo-")[2] for path in tmp_path.glob("recordings/*.mcap")] == ["labgrid-left-lockstep.mcap"]
    places = {place["name"]: place for place in json.loads(listed.stdout)["farms"]}
    left, right = places["labgrid:left"], places["labgrid:right"]
    assert (left["kind"], left["held_by"], left["since"]) == ("native", "", None)
    assert (right["held_by"], abs(right["since"] - time.time()) < PATIENCE_S) == ("carol on desk", True)
    assert table.startswith("held by carol on desk since ")


def test_a_board_is_opened_repeatedly_while_it_is_held(lab: Farm, ppo_bundle: Bundle) -> None:
    with boards.held("labgrid:left") as held:
        who = lab.holder("left")
        for _ in range(2):
            with boards.connect("labgrid:left", ppo_bundle) as board:
                assert board.infer(np.zeros(board.info.n_obs, np.float32)).action.shape == (board.info.n_act,)
                assert (board.name, board.definition.type_name, board.port) == ("labgrid:left", "native", held.port)
            assert lab.holder("left") == who
    assert f".hil-{os.getpid()}-" in who
    assert lab.holder("left") == "None"


HOLD = """
import sys
from balance_hil.boards import held

with held("labgrid:left"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_owner_leaves_the_place_free(lab: Farm) -> None:
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        assert ".hil-" in lab.holder("left")
        owner.kill()
    deadline = time.monotonic() + PATIENCE_S
    while lab.holder("left") != "None":
        assert time.monotonic() < deadline


def test_one_waits_for_a_place_in_the_order_of_arrival(lab: Farm) -> None:
    said: list[str] = []
    order: list[str] = []

    def others() -> None:
        """Carol releases the place: it is the turn of dave, who came before us."""
        lab.client("-p", "right", "release")
        lab.client("-p", "right", "acquire", user="dave")
        order.append("dave")
        lab.client("cancel-reservation", dave)
        lab.client("-p", "right", "release", user="dave")

    def progress(text: str) -> None:
        said.append(text)
        thread.start()

    thread = threading.Thread(target=others)
    lab.client("-p", "right", "acquire")
    dave = lab.reserve("right", "dave")
    with acquired("labgrid:right", PATIENCE_S, progress) as place:
        order.append("we")
        assert place.kind == "native"
    thread.join(PATIENCE_S)
    assert order == ["dave", "we"]
    assert said == [said[0]]
    assert said[0].startswith("waiting up to 60 s: labgrid:right is held by carol on desk since ")
    assert lab.client("reservations") == ""


def test_a_place_that_is_reserved(lab: Farm) -> None:
    token = lab.reserve("right", "dave")
    try:
        with pytest.raises(PortBusyError, match=f"held by reservation {token}") as error, acquired("labgrid:right", 1.0):
            raise AssertionError("it was acquired")
        assert "labgrid-client cancel-reservation" in error.value.hint
        assert lab.client("reservations").count("owner: ") == 1  # the turn that was waited for in vain was given up
    finally:
        lab.client("cancel-reservation", token)


def test_its_power_is_switched_by_the_farm(lab: Farm) -> None:
    done = hil("power", "labgrid:left", "off")
    assert done.exception is None
    assert lab.switched == [("/0", "0")]
    with pytest.raises(UsageError, match="labgrid:right has no power switch in its farm"):
        switch(Place(name="labgrid:right", kind="native", port="socket://bench:4000"), "on")


def test_flashing_is_left_to_the_farm(ppo_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="its probe is not on this computer") as error:
        flash(FlashConfig(bundle=ppo_bundle, board="labgrid:left"), lambda text: None)
    assert "hil run ppo --upload --board labgrid:left" in error.value.hint


def test_verify_holds_the_place_from_the_first_test_to_the_last(
    lab: Farm, ppo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None, str]] = []

    def run_suite(options: dict[str, Any], *, tests: list[str], **_: Any) -> str:
        seen.append((options["board"], options["port"], lab.holder("left")))
        cases = "".join(
            f'<testcase classname="{file[:-3]}" name="{name}"/>' for file, _, name in (t.partition("::") for t in tests)
        )
        return f"<testsuites><testsuite>{cases}</testsuite></testsuites>"

    monkeypatch.setattr(verifying, "run_suite", run_suite)
    faults = [FAULTS["text-silent"]]
    result = verifying.verify(ppo_bundle, VerifyConfig(board="labgrid:left"), faults)
    control, fault = seen
    assert control == fault
    assert (control[0], str(control[1]).partition(":")[0], f".hil-{os.getpid()}-" in control[2]) == ("native", "socket", True)
    assert (result.board, result.count("missed")) == ("labgrid:left", 1)
    with pytest.raises(UsageError, match="labgrid:left has its port from the farm"):
        verifying.verify(ppo_bundle, VerifyConfig(board="labgrid:left", port="/dev/null"), faults)


def test_a_farm_costs_little_where_nothing_waits_for_more_bytes(lab: Farm) -> None:
    rows = {row["what"]: row["value"] for row in bench_farm.run(turns=1) if row["metric"] == "more than the port, p50"}
    assert set(rows) == set(bench_farm.SETTINGS)
    assert (
        max(rows[name] for name in rows if "no chardelay" in name) < min(rows[name] for name in rows if "no char" not in name) / 2
    )


# --- what goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "kind", "message", "hint"),
    [
        ("lefft", UnknownBoardError, "has no place 'lefft', did you mean 'left'?", "places: empty, gone, left, right"),
        ("right", PortBusyError, "labgrid:right is held by carol on desk since ", "--wait 60"),
        ("empty", PortNotFoundError, "labgrid:empty has no serial port: it has NetworkPowerPort", "NetworkSerialPort"),
        ("gone", FarmError, "nothing that its matches name is exported now", "labgrid-exporter"),
    ],
)
def test_a_place_that_cannot_be_used(lab: Farm, place: str, kind: type[HarnessError], message: str, hint: str) -> None:
    with (
        held_by_carol(lab, place) if place == "right" else contextlib.nullcontext(),
        pytest.raises(kind) as error,
        acquired(f"labgrid:{place}"),
    ):
        raise AssertionError("it was acquired")
    assert message in error.value.message
    assert hint in error.value.hint
    assert place != "empty" or lab.holder(place) == "None"


def test_a_coordinator_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    program(labgrid.CLIENT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv(labgrid.COORDINATOR_VARIABLE, address)
    ran = hil("run", "ppo", "--board", "labgrid:left")
    assert (ran.exit_code, f"the labgrid coordinator at {address} does not answer: " in ran.stderr) == (3, True)
    assert "export LG_COORDINATOR=" in ran.stderr
    listed = hil("boards")
    assert (listed.exit_code, f"the labgrid coordinator at {address} does not answer" in listed.stderr) == (0, True)


OTHER_SERVER = """
import grpc
from concurrent import futures

server = grpc.server(futures.ThreadPoolExecutor(2))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"""


def test_a_coordinator_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    python = Path(program(labgrid.CLIENT)).with_name("python")
    with subprocess.Popen([python, "-c", OTHER_SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            monkeypatch.setenv(labgrid.COORDINATOR_VARIABLE, f"127.0.0.1:{server.stdout.readline().strip()}")
            # gRPC ends a call whose refusal comes while it still sends with an error of its own instead of the server's.
            said = r"the greeting \((Method not found!|Internal error from Core)\) .* of another version"
            with pytest.raises(FarmError, match=said) as error:
                labgrid.places()
        finally:
            server.kill()
    assert "export HIL_LABGRID_CLIENT=" in error.value.hint


def test_a_client_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(labgrid, "LABGRID", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(FlashToolMissingError, match="needs labgrid-client, which is not") as error,
        acquired("labgrid:a"),
    ):
        raise AssertionError("it was acquired")
    assert ("make setup" if IS_CHECKOUT else "pip install labgrid") in error.value.hint
    monkeypatch.setenv(labgrid.CLIENT_VARIABLE, "/no/such")
    with pytest.raises(FlashToolMissingError, match="HIL_LABGRID_CLIENT=/no/such, which is no program"), acquired("labgrid:a"):
        raise AssertionError("it was acquired")


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    client = folder / "labgrid-client"
    client.write_text(f"#!/bin/sh\n{script}\n")
    client.chmod(0o755)
    monkeypatch.setenv(labgrid.CLIENT_VARIABLE, str(client))
    monkeypatch.setenv(labgrid.COORDINATOR_VARIABLE, "farm:1")


LISTED = """case "$*" in
  *places*) printf "Place 'a':\\n  tags: x=y, board=%s\\n  acquired: None\\n  changed: 2026-01-01 00:00:00\\n" "$TYPE";;
  *env*) printf '%b' "$ENV_OUTPUT";;
esac"""
SERIAL = "{{NetworkSerialPort: {{host: {host}, port: {port}{rest}}}}}"


@pytest.mark.parametrize(
    ("host", "port", "rest", "url", "baud"),
    [
        ("lab", "4000", ", protocol: raw, speed: 9600", "socket://lab:4000", 0),
        ("lab", "4000", ", speed: 9600", "rfc2217://lab:4000?ign_set_control", 9600),
        ("'::1'", "4000", ", protocol: raw", "socket://[::1]:4000", 0),
    ],
)
def test_a_serial_port_is_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, port: str, rest: str, url: str, baud: int
) -> None:
    fake(tmp_path, monkeypatch, LISTED)
    monkeypatch.setenv("ENV_OUTPUT", f"targets: {{a: {{resources: [{SERIAL.format(host=host, port=port, rest=rest)}]}}}}")
    with acquired("labgrid:a") as place:
        assert (place.name, place.port, place.baud, place.labels, place.has_switch) == ("labgrid:a", url, baud, ("x=y",), False)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("targets: {a: {resources: [{NetworkSerialPort: {host: lab, port: null}}]}}", "is not served"),
        ("targets: {b: {}}", "does not understand the environment of a"),
        ("- x", "is not a table"),
        ("[" * 5000, "nested"),
        ("targets: {a: {resources: [{A: {}}, {NetworkSerialPort: {}}, {NetworkSerialPort: {}}]}}", "2 serial ports"),
    ],
)
def test_nonsense_of_the_client_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, message: str) -> None:
    fake(tmp_path, monkeypatch, LISTED)
    monkeypatch.setenv("ENV_OUTPUT", output)
    with pytest.raises(HarnessError, match=message), acquired("labgrid:a"):
        raise AssertionError("it was acquired")


def test_a_list_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, "echo what is this")
    assert labgrid.places() == []
    fake(tmp_path, monkeypatch, "echo \"Place 'a':\"")
    with pytest.raises(FarmError, match="does not understand its list of places"):
        labgrid.places()


def test_a_type_of_board_that_is_none_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path, monkeypatch, LISTED)
    monkeypatch.setenv("TYPE", "nativ")
    monkeypatch.setenv("ENV_OUTPUT", f"targets: {{a: {{resources: [{SERIAL.format(host='lab', port=1, rest='')}]}}}}")
    with pytest.raises(HarnessError, match="labgrid:a is a board 'nativ', did you mean 'native'"), boards.held("labgrid:a"):
        raise AssertionError("it was held")


def test_names_that_mean_no_place() -> None:
    with pytest.raises(UnknownBoardError, match="names no place"):
        boards.find_board("labgrid:")
    with pytest.raises(UnknownBoardError, match="unknown board 'native:a'"):
        boards.find_board("native:a")
