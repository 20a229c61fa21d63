"""Models whose input or output does not fit a frame, on boards."""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.boards import Board, connect, session
from balance_hil.boards.kinds import qemu
from balance_hil.boards.pieces import MAX_ATTEMPTS, OBSERVATION_PIECE, TENSOR_PIECE, PiecedInference, fits_frame
from balance_hil.bundle import Bundle
from balance_hil.errors import BoardStatusError, HarnessError, LinkError
from balance_hil.model_image import MAX_ACT, MAX_OBS
from balance_hil.protocol import messages
from balance_hil.protocol.messages import Action, Status
from balance_hil.protocol.wire import Message
from balance_hil.quantize import ELEMENT_TYPES, INT8, ElementType, Normalization, QuantParams, dequantize, quantize
from balance_hil.testing.fake_board import FakeFirmware, fake_board, fake_info
from balance_hil.testing.synthetic_bundle import synthetic_bundle

N_OBS, N_ACT = 1300, 1100
QUANT = QuantParams(1 / 64, 3)


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory) -> Bundle:
    rng = np.random.default_rng(1)
    by = Normalization(rng.normal(0, 1, N_OBS).astype(np.float32), rng.uniform(0.5, 2, N_OBS).astype(np.float32), np.float32(8))
    return synthetic_bundle(tmp_path_factory.mktemp("wide") / "bundle", N_OBS, N_ACT, normalization=by, hidden=8)


@pytest.fixture(scope="module", params=["int8", "tflm"])
def board(request, wide_bundle: Bundle):
    with connect("native", wide_bundle, engine=request.param) as board:
        yield board


def test_every_inference_equals_the_golden_one(board: Board, wide_bundle: Bundle) -> None:
    assert (board.info.n_obs, board.info.n_act, board.in_pieces, board.info.max_text) == (N_OBS, N_ACT, True, 0)
    golden = {name: wide_bundle.golden(name)[:20] for name in ("observations", "input_int8", "output_int8", "actions", "op_0")}
    for actions in (board.infer_batch(golden["observations"]), board.infer_raw_batch(golden["input_int8"])):
        assert np.array_equal(np.stack([action.input for action in actions]), golden["input_int8"])
        assert np.array_equal(np.stack([action.output for action in actions]), golden["output_int8"])
        assert np.stack([action.action for action in actions]).tobytes() == golden["actions"].tobytes()
    layers = board.layers_raw_batch(golden["input_int8"][:3])
    assert np.array_equal(layers[0].values, golden["op_0"][:3])
    assert layers[-1].values.shape == (3, N_ACT)
    assert board.profile().repeats >= 1


def test_an_emulated_board_is_built_for_a_wide_model(tmp_path) -> None:
    try:
        qemu.check_installation()
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    bundle = synthetic_bundle(tmp_path / "bundle", 300, 80, hidden=8)
    golden = {name: bundle.golden(name)[:5] for name in ("observations", "input_int8", "output_int8", "op_0")}
    with connect("qemu-m4", bundle, engine="int8") as board:
        assert (board.info.n_obs, board.info.n_act, board.in_pieces) == (300, 80, True)
        for actions in (board.infer_batch(golden["observations"]), board.infer_raw_batch(golden["input_int8"])):
            assert np.array_equal(np.stack([action.output for action in actions]), golden["output_int8"])
        assert np.array_equal(board.layers_raw_batch(golden["input_int8"])[0].values, golden["op_0"])
        assert board.self_test().mismatches == 0


def test_an_input_of_another_size_is_refused(board: Board) -> None:
    with pytest.raises(BoardStatusError, match=f"does not take {N_OBS - 1} values: wrong_count, detail {N_OBS}"):
        board.infer(np.zeros(N_OBS - 1, np.float32))


@pytest.mark.parametrize(
    "fault",
    ["drop:rate=0.02", "corrupt:rate=0.02", "duplicate:rate=0.2", pytest.param("reorder:rate=0.2", marks=pytest.mark.slow)],
)
def test_a_faulty_link_never_gives_a_wrong_result(wide_bundle: Bundle, fault: str, monkeypatch) -> None:
    monkeypatch.setattr(session, "REPLY_TIMEOUT_S", {"board": 0.1})
    monkeypatch.setattr(session, "STORED_TIMEOUT_S", 0.1)
    right = wide_bundle.golden("output_int8")
    complete = 0
    with connect("native", wide_bundle, engine="int8", faults=[fault], fault_seed=3) as board:
        for row, values in enumerate(wide_bundle.golden("input_int8")[:40]):
            try:
                action = board.infer_raw(values)
            except HarnessError:
                continue
            complete += 1
            assert np.array_equal(action.output, right[row])
    assert complete


@pytest.mark.parametrize(
    ("n_obs", "n_act", "fits"), [(255, 64, True), (256, 1, False), (6, 199, True), (4, 201, True), (4, 202, False)]
)
def test_what_fits_a_frame(n_obs: int, n_act: int, fits: bool) -> None:
    observation, values = np.zeros(n_obs, np.float32), np.zeros(n_act, np.float32)
    action = Action(0, observation.astype(np.int8), values.astype(np.int8), values, 0, 0)
    assert max(len(messages.Infer(observation).pack()), len(action.pack())) <= messages.MAX_PAYLOAD or not fits
    assert fits_frame(n_obs, n_act) is fits


@pytest.mark.parametrize("kind", ELEMENT_TYPES.values(), ids=lambda kind: kind.name)
def test_what_a_board_without_pieces_takes_fits_a_frame(kind: ElementType) -> None:
    width = kind.dtype.itemsize
    observation, action = np.zeros(MAX_OBS // width, np.float32), np.zeros(MAX_ACT // width, np.float32)
    reply = Action(0, np.zeros(MAX_OBS, np.int8), np.zeros(MAX_ACT, np.int8), action, 0, 0)
    assert max(len(messages.Infer(observation).pack()), len(reply.pack())) <= messages.MAX_PAYLOAD
    assert fits_frame(observation.size, action.size, width)


class FakeMemory:
    """What a board answers to requests in pieces: it negates the bytes of its input, in ``n_act`` values.

    ``quant``: by which it dequantizes; ``of_input``: by which it quantizes.
    """

    def __init__(self, n_obs: int, n_act: int, quant: QuantParams, of_input: QuantParams = QUANT) -> None:
        self.dtype, self.of_input, self.quant = quant.kind.dtype, of_input, quant
        self.input = np.zeros(n_obs * self.dtype.itemsize, np.int8)
        self.size = n_act * self.dtype.itemsize
        self.output = np.zeros(self.size, np.int8)

    def answer(self, request: Message) -> Message:
        match request:
            case messages.InputData(offset=offset, values=values):
                return self._store(offset, values)
            case messages.ObservationData(offset=offset, values=values):
                raw = quantize(values, self.of_input).view(np.int8)
                return self._store(offset * self.dtype.itemsize, raw)
            case messages.InferStored(input_crc=crc):
                if crc != (own := zlib.crc32(self.input.tobytes())):
                    return messages.Error(Status.UPLOAD_DAMAGED, own, request.TYPE)
                self.output = np.resize(~self.input, self.size)
                crcs = (zlib.crc32(values.tobytes()) for values in (self.output, self.action()))
                return messages.Inferred(crc, *crcs, 5, 6)
            case messages.Tensor(op=op, offset=offset):
                values = self.action().view(np.int8) if op == messages.ACTION_TENSOR else self.output
                return messages.TensorData(op, offset, len(values), values[offset : offset + TENSOR_PIECE])
        raise AssertionError(request)

    def action(self) -> np.ndarray:
        return dequantize(self.output.view(self.dtype), self.quant)

    def _store(self, offset: int, values: np.ndarray) -> Message:
        self.input[offset : offset + len(values)] = values
        return messages.TensorData(messages.INPUT_TENSOR, offset, len(self.input), values)


def run(inference: PiecedInference, answer) -> Action | messages.Error:
    """The result, with replies in the order of the requests."""
    asked: deque[Message] = deque()
    for _ in range(10_000):
        asked.extend(inference.pending)
        inference.pending.clear()
        attempts = inference.attempts
        result = inference.take(asked[0], answer(asked.popleft()))
        if result is not None:
            return result
        if inference.attempts != attempts:
            asked.clear()
    pytest.fail("it asks forever")


@given(
    n_obs=st.integers(1, 3000),
    n_act=st.integers(1, 3000),
    seed=st.integers(0, 99),
    raw=st.booleans(),
    same=st.booleans(),
    kind=st.sampled_from(list(ELEMENT_TYPES.values())),
)
def test_pieces_of_any_size_make_the_whole(n_obs: int, n_act: int, seed: int, raw: bool, same: bool, kind: ElementType) -> None:
    """``same``: the board dequantizes as the host does; else its own actions are read."""
    rng = np.random.default_rng(seed)
    observation = rng.normal(0, 1, n_obs).astype(np.float32)
    quant = QuantParams(QUANT.scale, QUANT.zero_point if kind == INT8 else 0, kind)
    codes = quantize(observation, quant)
    board = FakeMemory(n_obs, n_act, quant if same else QuantParams(1 / 32, 0, kind), quant)
    inference = PiecedInference(codes if raw else observation, n_act, quant, "here", raw=raw)
    assert all(len(request.pack()) <= messages.MAX_PAYLOAD for request in inference.pending)
    action = run(inference, board.answer)
    assert isinstance(action, Action)
    assert action.input.dtype == action.output.dtype == kind.dtype
    assert action.input.tobytes() == codes.tobytes()
    assert action.output.tobytes() == np.resize(~codes.view(np.int8), board.size).tobytes()
    assert action.action.tobytes() == dequantize(action.output, board.quant).tobytes()
    assert (action.inference_us, action.total_us) == (5, 6)


def _differs(reply, **change):
    return replace(reply, **{name: value(getattr(reply, name)) for name, value in change.items()})


@pytest.mark.parametrize(
    ("of", "change"),
    [
        (messages.InputData, {"op": lambda op: 0}),
        (messages.InputData, {"offset": lambda offset: offset + 1}),
        (messages.InputData, {"size": lambda size: size + 1}),
        (messages.InputData, {"values": lambda values: values[:-1]}),
        (messages.InputData, {"values": lambda values: np.append(values, np.int8(0))}),
        (messages.InputData, {"values": lambda values: ~values}),
        (messages.InferStored, {"input_crc": lambda crc: crc ^ 1}),
        (messages.InferStored, {"output_crc": lambda crc: crc ^ 1}),
        (messages.InferStored, {"action_crc": lambda crc: crc ^ 1}),
        (messages.Tensor, {"op": lambda op: 0}),
        (messages.Tensor, {"offset": lambda offset: offset + 1}),
        (messages.Tensor, {"size": lambda size: 2**32 - 1}),
        (messages.Tensor, {"size": lambda size: size + 1}),
        (messages.Tensor, {"values": lambda values: values[:-1]}),
        (messages.Tensor, {"values": lambda values: ~values}),
    ],
)
def test_a_reply_that_cannot_be_right_is_an_error(of: type[Message], change) -> None:
    board = FakeMemory(N_OBS, N_ACT, QUANT)

    def answer(request: Message) -> Message:
        reply = board.answer(request)
        return _differs(reply, **change) if isinstance(request, of) else reply

    with pytest.raises(LinkError, match="the board on here"):
        run(PiecedInference(np.ones(N_OBS, np.int8), N_ACT, QUANT, "here", raw=True), answer)


@pytest.mark.parametrize("of", [messages.InputData, messages.InferStored, messages.Tensor])
def test_a_reply_of_another_type_is_an_error(of: type[Message]) -> None:
    board = FakeMemory(N_OBS, N_ACT, QUANT)

    def answer(request: Message) -> Message:
        return messages.EchoReply(b"") if isinstance(request, of) else board.answer(request)

    with pytest.raises(LinkError):
        run(PiecedInference(np.ones(N_OBS, np.int8), N_ACT, QUANT, "here", raw=True), answer)


def test_an_input_that_another_piece_damaged_is_sent_again_a_few_times() -> None:
    board = FakeMemory(N_OBS, N_ACT, QUANT)
    attempts = 0
    damages = 0

    def answer(request: Message) -> Message:
        nonlocal attempts
        if isinstance(request, messages.InferStored):
            attempts += 1
            if attempts <= damages:
                board.input[0] ^= 1
        return board.answer(request)

    values = np.arange(N_OBS).astype(np.int8)
    for damages in (0, MAX_ATTEMPTS - 1, MAX_ATTEMPTS):
        attempts = 0
        board.output[:] = 0
        result = run(PiecedInference(values, N_ACT, QUANT, "here", raw=True), answer)
        if damages < MAX_ATTEMPTS:
            assert np.array_equal(result.output, np.resize(~values, N_ACT))
        else:
            assert isinstance(result, messages.Error)
            assert result.status == Status.UPLOAD_DAMAGED


def test_an_output_that_was_read_too_early_is_read_again() -> None:
    board = FakeMemory(N_OBS, N_ACT, QUANT)
    early = [messages.Error(Status.NO_INFERENCE_YET, 0, messages.Tensor.TYPE), None]

    def answer(request: Message) -> Message:
        if not isinstance(request, messages.Tensor) or request.offset or not early:
            return board.answer(request)
        return early.pop(0) or messages.TensorData(request.op, 0, N_ACT, np.zeros(TENSOR_PIECE, np.int8))

    values = np.arange(N_OBS).astype(np.int8)
    inference = PiecedInference(values, N_ACT, QUANT, "here", raw=True)
    assert np.array_equal(run(inference, answer).output, np.resize(~values, N_ACT))
    assert inference.attempts == 3


@pytest.mark.parametrize("sizes", [(2000, TENSOR_PIECE), (2000, 2**32 - 1), (2**32 - 1, 0), (2000, 0)])
def test_a_layer_of_changing_size_is_an_error(linear_bundle: Bundle, sizes: tuple[int, int]) -> None:
    def answer(request: messages.Tensor) -> Message:
        size = sizes[request.offset > 0]
        count = min(TENSOR_PIECE, max(0, size - request.offset))
        return messages.TensorData(request.op, request.offset, size, np.zeros(count, np.int8))

    firmware = FakeFirmware(fake_info(linear_bundle), lambda values: values[:2])
    firmware._answer = lambda request, usual=firmware._answer: (
        answer(request) if isinstance(request, messages.Tensor) else usual(request)
    )
    with fake_board(firmware, linear_bundle) as board, pytest.raises(LinkError):
        board.tensor(0)


@pytest.mark.parametrize("change", [{"n_obs": 2**32 - 1}, {"n_act": 2**32 - 1}])
def test_a_board_that_reports_an_impossible_model_is_refused(linear_bundle: Bundle, change: dict[str, int]) -> None:
    info = replace(fake_info(linear_bundle), **change)
    with pytest.raises(LinkError, match="reports a model of"):
        fake_board(FakeFirmware(info, lambda values: values))


def test_a_piece_fills_a_frame() -> None:
    longest = messages.ObservationData(0, np.zeros(OBSERVATION_PIECE, np.float32))
    echoed = messages.TensorData(0, 0, 0, np.zeros(TENSOR_PIECE, np.int8))
    assert [messages.MAX_PAYLOAD - len(message.pack()) for message in (longest, echoed)] == [6, 0]
    assert OBSERVATION_PIECE * 4 == TENSOR_PIECE, "the answer of a float32 model holds them all"
