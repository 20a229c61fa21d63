"""Requests and replies of a run: which are in flight, late or lost, and which replies take effect.

A reply takes effect only if its sequence number is in flight, its raw input equals the host's quantization of that observation,
and its action is its dequantized output. A late reply is ignored after a newer one. Any other reply is rejected: the action in
force is held, and the verdict of the run is bad.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from balance_hil.boards import Action, Board
from balance_hil.boards.handshake import Handshake, status_error
from balance_hil.bundle import Bundle
from balance_hil.distribution import Distribution
from balance_hil.errors import BoardRebootedError, SilentBoardError, TooManyLostError
from balance_hil.link import FaultyLink
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Frame
from balance_hil.protocol.messages import Status
from balance_hil.quantize import INT8, INT8_MAX, INT8_MIN, bits_of, dequantize
from balance_hil.running.input_check import InputCheck
from balance_hil.running.misses import CAUSES, Cause, Parts
from balance_hil.running.trace import Trace
from balance_hil.scheduling import ProcessorWait

RECOVERY_TIMEOUT_S = 3.0  # a rebooted board must have identified itself by then
SILENT_TIMEOUTS = 3  # reply timeouts in a row without a byte from the board: it has stopped, or reboots without a word
SILENT_REBOOT_S = 1.0  # it must answer HELLO within that time
RECOVERY_HELLO_S = 0.1  # between two HELLOs
BYTES_PER_REQUEST = 17  # of an INFER frame besides its observation, rounded up


class Reply(NamedTuple):
    """An ACTION that arrived in time to matter."""

    action: Action
    step: int  # whose observation it answers
    outputs: NDArray[np.float32]  # of the policy, float32 [n_act], within the limits of its signals
    round_trip_us: float


class _Request(NamedTuple):
    number: int  # counts from 1 over the run
    due_s: float  # when its control step was to begin
    sent_s: float
    waited_us: float  # for a processor, before that
    overslept_us: float  # before that
    step: int
    observation: NDArray[np.float32]  # float32 [n_obs]


class FaultSink(Protocol):
    """Takes the faults of a run."""

    def __call__(self, kind: str, detail: str, **numbers: float) -> None:
        """``detail`` is a sentence; ``numbers`` are what it is about, by name."""


class Exchange:
    """Sends observations and classifies the replies. One instance per run.

    Args:
        board: identified.
        bundle: that it runs.
        reply_timeout_s: a reply that takes longer is lost.
        max_lost: misses beyond this end the run.
        on_fault: called for every fault.
        trace: takes every valid reply.
        processor_wait: of this thread and the board's processes.
        asks_again: requests in flight when the board rebooted are repeated, and so not lost.
        simulated: the board's link, whose time is that of the run; None: the wall clock's.
    """

    def __init__(
        self,
        board: Board,
        bundle: Bundle,
        *,
        reply_timeout_s: float,
        max_lost: int,
        on_fault: FaultSink,
        trace: Trace,
        processor_wait: ProcessorWait,
        asks_again: bool = False,
        simulated: FaultyLink | None = None,
    ) -> None:
        self._board = board
        self.now_s = simulated.now if simulated is not None else board.now_s
        self._bundle = bundle
        self._check_input = InputCheck(bundle)
        if bundle.kind == INT8:  # by tables, which take no time
            codes = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int8)
            self._dequantized = dequantize(codes, bundle.output_quant)  # float32 [256], by output - INT8_MIN
            self._applied = bundle.spec.clip(np.repeat(self._dequantized[:, np.newaxis], bundle.spec.n_act, axis=1))
        self._elements = np.arange(bundle.spec.n_act)
        self._reply_timeout_s = reply_timeout_s
        self._max_lost = max_lost
        self._on_fault = on_fault
        self._trace = trace
        self._processor_wait = processor_wait
        self._asks_again = asks_again
        self._simulated = simulated
        self._in_flight: dict[int, _Request] = {}  # by sequence number, oldest first
        self._given_up: dict[int, _Request] = {}  # lost, and the board has not shown yet why
        self._causes: Counter[Cause] = Counter()
        self._emptied_s = self.now_s()  # when the port was last seen empty
        self._overslept_us = 0.0  # sum of how late waits for frames ended
        self._was_unread = False  # the latest frame was there before the host looked
        buffered = board.info.rx_buffer // (BYTES_PER_REQUEST + 4 * board.info.n_obs)
        self._most_in_flight = 1 if board.in_pieces else max(1, buffered)  # a board has room for one input in pieces
        self._recovery: Handshake | None = None
        self._stopped: SilentBoardError | None = None  # raised unless the handshake after the silence succeeds
        self._hello_after_silence = False  # and no reply since
        self._damaged = board.bad_frames
        self._sent = 0
        self._newest = 0  # number of the newest request whose reply was given out
        self._silence_s = 0.0  # spent waiting for a reply since the board was last heard
        self._silent_step = 0  # that it waited for first
        self.step = 0  # control step now being run: a reply to an earlier one is late
        self.late = 0
        self.lost = 0
        self.unsent = 0  # the board was rebooting, or had as many requests as it can take
        self.rejected = 0
        self.first_rejected = ""  # which and why
        self.reboots = 0
        self.round_trip_us = Distribution()
        self.inference_us = Distribution()

    @property
    def misses(self) -> int:
        """Control steps that got no reply in time."""
        return self.late + self.lost + self.unsent + self.rejected

    @property
    def miss_causes(self) -> Mapping[Cause, int]:
        """Late and lost replies so far, by cause."""
        silent: dict[Cause, int] = {"board": len(self._given_up)}
        return {cause: self._causes[cause] + silent.get(cause, 0) for cause in CAUSES}

    @property
    def is_waiting(self) -> bool:
        """Whether a reply may still come."""
        return bool(self._in_flight)

    def send(self, observation: NDArray[np.float32], due_s: float | None = None) -> bool:
        """Sends the observation of the current step, float32 [n_obs]; False when the board cannot take one now.

        ``due_s`` is when the step was to begin, by ``now_s``; None: now.

        Raises:
            BoardRebootedError: the board rebooted and does not identify itself.
            TooManyLostError: the bound was reached.
        """
        self._give_up(older_than_s=self._reply_timeout_s)
        now = self.now_s()
        self._poll_reboot()
        if self._recovery is not None or len(self._in_flight) >= self._most_in_flight:
            self.unsent += 1
            self._on_fault("unsent", "the board is rebooting" if self._recovery else "its receive buffer is full")
            self._check_bound()
            return False
        seq = self._board.send_observation(observation)
        self._sent += 1
        self._in_flight[seq] = _Request(
            self._sent,
            now if due_s is None else due_s,
            now,
            0.0 if self._simulated else self._processor_wait.total_us(),
            self._overslept_us,
            self.step,
            observation.copy(),
        )
        return True

    def poll(self, timeout_s: float) -> Reply | None:
        """Waits for one frame and handles it; returns it if it is a reply that takes effect, else None.

        Raises:
            BoardStatusError: the board refused the observation, or its inference failed.
            SilentBoardError: nothing came for three reply timeouts, nor an answer to HELLO within 1 s after them.
            ModelMismatchError: it rebooted and now runs another model.
            BoardRebootedError, TooManyLostError: see ``send``.
            LinkError: the cable is unplugged.
        """
        frame = self._next_frame(timeout_s)
        if self._board.bad_frames != self._damaged:
            self._damaged = self._board.bad_frames
            self._silence_s = 0.0
            self._on_fault("damaged", f"{self._damaged} frames so far")
        if frame is not None:
            self._silence_s = 0.0
            return self._sort(frame)
        if self._in_flight and self._recovery is None:
            self._check_silence(timeout_s)
        return None

    def await_identified(self) -> None:
        """Waits until a rebooted board has identified itself. Raises what ``poll`` raises."""
        while self._recovery is not None:
            self.poll(RECOVERY_HELLO_S)
            self._poll_reboot()

    def settle(self) -> None:
        """Waits until every request is answered or lost, at the end of an episode, so that the next one starts with none."""
        self.await_identified()
        while self._in_flight:
            self.poll(self._reply_timeout_s)
            self._give_up(older_than_s=self._reply_timeout_s)

    def give_up(self) -> None:
        """Counts all requests in flight as lost."""
        self._give_up(older_than_s=0.0)

    def _sort(self, frame: Frame) -> Reply | None:
        match frame.message:
            case Action() as action:
                return self._reply(frame.seq, action)
            case messages.Ready():
                self._rebooted("READY")
            case messages.Error() if frame.seq not in self._in_flight and frame.seq not in self._given_up:
                pass  # answers nothing that is awaited
            case messages.Error(status=Status.NOT_IDENTIFIED):
                self._rebooted("a request refused as not identified")
            case messages.Error(status=status, detail=detail):
                raise status_error(status, detail, f"the board on {self._board.port} refused an observation")
            case message if self._recovery is not None and (info := self._recovery.answer(message)) is not None:
                self._recovery = self._stopped = None
                self._board.accept(info)
                self._on_fault("identified", f"policy {info.model_id}")
        return None

    @property
    def has_frames(self) -> bool:
        """In simulated time: whether ``poll`` has something to do now."""
        return self._board.readable

    def pass_silence(self, duration_s: float) -> None:
        """In simulated time: ``duration_s`` went by. Raises SilentBoardError, as ``poll`` does."""
        if self._in_flight and self._recovery is None:
            self._check_silence(duration_s)

    def forget(self) -> None:
        """At the end of an episode in simulated time: what is in flight is neither awaited nor lost. Raises SilentBoardError."""
        if self._stopped is not None:
            raise self._stopped
        self._in_flight.clear()

    def _next_frame(self, timeout_s: float) -> Frame | None:
        if self._simulated is not None:
            return self._board.poll(0.0)
        start_s = self.now_s()
        frame = self._board.poll(0.0)
        self._was_unread = frame is not None
        if frame is None:
            self._emptied_s = self.now_s()
            left_s = timeout_s - (self._emptied_s - start_s)
            if left_s > 0:
                frame = self._board.poll(left_s)
                now = self.now_s()
                self._overslept_us += max(0.0, now - start_s - timeout_s) * 1e6
                self._emptied_s = now if frame is None else self._emptied_s
        return frame

    def _parts(self, request: _Request, action: Action) -> Parts:
        """How the time from when the request was due until now divides."""
        if self._simulated is not None:
            return Parts(0.0, 0.0, (self.now_s() - request.due_s) * 1e6)
        now = self.now_s()
        unread_us = (now - max(self._emptied_s, request.sent_s)) * 1e6 if self._was_unread else 0.0
        waited_us = self._processor_wait.total_us() - request.waited_us
        overslept_us = self._overslept_us - request.overslept_us
        host_us = (request.sent_s - request.due_s) * 1e6 + max(unread_us, waited_us, overslept_us)
        return Parts.of((now - request.due_s) * 1e6, host_us, action.total_us)

    def _attribute_lost(self, cause: Cause) -> None:
        self._causes[cause] += len(self._given_up)
        self._given_up.clear()

    def _reply(self, seq: int, action: Action) -> Reply | None:
        request = self._in_flight.pop(seq, None)
        if request is None:  # given up as lost before it came
            if (given_up := self._given_up.pop(seq, None)) is not None:
                self._causes[self._parts(given_up, action).cause] += 1
            return None
        self._attribute_lost("link")
        if action.status != Status.OK:
            raise status_error(action.status, 0, f"the board on {self._board.port} failed at an observation")
        round_trip_us = (self.now_s() - request.sent_s) * 1e6
        outputs = self._outputs(request, action)
        if outputs is None:
            return None
        self._hello_after_silence = False
        self.round_trip_us.add(round_trip_us)
        self.inference_us.add(action.inference_us)
        self._trace.add(action)
        if request.step != self.step:  # that control step is over
            self.late += 1
            parts = self._parts(request, action)
            self._causes[parts.cause] += 1
            times = {"request_step": request.step, "round_trip_us": round_trip_us, "inference_us": action.inference_us}
            self._on_fault(
                "late",
                f"the reply of step {request.step} took {round_trip_us / 1e3:.1f} ms, because of the {parts.cause}",
                **({} if self._simulated else {**times, **parts._asdict()}),  # the board's own time does not repeat
            )
            self._check_bound()
        if request.number < self._newest:
            return None
        self._newest = request.number
        return Reply(action, request.step, outputs, round_trip_us)

    def _outputs(self, request: _Request, action: Action) -> NDArray[np.float32] | None:
        """The outputs that take effect, float32 [n_act]; None when the reply is rejected."""
        if not self._check_input(request.observation, action.input):
            self._reject(request, _other_input(action.input, self._bundle.quantized(request.observation)))
            return None
        if action.output.shape != self._elements.shape:
            self._reject(request, f"it has {action.output.size} outputs, the policy {self._elements.size}")
            return None
        is_int8 = self._bundle.kind == INT8
        codes = action.output.astype(np.intp) - INT8_MIN if is_int8 else action.output
        dequantized = self._dequantized[codes] if is_int8 else dequantize(codes, self._bundle.output_quant)
        if action.action.tobytes() != dequantized.tobytes():
            self._reject(request, f"its action is {action.action.tolist()}, its output dequantized {dequantized.tolist()}")
            return None
        if not is_int8:
            return self._bundle.spec.clip(dequantized)
        applied: NDArray[np.float32] = self._applied[codes, self._elements]
        return applied

    def _reject(self, request: _Request, why: str) -> None:
        self.rejected += 1
        self.first_rejected = self.first_rejected or f"the reply of step {request.step}: {why}"
        self._on_fault("rejected", f"the reply of step {request.step}: {why}")
        self._check_bound()

    def _rebooted(self, sign: str) -> None:
        if self._recovery is not None and sign != "READY":
            return  # rejection of a request sent before the reboot was noticed
        self.reboots += 1
        self._on_fault("reboot", f"recognized by {sign}")
        if self._asks_again:
            self._in_flight.clear()
        else:
            self.give_up()
        self._attribute_lost("board")
        since = self._recovery.since if self._recovery is not None and self._stopped is None else None
        self._stopped = None
        self._recovery = self._start_handshake()
        self._recovery.since = since or self._recovery.since
        self._poll_reboot()

    def _start_handshake(self) -> Handshake:
        return self._board.start_handshake(self._simulated.now if self._simulated else None, RECOVERY_HELLO_S)

    def _poll_reboot(self) -> None:
        """Sends HELLO to a rebooted board when due. Raises SilentBoardError or BoardRebootedError after its timeout."""
        if self._recovery is None:
            return
        if self._stopped is not None and self._recovery.now() > self._recovery.since + SILENT_REBOOT_S:
            raise self._stopped
        if self._recovery.now() > self._recovery.since + RECOVERY_TIMEOUT_S:
            raise BoardRebootedError(
                f"the board on {self._board.port} restarted and did not identify itself within {RECOVERY_TIMEOUT_S:g} s",
                "check its power supply and cable; a firmware that crashes does the same; list the boards: hil boards",
            )
        self._recovery.send_if_due()

    def _give_up(self, *, older_than_s: float) -> None:
        now = self.now_s()
        for seq, request in list(self._in_flight.items()):
            if now - request.sent_s < older_than_s:
                break
            del self._in_flight[seq]
            self._given_up[seq] = request
            self.lost += 1
            self._on_fault("lost", f"no reply to the observation of step {request.step}")
        self._check_bound()

    def _check_silence(self, waited_s: float) -> None:
        """Time spent waiting, not elapsed time: the suspension of this computer must not count as silence of the board."""
        if not self._silence_s and not self._hello_after_silence:
            self._silent_step = next(iter(self._in_flight.values())).step
        self._silence_s += waited_s
        if self._silence_s <= SILENT_TIMEOUTS * self._reply_timeout_s * 0.99:  # a wait is rounded down
            return
        self._stopped = SilentBoardError(
            f"the board on {self._board.port} stopped answering at step {self._silent_step}: nothing came for "
            f"{self._silence_s:.2g} s",
            "reset it; if it stops at the same step again, its firmware hangs there: see the recording",
        )
        if self._hello_after_silence:
            raise self._stopped
        self._hello_after_silence = True
        self._silence_s = 0.0
        self._on_fault("silent", "nothing came for three reply timeouts")
        self._recovery = self._start_handshake()
        self._poll_reboot()

    def _check_bound(self) -> None:
        # A board that is asked after a long silence whether it is still there: the answer says what is wrong.
        if self.misses > self._max_lost and not self._hello_after_silence:
            hint = "look at cable, hub and load of this computer, or allow more: --max-lost"
            if self.late and self._board.process_ids:
                hint = "end other programs, run fewer boards at once or use --clock lockstep; or allow more: --max-lost"
            if self.rejected:
                hint = f"its firmware computes wrongly: {self.first_rejected}"
            raise TooManyLostError(
                f"{self.misses} control steps got no reply in time ({self.late} late, {self.lost} lost, {self.unsent} not sent, "
                f"{self.rejected} rejected), {self._max_lost} are allowed",
                hint,
            )


def _other_input(values: NDArray[Any], wanted: NDArray[Any]) -> str:
    """How the raw input of a reply differs from that of its observation."""
    if values.shape != wanted.shape:
        return f"it has {values.size} inputs, the observation {wanted.size}"
    at = int(np.flatnonzero(bits_of(values) != bits_of(wanted))[0])
    return f"its {values.dtype} input {at} is {values[at]}, the observation gives {wanted[at]}"
