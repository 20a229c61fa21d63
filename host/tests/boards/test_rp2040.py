"""The Raspberry Pi Pico as a board: the image that is flashed, executed by an emulator of its chip."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balance_hil.boards import Board, connect, find_definition
from balance_hil.boards.kinds import rp2040
from balance_hil.boards.kinds.emulated import EmulationConfig
from balance_hil.boards.kinds.rp2040 import Rp2040Machine
from balance_hil.bundle import INT8_MODEL, Bundle
from balance_hil.errors import BoardBootError, EmulatorMissingError, HarnessError, PortBusyError, ReplyTimeoutError, UsageError
from balance_hil.link import open_link, parse_fault
from balance_hil.model_image import ModelImage
from balance_hil.protocol import messages
from balance_hil.recording import read_recording
from balance_hil.running import RunConfig, RunResult, run
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.synthetic_bundle import bundle_of_model
from balance_hil.testing.synthetic_models import actor

FLASH = 0x1000_0000
RP2040_FAMILY = 0xE48B_FF56


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    try:
        rp2040.check_installation()
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")


@pytest.fixture(scope="module")
def board(ppo_bundle: Bundle) -> Iterator[Board]:
    with connect("pico", ppo_bundle) as board:
        yield board


@pytest.fixture(scope="module")
def image(ppo_bundle: Bundle) -> Path:
    machine = Rp2040Machine(find_definition("pico"), EmulationConfig(name="pico", engine="int8", image=ModelImage.of(ppo_bundle)))
    machine.close()
    return machine._uf2


def test_the_image_is_a_uf2_file_for_this_chip_with_the_checksum_that_its_rom_wants(image: Path):
    data = image.read_bytes()
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    heads = [struct.unpack("<8I", block[:32]) for block in blocks]
    assert {head[0] for head in heads} == {0x0A324655}
    assert {head[7] for head in heads} == {RP2040_FAMILY}
    assert [head[3] for head in heads] == [FLASH + 256 * n for n in range(len(blocks))]
    assert [head[5:7] for head in heads] == [(n, len(blocks)) for n in range(len(blocks))]
    assert {block[-4:] for block in blocks} == {struct.pack("<I", 0x0AB16F30)}
    boot = blocks[0][32 : 32 + 256]
    crc = 0xFFFF_FFFF
    for bit in (
        byte >> shift & 1 for byte in boot[:252] for shift in range(7, -1, -1)
    ):  # bit by bit: another way than the build's
        crc = (crc << 1 & 0xFFFF_FFFF) ^ (0x04C1_1DB7 if crc >> 31 ^ bit else 0)
    assert struct.unpack("<I", boot[252:]) == (crc,)


def test_random_inputs_give_the_bits_of_tflm(board: Board, ppo_bundle: Bundle):
    inputs = np.random.default_rng(0).integers(-128, 128, (200, 6), dtype=np.int8)
    expected = TflmRuntime(ppo_bundle.file(INT8_MODEL).read_bytes()).infer_raw_batch(inputs)
    np.testing.assert_array_equal(np.stack([action.output for action in board.infer_raw_batch(inputs)]), expected)


def test_quantizing_by_tables_gives_the_bits_of_the_hosts_division(board: Board, ppo_bundle: Bundle):
    scale, zero_point = ppo_bundle.input_quant.scale, ppo_bundle.input_quant.zero_point
    middles = ((np.arange(-130, 130) - zero_point + 0.5) * scale).astype(np.float32)
    near = [np.nextafter(middles, np.float32(side)) for side in (-np.inf, np.inf)]
    values = np.concatenate([middles, *near, np.float32([0.0, -0.0, 1e-45, 3e38, -3e38, 1e30]), middles[:6]])
    rows = np.resize(values, (-(-len(values) // 6), 6)).astype(np.float32)
    got = np.stack([action.input for action in board.infer_batch(rows)])
    np.testing.assert_array_equal(got, np.stack([ppo_bundle.quantized(row) for row in rows]))


@pytest.mark.parametrize("activation", ["RELU", "TANH"])
@pytest.mark.parametrize("layers", [(4, 2), (5, 3, 1), (7, 6, 5, 2), (13, 21, 3), (6, 34, 9, 2)])
def test_uploaded_models_of_any_shape_give_the_bits_of_tflm(board: Board, ppo_bundle: Bundle, tmp_path: Path, layers, activation):
    model = actor(layers, activation, per_channel=True, seed=1)
    bundle = bundle_of_model(tmp_path / "policy", model)
    inputs = np.random.default_rng(len(layers)).integers(-128, 128, (60, layers[0]), dtype=np.int8)
    inputs[:2] = [[-128], [127]]
    board.load(bundle)
    got = np.stack([action.output for action in board.infer_raw_batch(inputs)])
    board.bundle = ppo_bundle
    board.reset()  # to the flashed model
    np.testing.assert_array_equal(got, TflmRuntime(bundle.file(INT8_MODEL).read_bytes()).infer_raw_batch(inputs))


def test_the_time_of_an_inference_is_the_chips(board: Board):
    times = {action.inference_us for action in (board.infer(np.zeros(6, np.float32)) for _ in range(20))}
    assert max(times) - min(times) <= 2  # cycles are counted: only a tick of SysTick may come between


def test_the_parts_of_an_inference_add_up_in_the_chips_cycles(board: Board, ppo_bundle: Bundle):
    profile = board.profile()
    assert profile.unit == "cycles"
    assert [name for name, _ in profile.operators] == ["FULLY_CONNECTED"] * 3
    assert sum(profile.parts.values()) == pytest.approx(profile.total, rel=0.02)
    assert sum(cost for _, cost in profile.operators) == pytest.approx(profile.engine, rel=0.02)
    inference_us = board.infer(ppo_bundle.golden("observations")[0]).inference_us
    assert profile.engine == pytest.approx(inference_us * 125, rel=0.03)  # MHz, of the PLL; ACTION counts whole microseconds


def test_a_run_has_the_chips_cycles_and_no_instructions(board: Board, ppo_bundle: Bundle):
    result = run(board, ppo_bundle, RunConfig(seeds=[0], clock="lockstep", max_steps=20))
    document = result.to_dict()
    assert document["instructions_per_inference"] is None
    assert document["cycles_per_inference"] == round(result.inference_us.quantile(0.5) * 125)  # MHz, of the PLL
    assert document["cycles_per_inference"] > 1_000
    assert document["cost"]["unit"] == "cycles"
    parts = document["cost"]["parts"]
    assert [name for name in parts if name[0].isdigit()] == [f"{index} FULLY_CONNECTED" for index in range(3)]
    assert parts["engine"] == pytest.approx(document["cycles_per_inference"], rel=0.03)
    assert not {"cost", "cycles_per_inference"} & set(result.outcome()), "in lockstep a recording keeps only what repeats"


def test_the_chip_comes_back_from_its_button_and_from_a_loss_of_power(board: Board):
    before = board.infer(np.zeros(6, np.float32)).output
    board.press_reset()
    np.testing.assert_array_equal(board.infer(np.zeros(6, np.float32)).output, before)
    board.power_cycle()
    np.testing.assert_array_equal(board.infer(np.zeros(6, np.float32)).output, before)


@pytest.mark.slow
def test_the_boot_loader_is_entered_through_the_roms_table_and_a_reset_leaves_it(ppo_bundle: Bundle):
    with connect("pico", ppo_bundle) as board:
        board.enter_bootloader()
        with pytest.raises(ReplyTimeoutError):
            board.request(messages.Echo(b""), timeout_s=2.0)  # longer than the chip's watchdog, which would end it
        board.press_reset()
        assert board.echo(b"back") == b"back"


def test_a_second_client_is_refused_at_once(ppo_bundle: Bundle):
    machine = Rp2040Machine(find_definition("pico"), EmulationConfig(name="pico", engine="int8", image=ModelImage.of(ppo_bundle)))
    try:
        port = machine.start_unopened()
        with connect("serial", ppo_bundle, port=port) as board:
            with pytest.raises(PortBusyError, match="is busy; its server says 'busy: this board serves one program"):
                Board(open_link(port))  # without a reservation, like a program of somebody else
            assert board.echo(b"still here") == b"still here"
        with connect("serial", ppo_bundle, port=port) as board:
            assert board.echo(b"free again") == b"free again"
    finally:
        machine.close()


def test_an_image_that_the_rom_would_refuse_does_not_start(image: Path, ppo_bundle: Bundle, tmp_path: Path):
    machine = Rp2040Machine(find_definition("pico"), EmulationConfig(name="pico", engine="int8", image=ModelImage.of(ppo_bundle)))
    damaged = bytearray(image.read_bytes())
    damaged[40] ^= 1
    machine._uf2 = tmp_path / "damaged.uf2"
    machine._uf2.write_bytes(damaged)
    try:
        with pytest.raises(BoardBootError, match="checksum of the second-stage boot"):
            machine.start_unopened()
    finally:
        machine.close()


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(rp2040, "EMULATORS", tmp_path)
    with pytest.raises(EmulatorMissingError, match="npm package rp2040js") as caught:
        rp2040.emulator()
    assert caught.value.hint.startswith("install it: npm install --prefix")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(EmulatorMissingError, match="needs node"):
        rp2040.emulator()


# --- the device clock -----------------------------------------------------------------------------------------------------


def recorded(bundle: Bundle, path: Path, **options: Any) -> RunResult:
    with connect("pico", bundle, device_clock=True, **options) as board:
        return run(board, bundle, RunConfig(seeds=[3], clock="device", max_steps=60, recording=path, max_lost=60))


@pytest.mark.slow
def test_a_run_on_the_device_clock_repeats_bit_for_bit_with_the_chips_latency(ppo_bundle: Bundle, tmp_path: Path):
    first, again = recorded(ppo_bundle, tmp_path / "1.mcap"), recorded(ppo_bundle, tmp_path / "2.mcap")
    assert (tmp_path / "1.mcap").read_bytes() == (tmp_path / "2.mcap").read_bytes()
    assert (first.late, first.lost, first.held_steps) == (0, 0, 0)
    assert read_recording(tmp_path / "1.mcap").meta["result"]["cost"] == again.cost
    # 43 bytes to the chip and 34 back at 921,600 baud, and the inference: nothing of this computer's time.
    assert 0.8e3 < first.round_trip_us.quantile(0.5) < 1.4e3
    assert first.round_trip_us.max - first.round_trip_us.quantile(0.01) < 40
    assert again.verdict.good


@pytest.mark.slow
def test_on_the_device_clock_a_delay_of_the_link_is_one_of_the_chips_time(ppo_bundle: Bundle, tmp_path: Path):
    slow = recorded(ppo_bundle, tmp_path / "slow.mcap", faults=[parse_fault("delay:s=0.002,direction=rx")])
    assert 2.8e3 < slow.round_trip_us.quantile(0.5) < 3.4e3
    late = recorded(ppo_bundle, tmp_path / "late.mcap", faults=[parse_fault("delay:s=0.005,direction=rx")])
    assert late.late > 55


def test_only_a_board_whose_cycles_are_counted_paces_a_run(ppo_bundle: Bundle):
    with pytest.raises(UsageError, match="no clock of its own"):
        connect("native", ppo_bundle, device_clock=True)
    with pytest.raises(UsageError, match="cannot pace"):
        connect("pico", ppo_bundle, port="/dev/ttyACM9", device_clock=True)
    with connect("native", ppo_bundle) as board, pytest.raises(UsageError, match="does not fit"):
        run(board, ppo_bundle, RunConfig(seeds=[0], clock="device", max_steps=1))
