"""The table of faults of ``hil verify``: what is broken, which test of the HIL suite must fail, and what it must say.

A fault is put into the firmware (``docs/verify.md``), on the link, or behind it (``behavior``); the last two work with
every board.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from balance_hil.bundle import GOLDEN, Bundle
from balance_hil.errors import UsageError
from balance_hil.files import did_you_mean
from balance_hil.link import Link
from balance_hil.protocol import messages as m
from balance_hil.protocol.messages import Status
from balance_hil.quantize import INT8_MAX, INT8_MIN, QuantParams
from balance_hil.runtimes.emulated import Kernels
from balance_hil.runtimes.emulated.tables import clamp_bounds
from balance_hil.tflite.graph import read_graph
from balance_hil.verifying import behavior as does
from balance_hil.verifying.tampering import TamperedLink

HANDSHAKE_TIMEOUT_S = 3.0  # a board that is silent on purpose is not waited for as long as one that boots
Reason = Callable[[Bundle], str]  # why it is not a fault with this bundle; "": it is one


def _always(bundle: Bundle) -> str:
    return ""


@dataclass(frozen=True)
class DeviceFault:
    """One fault, and how the HIL suite must catch it."""

    name: str
    group: str  # firmware, link, board, memory, identity, reply, reset, watchdog, time, text, upload
    what: str  # what the device does
    test: str  # "file.py::test" that must fail
    because: str  # regular expression that its message must match
    link: str = ""  # as docs/faults.md writes it
    tamper: does.Make | None = None
    absent: Reason = _always

    @property
    def in_firmware(self) -> bool:
        """Whether the board must be built with it."""
        return self.group == "firmware"

    def options(self, bundle: Bundle) -> dict[str, Any]:
        """Arguments of ``connect`` that make a board with this fault."""
        if self.in_firmware:
            return {"firmware_fault": self.name, "handshake_timeout_s": HANDSHAKE_TIMEOUT_S}
        if self.tamper is None:
            return {"faults": [self.link], "handshake_timeout_s": HANDSHAKE_TIMEOUT_S}
        make = self.tamper

        def tamper(link: Link) -> Link:
            return TamperedLink(link, make(bundle))

        return {"tamper": tamper, "handshake_timeout_s": HANDSHAKE_TIMEOUT_S}


def find_fault(name: str) -> DeviceFault:
    """The fault called ``name``. Raises UsageError."""
    if name == NONE.name:
        return NONE
    if name not in FAULTS:
        raise UsageError(f"unknown fault {name!r}" + did_you_mean(name, FAULTS), "list them: hil verify --list")
    return FAULTS[name]


# --- where it is not a fault ---------------------------------------------------------------------------------------------


def _unless(condition: Callable[[Bundle], bool], why: str) -> Reason:
    return lambda bundle: "" if condition(bundle) else why


_inputs = _unless(lambda bundle: bundle.spec.n_obs > 1, "the model has one input")
_outputs = _unless(lambda bundle: bundle.spec.n_act > 1, "the model has one output")
_input_zero_point = _unless(lambda bundle: bundle.input_quant.zero_point != 0, "the input's zero point is 0")
_output_zero_point = _unless(lambda bundle: bundle.output_quant.zero_point != 0, "the output's zero point is 0")
_scales_differ = _unless(
    lambda bundle: bundle.input_quant != bundle.output_quant, "input and output of the model are quantized alike"
)
_odd_scale = _unless(lambda bundle: math.frexp(bundle.input_quant.scale)[0] != 0.5, "the input's scale is a power of two")
_several_operators = _unless(lambda bundle: len(read_graph(bundle.model()).operators) > 1, "the model has one operator")


def _dense(bundle: Bundle) -> str:
    names = {op.name for op in read_graph(bundle.model()).operators}
    return "" if names == {"FULLY_CONNECTED"} else "the model has operators besides FULLY_CONNECTED"


def _several_scales(bundle: Bundle) -> str:
    per_channel = any(len(set(np.ravel(t.scales))) > 1 for t in read_graph(bundle.model()).tensors)
    return _dense(bundle) or ("" if per_channel else "every tensor has one scale")


def _biased(bundle: Bundle) -> str:
    graph = read_graph(bundle.model())
    biases = [graph.tensors[op.inputs[2]] for op in graph.operators if op.name == "FULLY_CONNECTED" and len(op.inputs) > 2]
    return "" if any(np.any(bias.data) for bias in biases if bias.data is not None) else "the dense layers have no biases"


def _activated(bundle: Bundle) -> str:
    """A RELU whose output has the zero point -128 only saturates."""
    graph = read_graph(bundle.model())
    outputs = [(op.activation, graph.output_of(op)) for op in graph.operators if op.activation != "NONE"]
    bounds = [clamp_bounds(name, QuantParams(out.scales[0], out.zero_points[0]), Kernels.TFLM) for name, out in outputs]
    return "no fused activation does more than saturate" if all(b == (INT8_MIN, INT8_MAX) for b in bounds) else ""


def _saturates(bundle: Bundle) -> str:
    with np.load(bundle.file(GOLDEN)) as golden:
        outputs = golden["output_int8"]
    return _dense(bundle) or ("" if np.isin(outputs, (-128, 127)).any() else "no output saturates")


def _rounded_scale(of: str) -> Reason:
    def reason(bundle: Bundle) -> str:
        scale = getattr(bundle, of).scale
        return "the scale has four decimals" if np.float32(round(scale, 4)) == np.float32(scale) else ""

    return reason


# --- the table --------------------------------------------------------------------------------------------------------

_IDENTITY = "test_identity.py::test_board_runs_this_bundle"
_COMPLETE = "test_identity.py::test_identity_is_complete"
_GOLDEN = "test_model.py::test_golden_vectors_bit_for_bit"
_RANDOM = "test_model.py::test_board_equals_tflm_on_random_inputs"
_LAYERS = "test_model.py::test_every_intermediate_tensor_of_the_golden_vectors"
_STALE = "test_model.py::test_an_inference_does_not_depend_on_the_one_before"
_SELF_TEST = "test_model.py::test_self_test_passes"
_TIES = "test_quantization.py::test_exact_ties_go_away_from_zero"
_NEIGHBORS = "test_quantization.py::test_neighbors_of_ties"
_ROUNDING = "test_quantization.py::test_random_observations"
_SATURATION = "test_quantization.py::test_saturation_on_both_sides"
_ACTIONS = "test_quantization.py::test_actions_are_the_dequantized_outputs"
_NON_FINITE = "test_quantization.py::test_non_finite_is_refused_by_name_and_index"
_ROUND_TRIP = "test_timing.py::test_round_trip_fits_the_control_period"
_CLEAN = "test_timing.py::test_the_link_is_clean"
_CLOCK = "test_timing.py::test_the_clock_of_the_board_runs_true"
_EPISODES = "test_episodes.py::test_lockstep_episodes"
_SILENCE = "test_recovery.py::test_silence_brings_the_safe_state_and_an_observation_ends_it"
_IN_TIME = "test_recovery.py::test_the_watchdog_trips_in_time"
_RESET = "test_recovery.py::test_reset_restarts_the_board_as_the_same_board"
_DAMAGE = "test_protocol_errors.py::test_every_flipped_bit_is_noticed"
_ORDER = "test_protocol_errors.py::test_replies_come_in_order_and_carry_their_numbers"
_LINE = "test_text_line.py::test_a_line_is_answered_by_the_action"
_UPLOAD = "test_upload.py::test_another_model_takes_over_and_a_reset_brings_the_flashed_one_back"

_DIFFER = r"golden outputs: \d+ of \d+ values differ"
_QUANTIZED = r"\d+ of \d+ values are quantized otherwise"
_DEQUANTIZED = r"\d+ of \d+ actions are not their outputs, dequantized"
_TIE = _QUANTIZED + r".*\.5\)? steps\)"
_NUMBERS = r"assert \d+ == \d+\s+\+ +where \d+ = Frame"
_SILENT = r"is silent: no byte received|nothing answers behind"
_LOST = r"did not answer \w+ within"
_LAYER = r"layer \d+ \(\w+\): \d+ of \d+ values differ"
_RATE = r"clock_rate_at_%s is .*, outside"
_RESTARTED = r"restarted before it answered InferInt8"

# name, what the firmware does, test, its message[, where it is not a fault]
_FIRMWARE: tuple[tuple[str, str, str, str] | tuple[str, str, str, str, Reason], ...] = (
    ("input-truncate", "(int)(x / scale) + zero point, saturated", _ROUNDING, _QUANTIZED),
    ("input-truncate-sum", "(int)(x / scale + zero point), saturated", _ROUNDING, _QUANTIZED),
    ("input-floor", "floor(x / scale) + zero point, saturated", _ROUNDING, _QUANTIZED),
    ("input-cast-half-up", "(int)(x / scale + 0.5) + zero point, saturated", _ROUNDING, _QUANTIZED),
    ("input-half-up", "floor(x / scale + 0.5) + zero point, saturated", _TIES, _TIE),
    ("input-half-even", "rint(x / scale) + zero point, saturated", _TIES, _TIE),
    ("input-reciprocal", "round(x * (1 / scale)) + zero point, saturated", _NEIGHBORS, _QUANTIZED, _odd_scale),
    ("input-float64", "round((double)x / scale) + zero point, saturated", _TIES, _TIE, _odd_scale),
    ("input-wrap", "(int8_t)(round(x / scale) + zero point), not saturated", _SATURATION,
     _QUANTIZED + r".*instead of (127|-128)"),
    ("input-no-zero-point", "round(x / scale), saturated; zero point omitted", _ROUNDING, _QUANTIZED, _input_zero_point),
    ("input-zero-point-above", "adds one more than the zero point", _ROUNDING, _QUANTIZED),
    ("input-zero-point-below", "adds one less than the zero point", _ROUNDING, _QUANTIZED),
    ("input-scale-digits", "uses the scale rounded to four decimals", _ROUNDING, _QUANTIZED,
     _rounded_scale("input_quant")),
    ("input-output-scale", "quantizes with scale and zero point of the model's output", _ROUNDING, _QUANTIZED, _scales_differ),
    ("input-swapped-bytes", "reads the floats of the observation in big-endian order", _ROUNDING, _QUANTIZED),
    ("input-permuted", "swaps the first two observations", _ROUNDING, _QUANTIZED, _inputs),
    ("input-stale", "runs the model on the observation before the last", _ROUNDING, _QUANTIZED),
    ("model-other", "runs weights that do not match the model id", _LAYERS, _LAYER),
    ("model-constant", "never copies the output tensor: always zeros", _GOLDEN, _DIFFER + r".*: 0 instead of"),
    ("model-wrong-tensor", "reads the first operator's tensor instead of the output", _GOLDEN, _DIFFER, _several_operators),
    ("model-permuted", "returns the outputs in reverse order", _GOLDEN, _DIFFER, _outputs),
    ("model-stale", "reads the output before it runs the model", _STALE, r"shuffled inputs: \d+ of \d+ values differ"),
    ("model-wrap", "casts the last layer's result to int8 instead of saturating it", _RANDOM,
     r"random inputs: \d+ of \d+ values differ, by up to 2\d\d LSB", _saturates),
    ("model-first-scale", "applies the first channel's weight scale to every channel", _LAYERS,
     _LAYER, _several_scales),
    ("model-single-rounding", "requantizes with one rounding instead of two", _RANDOM,
     r"random inputs: \d+ of \d+ values differ, by up to \d LSB", _dense),
    ("model-floored", "requantizes without the rounding of the first product (VQDMULH for VQRDMULH)", _RANDOM,
     r"random inputs: \d+ of \d+ values differ, by up to \d LSB", _dense),
    ("model-float32", "requantizes in float32, ties to even, as XNNPACK does", _RANDOM,
     r"random inputs: \d+ of \d+ values differ, by up to \d LSB", _dense),
    ("model-truncated", "requantizes in float32 and truncates, as TinyEngine does", _LAYERS, _LAYER, _dense),
    ("model-no-bias", "omits the biases", _LAYERS, _LAYER, _biased),
    ("model-no-activation", "omits the fused activations", _LAYERS, _LAYER, _activated),
    ("output-no-zero-point", "scale * q; zero point omitted", _ACTIONS, _DEQUANTIZED, _output_zero_point),
    ("output-zero-point-above", "subtracts one more than the zero point", _ACTIONS, _DEQUANTIZED),
    ("output-zero-point-below", "subtracts one less than the zero point", _ACTIONS, _DEQUANTIZED),
    ("output-scale-digits", "uses the scale rounded to four decimals", _ACTIONS, _DEQUANTIZED,
     _rounded_scale("output_quant")),
    ("output-unsigned", "reads the output as uint8_t", _ACTIONS, _DEQUANTIZED),
    ("output-raw-127", "q / 127 in place of the model's own scale", _ACTIONS, _DEQUANTIZED),
    ("output-swapped-bytes", "sends the floats of the action in big-endian order", _ACTIONS, _DEQUANTIZED),
)  # fmt: skip

# name, what the link or the board on it does, test, its message, the fault as docs/faults.md writes it
_LINK: tuple[tuple[str, str, str, str, str], ...] = (
    ("link-loses-replies", "every tenth reply is lost", _CLEAN, _LOST, "drop:rate=0.1,direction=rx"),
    ("link-loses-requests", "every tenth request is lost", _CLEAN, _LOST, "drop:rate=0.1,direction=tx"),
    ("link-loses-bytes", "one byte in 500 is lost", _CLEAN, _LOST, "drop-byte:rate=0.002"),
    ("link-loses-bursts", "five frames in a row are lost", _CLEAN, _LOST, "burst:rate=0.02"),
    ("link-flips-bits", "one bit of every tenth frame is flipped", _CLEAN, _LOST, "corrupt:rate=0.1"),
    ("link-changes-bytes", "one byte in 500 is another one", _CLEAN, _LOST, "corrupt-byte:rate=0.002"),
    ("link-cuts-frames-short", "every tenth frame ends early", _CLEAN, _LOST, "truncate:rate=0.1"),
    ("link-inserts-garbage", "random bytes before every tenth frame", _CLEAN,
     _LOST + r"|damaged_on_the_way\w+ is [1-9]\d* 1, outside", "garbage:rate=0.1"),
    ("link-swaps-replies", "every fourth reply arrives after the next", _ORDER, _NUMBERS, "reorder:rate=0.25,direction=rx"),
    ("link-repeats-replies", "every reply arrives twice", _ORDER, _NUMBERS, "duplicate:rate=1,direction=rx"),
    ("link-repeats-requests", "every request arrives twice", "test_recovery.py::test_counters_count", r"\.inferences",
     "duplicate:rate=1,direction=tx"),
    ("link-stalls", "nothing moves for 20 s", _CLEAN, _LOST, "stall:at_s=0,for_s=20"),
    ("link-unplugged", "the cable is pulled out", _GOLDEN, r"vanished while it was in use", "cut:at_s=0"),
    ("board-hangs", "the processor stops", _GOLDEN, _LOST, "hang:at_s=0,for_s=60"),
    ("board-restarts", "the board restarts by itself", _GOLDEN, _RESTARTED, "reboot:at_s=0"),
    ("board-loses-power", "the power of the board fails for a moment", _GOLDEN, _RESTARTED, "power-cycle:at_s=0"),
    ("memory-flipped-bit", "one bit of one weight flips in the board's memory", _LAYERS, _LAYER, "flip-bit:at_s=0"),
    ("time-clock-fast", "the board's clock is 10 % fast", _CLOCK, _RATE % "least", "clock-drift:ppm=100000"),
    ("time-clock-slow", "the board's clock is 10 % slow", _CLOCK, _RATE % "most", "clock-drift:ppm=-100000"),
)  # fmt: skip

# name, group, what the device does, test, its message, how
_DEVICE: tuple[tuple[str, str, str, str, str, does.Make], ...] = (
    ("link-silent", "link", "nothing arrives from the board", _IDENTITY, _SILENT, does.all_bytes(lambda data: b"")),
    ("link-wrong-baud", "link", "the board sends at another baud rate", _IDENTITY,
     r"the baud rates differ|neither frames nor text", does.all_bytes(lambda data: bytes(0x80 | byte >> 1 for byte in data))),
    ("link-other-firmware", "link", "another program is on the board, and prints text", _IDENTITY,
     r"does not run this project's firmware: .*boot: ok", does.all_bytes(lambda data: b"boot: ok\r\n")),
    # who is there
    ("identity-stale-image", "identity", "the flashed image holds another policy", _IDENTITY,
     r"runs policy 0{12}, this run needs", does.reports(m.Info, model_id="0" * 12)),
    ("identity-other-size", "identity", "the model has one input more than the bundle's", _IDENTITY,
     r"reports other sizes, scales or zero points", does.reports(m.Info, n_obs=lambda n: n + 1)),
    ("identity-other-scale", "identity", "the input has twice the scale of the bundle's", _IDENTITY,
     r"reports other sizes, scales or zero points", does.reports(m.Info, input_scale=lambda scale: 2 * scale)),
    ("identity-other-zero-point", "identity", "the output has another zero point than the bundle's", _IDENTITY,
     r"reports other sizes, scales or zero points", does.reports(m.Info, output_zero_point=lambda z: -1 - z)),
    ("identity-other-normalization", "identity", "the observations are normalized otherwise",
     "test_identity.py::test_board_normalizes_as_this_bundle_does", r"which normalizes its observations by",
     does.reports(m.Info, normalization_crc=lambda crc: crc ^ 1)),
    ("identity-other-protocol", "identity", "the firmware has the protocol version before this one",
     "test_identity.py::test_board_speaks_this_protocol", rf"uses protocol {m.PROTOCOL_VERSION - 1}, this program uses",
     does.reports(m.Info, protocol=m.PROTOCOL_VERSION - 1)),
    ("identity-other-schema", "identity", "the firmware was built from another message schema",
     "test_identity.py::test_board_speaks_this_protocol", r"was built from another message schema",
     does.reports(m.Info, schema_crc=lambda crc: crc ^ 1)),
    ("identity-of-an-earlier-session", "identity", "INFO repeats the nonce of the first HELLO",
     "test_identity.py::test_info_belongs_to_this_session", r"where \d+ = Info\(.*\)\.nonce", does.first_nonce),
    ("identity-nameless", "identity", "INFO does not name the engine", _COMPLETE, r"where '' = Info\(.*\)\.engine",
     does.reports(m.Info, engine="")),
    ("identity-without-commit", "identity", "INFO does not name the commit of the firmware", _COMPLETE,
     r"a commit of 12 hex digits", does.reports(m.Info, firmware_commit="unknown")),
    ("identity-changes", "identity", "INFO is another one after each HELLO",
     "test_identity.py::test_greeting_again_changes_nothing", r"assert Info", does.counting(m.Info, "flash")),
    ("identity-not-asked", "identity", "inferences are answered before HELLO",
     "test_protocol_errors.py::test_requests_before_the_handshake_are_refused", r"expected ERROR\(NOT_IDENTIFIED\), got Action",
     does.no_greeting_needed),
    ("memory-arena-overrun", "memory", "the model uses more memory than the arena has", _COMPLETE, r"arena_used",
     does.reports(m.Info, arena_used=lambda used: used + (1 << 24))),
    ("memory-arena-too-small", "memory", "the model does not fit into the arena", _IDENTITY, r"the tensor arena is too small",
     does.reports(m.Info, engine_status=int(Status.ARENA_TOO_SMALL), engine_message="")),
    ("engine-refuses-model", "identity", "the engine lacks an operator of the model", _IDENTITY,
     r"cannot run an operator of the model", does.reports(m.Info, engine_status=int(Status.UNSUPPORTED_OPERATOR))),
    # what it answers
    ("reply-wrong-status", "reply", "ACTION carries the status inference_failed", _ACTIONS, r"status INFERENCE_FAILED",
     does.reports(m.Action, status=int(Status.INFERENCE_FAILED))),
    ("reply-previous-action", "reply", "ACTION is the one of the request before", _GOLDEN, _DIFFER,
     does.previous("input", "output", "action")),
    ("reply-previous-input", "reply", "ACTION returns the input of the request before", _ACTIONS,
     r"ACTION must return the raw input", does.previous("input")),
    ("reply-out-of-limits", "reply", "the action is 1e30", _ACTIONS, _DEQUANTIZED,
     does.reports(m.Action, action=lambda action: np.full_like(action, 1e30))),
    ("reply-nan", "reply", "the action is NaN", _ACTIONS, _DEQUANTIZED,
     does.reports(m.Action, action=lambda action: np.full_like(action, np.nan))),
    ("reply-other-action", "reply", "the action has the wrong sign", _EPISODES,
     r"replies were wrong and not applied; the reply of step 0: its action is",
     does.reports(m.Action, action=lambda action: -action)),
    ("reply-wrong-way", "reply", "output and action have the wrong sign", _EPISODES,
     r"failed on the board and not in simulation|differing_from_tflm is|lockstep gave other episodes", does.wrong_way),
    ("reply-one-lsb-once", "reply", "one output in 20,000 is off by one", _RANDOM,
     r"random inputs: 1 of \d+ values differ, by up to 1 LSB; first in input 12344,", does.one_lsb(12_345)),
    ("reply-wrong-layer", "reply", "TENSOR_DATA of the first operator has a flipped bit", _LAYERS,
     r"layer 0 \(\w+\): \d+ of \d+ values differ, by up to 1 LSB", does.replies(m.TensorData, does.flipped_bit)),
    ("reply-wrong-number", "reply", "replies carry the number of the next request", _ORDER, _NUMBERS, does.renumbered),
    ("reply-damaged-echo", "reply", "ECHO_REPLY has a flipped bit",
     "test_protocol_errors.py::test_longest_payload_works_and_one_byte_more_is_refused", r"assert b'",
     does.reports(m.EchoReply, data=lambda data: bytes([data[0] ^ 1]) + data[1:])),
    ("reply-nan-taken-for-zero", "reply", "NaN and infinity are taken for 0", _NON_FINITE, r"DID NOT RAISE .*BoardStatusError",
     does.requests(m.Infer, lambda request: m.Infer(np.nan_to_num(request.observation, posinf=0.0, neginf=0.0)))),
    ("reply-error-of-another-name", "reply", "every ERROR has the status inference_failed",
     "test_protocol_errors.py::test_wrong_count", r"'INFERENCE_FAILED' == 'WRONG_COUNT'",
     does.reports(m.Error, status=int(Status.INFERENCE_FAILED))),
    ("reply-error-without-detail", "reply", "every ERROR has the detail 0", "test_protocol_errors.py::test_wrong_count",
     r"detail is 0 instead of", does.reports(m.Error, detail=0)),
    ("reply-to-long-payload", "reply", "one byte too many is ignored", "test_protocol_errors.py::test_wrong_length",
     r"expected ERROR\(WRONG_LENGTH\), got", does.long_payload_taken),
    ("reply-none-to-unknown", "reply", "a request of an unknown type is not answered",
     "test_protocol_errors.py::test_unknown_type", r"the board must answer", does.unknown_ignored),
    ("reply-to-damage", "reply", "damaged frames are obeyed", _DAMAGE, r"assert \d+ == \d+", does.damage_unseen),
    ("reply-damage-not-counted", "reply", "damaged frames are not counted", _DAMAGE, r"assert 0 == \d+",
     does.reports(m.Stats, crc_errors=0, framing_errors=0)),
    ("self-test-fails", "reply", "the self-test reports a mismatch", _SELF_TEST, r"assert \(1, 3\) == \(0, 65535\)",
     does.reports(m.SelfTestResult, mismatches=1, first_mismatch=3)),
    ("self-test-empty", "reply", "the self-test compares nothing", _SELF_TEST, r"assert 0 == \d+",
     does.reports(m.SelfTestResult, count=0)),
    ("counter-stands", "reply", "inferences are not counted", "test_recovery.py::test_counters_count", r"assert 7 == \(7 \+ 10\)",
     does.reports(m.Stats, inferences=7)),
    # restarts
    ("reset-ignored", "reset", "RESET does nothing", _RESET, r"did not come back after RESET",
     does.requests(m.Reset, lambda request: None)),
    ("reset-keeps-state", "reset", "RESET is answered by READY, and the firmware goes on", _RESET, r"\.inferences",
     does.says_ready),
    ("reset-without-cause", "reset", "READY does not say that a RESET was the cause",
     "test_recovery.py::test_ready_names_the_cause", r"requested by RESET", does.reports(m.Ready, reset_cause=0)),
    # watchdog
    ("watchdog-never", "watchdog", "the watchdog never trips", _SILENCE, r"safe state after 30 ms without an observation",
     does.watchdog(lambda ms: 0)),
    ("watchdog-late", "watchdog", "the watchdog trips after four times its time", _IN_TIME,
     r"watchdog_still_waits is \d+ ms, outside", does.watchdog(lambda ms: 4 * ms)),
    ("watchdog-early", "watchdog", "the watchdog trips after a quarter of its time", _IN_TIME,
     r"watchdog_trips is \d+ ms, outside", does.watchdog(lambda ms: ms // 4)),
    ("watchdog-stays-on", "watchdog", "the watchdog cannot be switched off",
     "test_recovery.py::test_watchdog_can_be_switched_off", r"\.safe_state", does.watchdog(lambda ms: ms or 10)),
    ("watchdog-fed-by-anything", "watchdog", "any request feeds the watchdog", _IN_TIME,
     r"watchdog_still_waits is \d+ ms, outside|safe state after 50 ms without an observation",
     does.before(m.StatsRequest, does.zeros)),
    ("watchdog-outlives-session", "watchdog", "a session's watchdog time holds in the next one",
     "test_recovery.py::test_the_watchdog_time_ends_with_the_session", r"\.watchdog_ms", does.watchdog_outlives),
    ("watchdog-trips-again", "watchdog", "one silence is counted several times", "test_recovery.py::test_a_silence_trips_once",
     r"\.watchdog_trips", does.counting(m.Stats, "watchdog_trips")),
    ("safe-state-stays", "watchdog", "an observation does not end the safe state", _SILENCE, r"\.safe_state",
     does.reports(m.Stats, safe_state=1)),
    # time
    ("time-slow-inference", "time", "an inference takes one and a half control periods",
     "test_timing.py::test_inference_fits_the_control_period", r"inference_median is .* us, outside", does.slow),
    ("time-late-replies", "time", "replies arrive one and a half control periods late", _ROUND_TRIP,
     r"round_trip_median is .* us, outside", does.late),
    ("time-of-nothing", "time", "an inference takes longer than its whole request",
     "test_recovery.py::test_times_of_an_inference_add_up", r"inference_us <= .*total_us|longer than",
     does.reports(m.Action, inference_us=1_000_000, total_us=1000)),
    # text
    ("text-three-digits", "text", "numbers of a text line have three digits", _LINE, r"the line says",
     does.lines(does.three_digits)),
    ("text-checksum-ignored", "text", "the checksum of a text line is not checked",
     "test_text_line.py::test_a_checksum_is_checked_and_answered_by_one", r"error: line_damaged", does.ignores_checksum),
    ("text-stays-on", "text", "text lines cannot be switched off",
     "test_text_line.py::test_lines_can_be_switched_off_until_the_next_session", r"== 'error: text_line_off'",
     does.text_stays_on),
    ("text-ends-safe-state", "text", "a text line ends the safe state of a session",
     "test_text_line.py::test_a_line_does_not_end_the_safe_state_of_a_session", r"assert 0 == 1", does.line_acts),
    ("text-silent", "text", "text lines are not answered", _LINE, r"no line came back", does.lines(lambda line: b"")),
    # uploads
    ("upload-accepts-anything", "upload", "every upload is said to be accepted",
     "test_upload.py::test_a_model_that_is_not_right_leaves_the_one_that_runs", r"DID NOT RAISE .*HarnessError",
     does.reports(m.LoadResult, status=int(Status.OK))),
    ("upload-damages", "upload", "one bit of each piece is flipped in memory", _UPLOAD, r"upload_damaged",
     does.requests(m.LoadData, lambda piece: replace(piece, data=bytes([piece.data[0] ^ 1]) + piece.data[1:]))),
    ("upload-not-active", "upload", "the upload is accepted, and the old model goes on", _UPLOAD, r"assert \('\w+', 0, \d+\) == ",
     does.not_activated),
    ("upload-needs-no-greeting", "upload", "the new model runs before a HELLO",
     "test_upload.py::test_an_uploaded_model_wants_a_new_greeting", r"DID NOT RAISE .*BoardStatusError", does.no_greeting_needed),
)  # fmt: skip

FAULTS: dict[str, DeviceFault] = {
    fault.name: fault
    for fault in (
        *(
            DeviceFault(name, "firmware", what, test, because, absent=(*rest, _always)[0])
            for name, what, test, because, *rest in _FIRMWARE
        ),
        *(DeviceFault(name, name.split("-")[0], what, test, because, link=fault) for name, what, test, because, fault in _LINK),
        *(DeviceFault(name, group, what, test, because, tamper=tamper) for name, group, what, test, because, tamper in _DEVICE),
    )
}
# The control run: frames are taken apart and put together as for a fault, and nothing is changed.
NONE = DeviceFault("none", "none", "nothing is broken", "", "", tamper=does.passes)
