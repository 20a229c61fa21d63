"""LOAD on a machine whose clock stands still: a model over the wire, and everything that can be wrong with one.

What the fake engine makes of a model is told by its first byte: see firmware/test/probe/fake_board.h.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balance_hil.protocol import messages
from balance_hil.protocol.codec import encode
from balance_hil.protocol.messages import Status
from balance_hil.protocol.wire import Message
from balance_hil.quantize import Normalization, QuantParams, quantize

from .probe import Probe
from .test_server import INPUT, PROFILE, FakeBoard, error

TRANSFER = 0xC0FFEE
ROOM = 1024
BY = Normalization(np.array([1, -2, 0.25], np.float32), np.array([0.5, 3, 1e30], np.float32), 2.0)
VECTORS = [((1, 2, 3), (3, -3)), ((-128, -128, -128), (-128, 127))]


def upload(
    model: bytes = b"a model", vectors=VECTORS, normalization: Normalization | None = None, spoil=None, **changes: object
) -> tuple[messages.LoadBegin, bytes]:
    """An announcement and the bytes that belong to it; ``changes`` make it lie. ``spoil``: a number of the normalization."""
    inputs = b"".join(np.array(row, np.int8).tobytes() for row, _ in vectors)
    outputs = b"".join(np.array(row, np.int8).tobytes() for _, row in vectors)
    numbers = normalization.to_bytes() if normalization else b""
    if spoil:
        floats = np.frombuffer(numbers, "<f4").copy()
        floats[spoil[0]] = spoil[1]
        numbers = floats.tobytes()
    data = model + numbers + inputs + outputs
    name = hashlib.sha256(model + numbers).hexdigest()[:12]
    begin = messages.LoadBegin(TRANSFER, len(model), int(bool(normalization)), len(vectors), 3, 2, zlib.crc32(data), name, 0)
    return replace(begin, **changes), data


def unnormalized_id(normalization: Normalization) -> tuple[messages.LoadBegin, bytes]:
    """The id of the model alone: as a host of another version would announce it."""
    return upload(normalization=normalization, model_id=upload()[0].model_id)


def pieces(data: bytes, size: int = 16) -> list[messages.LoadData]:
    return [messages.LoadData(TRANSFER, at, data[at : at + size]) for at in range(0, len(data), size)]


def progress(received: int) -> messages.LoadProgress:
    return messages.LoadProgress(TRANSFER, received)


COMMIT = messages.LoadCommit(TRANSFER)


@pytest.fixture
def board(probe: Probe) -> FakeBoard:
    board = FakeBoard(probe)
    board.hello()
    return board


def result(board: FakeBoard, begin: messages.LoadBegin, data: bytes) -> messages.LoadResult:
    *_, last = board.ask(begin, *pieces(data), COMMIT)
    assert isinstance(last, messages.LoadResult), last
    return last


def assert_old_model_serves(board: FakeBoard) -> None:
    info = board.hello()
    assert (info.model_id, info.uploaded, info.n_self_test, info.n_obs) == ("cafe00000000", 0, 3, 3)
    (action,) = board.ask(INPUT)
    assert action.output.tolist() == [30, -30]
    assert board.ask(messages.SelfTest()) == [messages.SelfTestResult(Status.OK, count=3, mismatches=1, first_mismatch=1)]


def test_an_upload_takes_over(board: FakeBoard) -> None:
    begin, data = upload()
    assert board.ask(begin, *pieces(data)) == [progress(0), *(progress(min(16 * n, 17)) for n in (1, 2))]
    assert board.ask(COMMIT) == [messages.LoadResult(TRANSFER, Status.OK, 0, "")]
    info = board.hello()
    assert (info.model_id, info.uploaded, info.n_self_test) == (begin.model_id, 1, 2)
    assert board.ask(messages.SelfTest()) == [messages.SelfTestResult(Status.OK, count=2, mismatches=0, first_mismatch=0xFFFF)]


@pytest.mark.parametrize("model", [b"a model", b"a model."], ids=["unaligned", "aligned"])
def test_an_upload_carries_its_normalization(board: FakeBoard, model: bytes) -> None:
    begin, data = upload(model, normalization=BY)
    assert result(board, begin, data).status == Status.OK
    info = board.hello()
    assert (info.model_id, info.normalization_crc) == (begin.model_id, zlib.crc32(BY.to_bytes()))
    observation = np.array([2.5, -1.9, 7], np.float32)
    (action,) = board.ask(messages.Infer(observation))
    assert np.array_equal(action.input, quantize(observation, QuantParams(0.5, 1), BY))
    begin, data = upload(b"and one without")
    assert result(board, begin, data).status == Status.OK
    assert board.hello().normalization_crc == 0


def test_a_line_does_not_end_the_safe_state_of_an_upload(board: FakeBoard) -> None:
    board.ask(INPUT)
    begin, data = upload()
    result(board, begin, data)
    assert board.feed(b"1.0,-2.25,0.25\n").events == []
    board.hello()
    assert board.feed(b"1.0,-2.25,0.25\n").events == []
    board.ask(INPUT)
    assert board.feed(b"1.0,-2.25,0.25\n").events == ["apply 0.5 0.25"]


def test_an_upload_ends_the_settings_of_the_session(board: FakeBoard) -> None:
    board.ask(messages.SetWatchdog(0))
    begin, data = upload()
    result(board, begin, data)
    assert board.hello().watchdog_ms == 100


def test_the_next_upload_goes_to_the_other_place_and_the_one_after_to_the_first(board: FakeBoard) -> None:
    for number, model in enumerate([b"one", b"two", b"three", b"four"]):
        begin, data = upload(model)
        assert result(board, begin, data).status == Status.OK, number
        assert board.hello().model_id == begin.model_id


def test_a_new_model_wants_a_new_hello_and_holds_the_actuators(board: FakeBoard) -> None:
    board.ask(INPUT)
    begin, data = upload()
    happened = board.feed(b"".join(encode(message, 1) for message in (begin, *pieces(data), COMMIT)))
    assert happened.events == ["safe"]
    assert board.ask(INPUT) == [error(Status.NOT_IDENTIFIED, 0, INPUT.TYPE)]
    stats = board.stats()
    assert (stats.safe_state, stats.watchdog_trips) == (1, 0)
    board.hello()
    assert board.ask(messages.Tensor(0, 0)) == [error(Status.NO_INFERENCE_YET, 0, messages.Tensor.TYPE)]
    board.ask(INPUT)
    stats = board.stats()
    assert (stats.safe_state, stats.inferences) == (0, 2)


def test_the_old_model_serves_while_the_new_one_arrives(board: FakeBoard) -> None:
    (before,) = board.ask(INPUT)
    begin, data = upload()
    assert board.ask(begin) == [progress(0)]
    for piece in pieces(data, 5):
        board.ask(piece)
        (action,) = board.ask(INPUT)
        assert np.array_equal(action.output, before.output)
        assert isinstance(board.ask(messages.Tensor(0, 0))[0], messages.TensorData)
    assert_old_model_serves(board)


@pytest.mark.parametrize(
    ("change", "status", "detail"),
    [
        ({"model_size": 0}, Status.NO_MODEL, 0),
        ({"n_self_test": 0}, Status.NO_GOLDEN_VECTORS, 0),
        ({"n_obs": 0}, Status.MODEL_INVALID, 0),
        ({"n_obs": (1 << 18) + 1}, Status.MODEL_INVALID, 0),
        ({"n_act": 0}, Status.MODEL_INVALID, 0),
        ({"n_act": (1 << 18) + 1}, Status.MODEL_INVALID, 0),
        ({"model_id": "short"}, Status.MODEL_INVALID, 0),
        ({"model_id": "a" * 255}, Status.MODEL_INVALID, 0),
        ({"model_size": ROOM - 9}, Status.NO_ROOM, ROOM),
        ({"model_size": 0xFFFFFFFF, "n_self_test": 0xFFFF, "n_obs": 255, "n_act": 64}, Status.NO_ROOM, ROOM),
        ({"transfer": 0}, Status.NO_UPLOAD, 0),
    ],
)
def test_an_announcement_that_cannot_be_is_refused(
    board: FakeBoard, change: dict[str, object], status: Status, detail: int
) -> None:
    begin, _ = upload(**change)
    assert board.ask(begin) == [error(status, detail, begin.TYPE)]
    assert_old_model_serves(board)


def test_the_longest_upload_fits(board: FakeBoard) -> None:
    begin, data = upload(b"m" * (ROOM - 10))
    assert len(data) == ROOM
    assert result(board, begin, data).status == Status.OK


def test_a_board_without_room_says_so(probe: Probe) -> None:
    probe.ask("room", "no")
    try:
        board = FakeBoard(probe)
    finally:
        probe.ask("room", "yes")
    assert board.hello().upload_size == 0
    begin, data = upload()
    assert board.ask(begin) == [error(Status.NO_ROOM, 0, begin.TYPE)]
    assert board.ask(pieces(data)[0], COMMIT) == [
        error(Status.NO_UPLOAD, 0, messages.LoadData.TYPE),
        error(Status.NO_UPLOAD, 0, COMMIT.TYPE),
    ]
    assert_old_model_serves(board)


def test_an_element_type_that_does_not_exist_is_refused_at_once(board: FakeBoard) -> None:
    begin, _ = upload(element_type=3)
    assert board.ask(begin) == [error(Status.MODEL_NOT_INT8, 3, begin.TYPE)]
    assert_old_model_serves(board)


@pytest.mark.parametrize(
    ("make", "status", "detail", "words"),
    [
        (lambda: upload(crc=0x12345678), Status.UPLOAD_DAMAGED, zlib.crc32(upload()[1]), ""),
        (lambda: upload(model_id="0" * 12), Status.OTHER_MODEL, 0, ""),
        (lambda: upload(b"X has an input more"), Status.OTHER_MODEL, 4 << 16 | 2, ""),
        (lambda: upload(b"O has too many"), Status.MODEL_INVALID, 0, "more of them than the firmware is built for"),
        (lambda: upload(b"Z has no scale"), Status.MODEL_INVALID, 0, "a scale of the model is not positive"),
        (lambda: upload(b"H has a huge one"), Status.MODEL_INVALID, 0, "so large that its values are infinite"),
        (lambda: upload(b"R is refused"), Status.UNSUPPORTED_OPERATOR, 77, "as the test wants it"),
        (lambda: unnormalized_id(BY), Status.OTHER_MODEL, 0, ""),
        (lambda: upload(vectors=2 * VECTORS, n_self_test=2, element_type=1), Status.OTHER_MODEL, 3 << 16 | 2, "element type"),
        (lambda: upload(normalization=BY, spoil=(0, np.nan)), Status.MODEL_INVALID, 0, "normalization"),
        (lambda: upload(normalization=BY, spoil=(3, 0.0)), Status.MODEL_INVALID, 0, "normalization"),
        (lambda: upload(normalization=BY, spoil=(5, -1.0)), Status.MODEL_INVALID, 0, "normalization"),
        (lambda: upload(normalization=BY, spoil=(6, 0.0)), Status.MODEL_INVALID, 0, "normalization"),
        (lambda: upload(normalization=BY, spoil=(6, np.inf)), Status.MODEL_INVALID, 0, "normalization"),
        (lambda: upload(b"W computes wrongly"), Status.VECTORS_DIFFER, 2, "golden vectors"),
        (lambda: upload(vectors=[VECTORS[0], ((1, 1, 1), (2, 0))]), Status.VECTORS_DIFFER, 1, "golden vectors"),
    ],
)
def test_a_model_that_is_not_right_leaves_the_old_one(
    board: FakeBoard, make: Callable[[], tuple[messages.LoadBegin, bytes]], status: Status, detail: int, words: str
) -> None:
    found = result(board, *make())
    assert (found.status, found.detail) == (status, detail)
    assert words in found.message
    assert_old_model_serves(board)
    begin, data = upload()  # and the next one is taken
    assert result(board, replace(begin, transfer=TRANSFER), data).status == Status.OK


def test_a_refused_model_leaves_an_uploaded_one_too(board: FakeBoard) -> None:
    first, data = upload(b"first")
    result(board, first, data)
    board.hello()
    assert result(board, *upload(b"Wrong")).status == Status.VECTORS_DIFFER
    info = board.hello()
    assert (info.model_id, info.uploaded) == (first.model_id, 1)
    assert board.ask(messages.SelfTest()) == [messages.SelfTestResult(Status.OK, count=2, mismatches=0, first_mismatch=0xFFFF)]


def test_pieces_out_of_order_say_where_to_go_on(board: FakeBoard) -> None:
    begin, data = upload(b"a model of some length, really")
    first, second, third = pieces(data)
    assert board.ask(begin, second) == [progress(0), error(Status.WRONG_OFFSET, 0, second.TYPE)]
    assert board.ask(first, third) == [progress(16), error(Status.WRONG_OFFSET, 16, third.TYPE)]
    assert board.ask(first, second, first, third) == [progress(16), progress(32), progress(32), progress(len(data))]
    assert board.ask(COMMIT) == [messages.LoadResult(TRANSFER, Status.OK, 0, "")]


def test_a_piece_that_overlaps_the_end_of_what_is_there_is_refused(board: FakeBoard) -> None:
    begin, data = upload()
    overlapping = messages.LoadData(TRANSFER, 8, data[8:])
    assert board.ask(begin, pieces(data)[0], overlapping)[2] == error(Status.WRONG_OFFSET, 16, overlapping.TYPE)


@pytest.mark.parametrize(("offset", "size"), [(0, 18), (17, 1), (0xFFFFFFFF, 1), (0xFFFFFFFF, 0), (16, 2)])
def test_more_than_was_announced_is_refused(board: FakeBoard, offset: int, size: int) -> None:
    begin, data = upload()
    assert len(data) == 17
    piece = messages.LoadData(TRANSFER, offset, bytes(size))
    assert board.ask(begin, piece) == [progress(0), error(Status.OVERSIZED, 17, piece.TYPE)]


def test_an_announcement_said_again_goes_on_and_another_one_starts_afresh(board: FakeBoard) -> None:
    begin, data = upload()
    board.ask(begin, pieces(data)[0])
    assert board.ask(begin) == [progress(16)]
    assert board.ask(replace(begin, crc=1)) == [progress(0)]
    other = replace(begin, transfer=7)
    assert board.ask(other) == [messages.LoadProgress(7, 0)]
    assert board.ask(pieces(data)[0]) == [error(Status.NO_UPLOAD, 7, messages.LoadData.TYPE)]


def test_a_refused_announcement_leaves_the_open_upload(board: FakeBoard) -> None:
    begin, data = upload()
    board.ask(begin, pieces(data)[0])
    board.ask(replace(begin, transfer=9, model_size=ROOM))
    assert board.ask(pieces(data)[1], COMMIT)[1] == messages.LoadResult(TRANSFER, Status.OK, 0, "")


def test_commit_too_early_too_late_and_twice(board: FakeBoard) -> None:
    begin, data = upload()
    assert board.ask(COMMIT) == [error(Status.NO_UPLOAD, 0, COMMIT.TYPE)]
    assert board.ask(begin, COMMIT) == [progress(0), error(Status.UPLOAD_INCOMPLETE, 0, COMMIT.TYPE)]
    assert board.ask(pieces(data)[0], COMMIT) == [progress(16), error(Status.UPLOAD_INCOMPLETE, 16, COMMIT.TYPE)]
    assert board.ask(pieces(data)[1], COMMIT, COMMIT) == [
        progress(17),
        messages.LoadResult(TRANSFER, Status.OK, 0, ""),
        messages.LoadResult(TRANSFER, Status.OK, 0, ""),  # its answer may have been lost
    ]
    assert board.hello().uploaded == 1
    assert board.ask(INPUT)[0].TYPE == messages.Action.TYPE, "nothing was swapped again"


def test_a_refusal_is_repeated_word_for_word(board: FakeBoard) -> None:
    first = result(board, *upload(b"R is refused"))
    assert board.ask(COMMIT, COMMIT) == [first, first]


def test_abort_forgets(board: FakeBoard) -> None:
    begin, data = upload()
    board.ask(begin, *pieces(data))
    assert board.ask(messages.LoadAbort(5), COMMIT)[0] == messages.LoadProgress(5, 17), "of another upload: not ours to forget"
    board.hello()
    begin, data = upload(b"second")
    board.ask(begin, *pieces(data))
    assert board.ask(messages.LoadAbort(TRANSFER), COMMIT) == [
        progress(0),
        error(Status.NO_UPLOAD, 0, COMMIT.TYPE),
    ]


def test_nothing_of_it_works_before_hello(probe: Probe) -> None:
    board = FakeBoard(probe)
    begin, data = upload()
    asked: list[Message] = [begin, pieces(data)[0], messages.LoadAbort(TRANSFER)]
    assert board.ask(*asked) == [error(Status.NOT_IDENTIFIED, 0, request.TYPE) for request in asked]
    assert board.ask(COMMIT) == [error(Status.NO_UPLOAD, 0, COMMIT.TYPE)]


def test_a_board_whose_own_model_failed_is_cured_by_an_upload(probe: Probe) -> None:
    board = FakeBoard(probe, load_status=Status.NO_MODEL)
    assert board.hello().engine_status == Status.NO_MODEL
    probe.ask("engine", int(Status.OK))
    assert result(board, *upload()).status == Status.OK
    assert board.hello().engine_status == Status.OK
    assert board.ask(INPUT)[0].output.tolist() == [30, -30]


@settings(max_examples=60, deadline=None)
@given(moves=st.lists(st.tuples(st.sampled_from("bdca"), st.integers(0, 3), st.integers(0, 18)), max_size=12))
def test_whatever_the_order_only_the_whole_upload_ever_runs(probe: Probe, moves: list[tuple[str, int, int]]) -> None:
    board = FakeBoard(probe)
    board.hello()
    begin, data = upload()
    for kind, transfer, size in moves:
        message: Message
        if kind == "b":
            message = replace(begin, transfer=transfer)
        elif kind == "d":
            message = messages.LoadData(transfer, size, data[size : size + 9])
        else:
            message = (messages.LoadCommit if kind == "c" else messages.LoadAbort)(transfer)
        board.ask(message)
    info = board.hello()
    assert info.model_id == (begin.model_id if info.uploaded else "cafe00000000")
    assert board.ask(INPUT)[0].output.tolist() == [30, -30]


# --- a verification that takes longer than a slice: 40 us of the fake clock per vector -----------------------------------

MANY = 190 * [VECTORS[0]]
WRONG = [*MANY[:-1], ((1, 1, 1), (0, 0))]


def verifying(board: FakeBoard, vectors=MANY) -> messages.LoadResult:
    """A board with an action in force that has just received LOAD_COMMIT."""
    begin, data = upload(vectors=vectors)
    board.ask(begin, *pieces(data, 200))
    board.ask(INPUT)
    committed = board.feed(encode(COMMIT, 1))
    assert committed.events == ["safe"]
    (answer,) = committed.messages()
    assert isinstance(answer, messages.LoadResult)
    return answer


def finish(board: FakeBoard) -> messages.LoadResult:
    for _ in range(20):
        (answer,) = board.ask(COMMIT)
        assert isinstance(answer, messages.LoadResult)
        if answer.status != Status.VERIFYING:
            return answer
    raise AssertionError("the verification does not end")


@pytest.mark.parametrize("vectors", [MANY, WRONG], ids=["good", "bad"])
def test_the_safe_state_comes_before_the_verification_and_requests_are_served_during_it(board: FakeBoard, vectors) -> None:
    begin, data = upload(vectors=vectors)
    before_ms = board.stats().uptime_ms
    answer = verifying(board, vectors)
    stats = board.stats()
    assert (answer.status, stats.safe_state, stats.watchdog_trips) == (Status.VERIFYING, 1, 0)
    assert stats.uptime_ms - before_ms <= 3, "two slices and an inference"
    left = answer.detail
    assert 0 < left < len(MANY)
    refusals = board.ask(INPUT, messages.Infer(np.zeros(3, np.float32)), PROFILE, begin, pieces(data)[0])
    assert {(m.status, m.request) for m in refusals if isinstance(m, messages.Error) and 0 < m.detail <= left} == {
        (Status.VERIFYING, request.TYPE) for request in (INPUT, messages.Infer, PROFILE, begin, messages.LoadData)
    }
    line = board.feed(b"1.0,-2.25,0.25\n")
    assert (line.sent, line.events) == (b"error: verifying\n", [])
    assert board.ask(messages.Echo(b"x")) == [messages.EchoReply(b"x")]
    assert board.hello().model_id == "cafe00000000"
    assert board.next_ms() == 0
    if vectors is MANY:
        assert finish(board).status == Status.OK
        assert board.hello().model_id == begin.model_id
    else:
        assert (finish(board).status, finish(board).detail) == (Status.VECTORS_DIFFER, 1)
        assert_old_model_serves(board)
    assert board.stats().watchdog_trips == 0


def test_a_verification_goes_on_without_requests_and_without_the_host(board: FakeBoard) -> None:
    left = verifying(board).detail
    time_us = 1_000_000
    while board.next_ms() == 0:
        assert board.idle(time_us).events == []
        time_us += 10_000
    assert left > 0
    assert board.hello().uploaded == 1


def test_a_verification_can_be_aborted(board: FakeBoard) -> None:
    verifying(board)
    assert board.ask(messages.LoadAbort(TRANSFER)) == [progress(0)]
    assert_old_model_serves(board)
    assert board.ask(COMMIT) == [error(Status.NO_UPLOAD, 0, COMMIT.TYPE)]


def test_a_self_test_holds_no_action(board: FakeBoard) -> None:
    board.ask(INPUT)
    assert board.feed(encode(messages.SelfTest(), 1)).events == ["safe"]
    assert board.feed(b"1.0,-2.25,0.25\n").events == [], "nor does a line move the actuators afterwards"
    assert board.stats().watchdog_trips == 0


def test_an_engine_that_runs_only_whole_models_is_profiled_without_operators(board: FakeBoard) -> None:
    assert result(board, *upload(b"E")).status == Status.OK
    board.hello()
    (profile,) = board.ask(PROFILE)
    assert isinstance(profile, messages.ProfileResult)
    assert (profile.engine_us, profile.operators_us.tolist()) == (40, [])
