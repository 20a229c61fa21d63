"""Model upload: a valid upload becomes the active model; otherwise the active model is unchanged."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from balance_hil.boards import Board
from balance_hil.boards.upload import transfer
from balance_hil.bundle import Bundle, model_id
from balance_hil.errors import BoardStatusError, HarnessError, ReplyTimeoutError
from balance_hil.model_image import ModelImage
from balance_hil.protocol import messages
from balance_hil.protocol.messages import Status
from balance_hil.quantize import Normalization
from balance_hil.runtimes.tflm import TflmRuntime

ROWS = 200
LOSSY = ("corrupt:rate=0.02", "drop:rate=0.02", "duplicate:rate=0.02", "truncate:rate=0.01")
DEADLINE_S = 10.0
MANY_VECTORS, MANY_BYTES = 4000, 40_000  # so that their replay takes many slices on every board


@pytest.fixture(scope="module")
def inputs(hil_bundle: Bundle) -> NDArray[np.int8]:
    return hil_bundle.golden_raw("input")[:ROWS]


@pytest.fixture(scope="module")
def other(hil_bundle: Bundle, inputs: NDArray[np.int8]) -> ModelImage:
    """The bundle's model with other weights: same shape, same arena, another policy."""
    model = _other_weights(hil_bundle.model())
    try:
        runtime = TflmRuntime(model)
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    outputs = runtime.infer_raw_batch(inputs[:8])
    return ModelImage(model=model, normalization=hil_bundle.normalization, inputs=inputs[:8], outputs=outputs)


def _other_weights(model: bytes) -> bytes:
    """Reverses the largest weight tensor."""
    from balance_hil.tflite.graph import read_graph

    graph = read_graph(model)
    weights = max((t for t in graph.tensors if t.type in ("INT8", "FLOAT32") and t.data is not None), key=lambda t: t.size)
    data = weights.data.tobytes()
    at = model.index(data)
    return model[:at] + weights.data.ravel()[::-1].tobytes() + model[at + len(data) :]


@pytest.fixture
def board(hil_board: Board, hil_bundle: Bundle) -> Iterator[Board]:
    """The board; its flashed model is restored afterwards."""
    if not hil_board.info.upload_size:
        pytest.skip(f"{hil_board.name} has no room for uploads")
    yield hil_board
    hil_board.bundle = None
    if hil_board.identify().uploaded:
        hil_board.reset()
    hil_board.bundle = hil_bundle
    hil_board.identify()


def outputs(board: Board, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    return np.array([action.output for action in board.infer_raw_batch(inputs)])


def test_another_model_takes_over_and_a_reset_brings_the_flashed_one_back(
    board: Board, other: ModelImage, inputs: NDArray[np.int8], hil_bundle: Bundle, hil_measure: Callable[..., None]
) -> None:
    before = outputs(board, inputs)
    result = transfer(board, other)
    hil_measure("upload", result.wall_s, "s")
    board.bundle = None
    info = board.identify()
    assert (info.model_id, info.uploaded, info.n_self_test) == (other.id, 1, len(other.inputs))
    assert 0 < info.arena_used <= info.arena_size
    expected = TflmRuntime(other.model).infer_raw_batch(inputs)
    assert not np.array_equal(expected, before), "the other model must not compute the same"
    assert np.array_equal(outputs(board, inputs), expected)
    assert board.self_test() == messages.SelfTestResult(Status.OK, len(other.inputs), 0, 0xFFFF)

    info = board.reset()
    assert (info.model_id, info.uploaded) == (hil_bundle.id, 0)
    assert np.array_equal(outputs(board, inputs), before)


def test_uploads_follow_one_another(board: Board, other: ModelImage, hil_bundle: Bundle) -> None:
    board.bundle = None
    for upload in (other, ModelImage.of(hil_bundle), other):
        transfer(board, upload)
        info = board.identify()
        assert (info.model_id, info.uploaded) == (upload.id, 1)
    assert board.self_test().mismatches == 0


def test_a_model_that_runs_already_is_not_sent(board: Board, hil_bundle: Bundle) -> None:
    before = board.stats()
    assert not board.load(hil_bundle).uploaded
    assert board.info.uploaded == 0
    assert board.stats().requests <= before.requests + 4, "HELLO and STATS_REQUEST, nothing else"


def test_every_intermediate_tensor_of_an_uploaded_model(board: Board, other: ModelImage, inputs: NDArray[np.int8]) -> None:
    transfer(board, other)
    board.bundle = None
    board.identify()
    expected = TflmRuntime(other.model).layers_batch(inputs[:20])
    for layer, want in zip(board.layers_raw_batch(inputs[:20]), expected, strict=True):
        assert np.array_equal(layer.values, want), layer.name


def _cut(upload: ModelImage) -> ModelImage:
    return replace(upload, model=upload.model[: len(upload.model) // 2], id="")


def _hostile(upload: ModelImage) -> ModelImage:
    """Wrong offset of the root table."""
    return replace(upload, model=struct.pack("<I", 0x7FFFFFF0) + upload.model[4:], id="")


def _other_operator(upload: ModelImage) -> ModelImage:
    """Its first operator code is unsupported by every engine."""
    from balance_hil.tflite.codec import edit, schema

    def change(model: Any) -> None:
        for code in model.operatorCodes:
            code.builtinCode = code.deprecatedBuiltinCode = schema().BuiltinOperator.EXP

    return replace(upload, model=edit(upload.model, change), id="")


def _wrong_shape(upload: ModelImage) -> ModelImage:
    """One input fewer, or one more if there is only one."""
    n_obs = upload.inputs.shape[1]
    columns = np.arange(n_obs - 1) if n_obs > 1 else np.zeros(2, int)
    by = upload.normalization
    other = Normalization(by.mean[columns], by.inverse_std[columns], by.clip) if by is not None else None
    return replace(upload, inputs=upload.inputs[:, columns], normalization=other, id="")


def _wrong_vectors(upload: ModelImage) -> ModelImage:
    return replace(upload, outputs=(upload.outputs.view(f"i{upload.outputs.itemsize}") ^ 1).view(upload.outputs.dtype))


def _wrong_id(upload: ModelImage) -> ModelImage:
    return replace(upload, id=model_id(b""))


@pytest.mark.parametrize(
    ("spoil", "statuses"),
    [
        (_cut, {"model_invalid"}),
        (_hostile, {"model_invalid"}),
        (_other_operator, {"unsupported_operator"}),
        (_wrong_shape, {"other_model"}),
        (_wrong_vectors, {"vectors_differ"}),
        (_wrong_id, {"other_model"}),
    ],
)
def test_a_model_that_is_not_right_leaves_the_one_that_runs(
    board: Board,
    other: ModelImage,
    inputs: NDArray[np.int8],
    hil_bundle: Bundle,
    spoil: Callable[[ModelImage], ModelImage],
    statuses: set[str],
) -> None:
    before = outputs(board, inputs)
    with pytest.raises(HarnessError, match=f"it keeps policy {hil_bundle.id}") as refused:
        transfer(board, spoil(other))
    if isinstance(refused.value, BoardStatusError):
        assert refused.value.status in statuses
    else:
        assert statuses == {"unsupported_operator"}
    info = board.identify()
    assert (info.model_id, info.uploaded) == (hil_bundle.id, 0)
    assert np.array_equal(outputs(board, inputs), before)
    assert board.self_test().mismatches == 0


def test_an_upload_that_is_too_large_is_refused_with_the_limit(board: Board, other: ModelImage, hil_bundle: Bundle) -> None:
    limit = board.info.upload_size
    begin = replace(other.begin(1), model_size=limit)
    with pytest.raises(BoardStatusError) as refused:
        board.request(begin)
    assert (refused.value.status, refused.value.detail) == ("no_room", limit)
    assert board.identify().model_id == hil_bundle.id


def test_damaged_memory_shows_in_the_checksum_of_the_whole(board: Board, other: ModelImage, hil_bundle: Bundle) -> None:
    begin = replace(other.begin(77), crc=0xDEADBEEF)
    board.request(begin)
    board.pipeline([messages.LoadData(77, at, other.data()[at : at + 90]) for at in range(0, len(other.data()), 90)])
    reply = board.request(messages.LoadCommit(77), DEADLINE_S)
    assert isinstance(reply, messages.LoadResult)
    assert reply.status == Status.UPLOAD_DAMAGED
    assert board.identify().model_id == hil_bundle.id


def test_an_upload_that_stops_half_way_changes_nothing(
    board: Board, other: ModelImage, inputs: NDArray[np.int8], hil_bundle: Bundle
) -> None:
    before = outputs(board, inputs)
    board.request(other.begin(5))
    board.request(messages.LoadData(5, 0, other.data()[:100]))
    assert np.array_equal(outputs(board, inputs), before)
    with pytest.raises(BoardStatusError, match="upload_incomplete, detail 100"):
        board.request(messages.LoadCommit(5))
    with pytest.raises(BoardStatusError, match="wrong_offset, detail 100"):
        board.request(messages.LoadData(5, 200, bytes(10)))
    board.request(messages.LoadAbort(5))
    with pytest.raises(BoardStatusError, match="no_upload"):
        board.request(messages.LoadCommit(5))
    assert np.array_equal(outputs(board, inputs), before)
    assert board.identify().model_id == hil_bundle.id


def test_an_uploaded_model_wants_a_new_greeting(board: Board, other: ModelImage) -> None:
    transfer(board, other)
    with pytest.raises(BoardStatusError, match="not_identified"):
        board.infer(np.zeros(board.info.n_obs, np.float32))
    assert board.stats().safe_state == 1


def commit(board: Board) -> messages.LoadResult:
    reply = board.request(messages.LoadCommit(9), DEADLINE_S)
    assert isinstance(reply, messages.LoadResult)
    return reply


def test_the_actuators_are_safe_and_requests_are_served_while_an_upload_is_verified(
    board: Board, other: ModelImage, hil_measure: Callable[..., None]
) -> None:
    per_vector = other.inputs.shape[1] + other.outputs.shape[1]
    count = min(max(MANY_VECTORS, MANY_BYTES // per_vector), (board.info.upload_size - len(other.data())) // per_vector)
    rows = np.arange(count) % len(other.inputs)
    image = replace(other, inputs=other.inputs[rows], outputs=other.outputs[rows])
    data, zeros = image.data(), np.zeros(board.info.n_obs, np.float32)
    board.request(image.begin(9))
    board.pipeline([messages.LoadData(9, at, data[at : at + 200]) for at in range(0, len(data), 200)])
    for _ in range(5):  # on a busy computer the watchdog of an emulated board may trip before it is asked
        board.infer(zeros)
        if board.stats().safe_state == 0:
            break
    else:
        pytest.fail("an inference does not end the safe state")
    served = 0
    while (result := commit(board)).status == Status.VERIFYING:
        # The verification may end in between: the new model then requires a HELLO.
        with pytest.raises(BoardStatusError, match=r"verifying|not_identified"):
            board.infer(zeros)
        assert board.stats().safe_state == 1
        assert board.echo(b"served") == b"served"
        served += 1
    hil_measure("requests_served", served, "1")
    assert result.status == Status.OK
    assert served > 0
    board.bundle = None
    assert board.identify().model_id == image.id


def test_a_lossy_wire_delays_an_upload_and_never_spoils_it(
    hil_board: Board,
    hil_connect: Callable[..., Board],
    other: ModelImage,
    inputs: NDArray[np.int8],
    hil_measure: Callable[..., None],
) -> None:
    if not hil_board.info.upload_size:
        pytest.skip(f"{hil_board.name} has no room for uploads")
    board = hil_connect(faults=LOSSY, fault_seed=3)
    board.bundle = None
    result = transfer(board, other)
    hil_measure("sent_again", result.resent, "1")
    info = board.query_info()
    assert (info.model_id, info.uploaded) == (other.id, 1)
    rows = inputs[:60]
    answered = 0
    for row, want in zip(rows, TflmRuntime(other.model).infer_raw_batch(rows), strict=True):
        try:
            reply = board.request(board.raw_request(row), 0.1)
        except ReplyTimeoutError:
            continue
        assert isinstance(reply, messages.Action)
        assert np.array_equal(reply.output, want)
        answered += 1
    assert answered > len(rows) // 4
    board.send(messages.Reset())  # the flashed model, for the tests that follow
