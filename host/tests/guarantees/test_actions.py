"""No wrong action takes effect, whatever the board replies."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from balance_hil.errors import BoardStatusError
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Decoder, encode
from balance_hil.quantize import dequantize, quantize
from balance_hil.testing.fake_board import FakeFirmware, fake_info, linear_policy

from .virtual import VirtualLink, exchange_over

GAINS = [[2, 1, 0, 0, -0.2, -0.3], [2, 1, 0, 0, -0.2, 0.3]]
KINDS = ("damaged", "stale", "stale input", "held back", "duplicated", "status", "input", "output", "limits", "length", "number")


class Liar:
    """Changes every reply in one of the ways of KINDS."""

    def __init__(self, random, quant):
        self.random, self.quant = random, quant
        self.injected = Counter()
        self.deck = []
        self.previous = None

    def __call__(self, frame):
        decoded = Decoder().feed(frame)
        if len(decoded) != 1 or not isinstance(decoded[0].message, messages.Action):
            return [(0.0, frame)]
        seq, action = decoded[0].seq, decoded[0].message
        self.deck = self.deck or list(self.random.permutation(KINDS))  # dealt, so that few replies have every kind, too
        kind = str(self.deck.pop())
        self.injected[kind] += 1
        before, self.previous = self.previous, (seq, action, frame)
        return self.lie(kind, seq, action, frame, before or (seq, action, frame))

    def lie(self, kind, seq, action, frame, before):
        random = self.random
        match kind:
            case "damaged":
                harmed = bytearray(frame)
                for _ in range(random.integers(1, 6)):
                    harmed[random.integers(len(frame))] ^= 1 << random.integers(8)
                return [(0.0, bytes(harmed))]
            case "stale":
                return [(0.0, before[2])]
            case "stale input":
                return [(0.0, encode(before[1], seq))]
            case "held back":
                return [(float(random.choice([0.004, 0.012, 0.03])), frame)]
            case "duplicated":
                return [(0.0, frame), (float(random.choice([0.0, 0.006, 0.03])), frame)]
            case "status":
                return [(0.0, encode(replace(action, status=int(random.integers(1, 40))), seq))]
            case "input":
                values = action.input.copy()
                values[random.integers(len(values))] ^= random.integers(1, 128)
                return [(0.0, encode(replace(action, input=values), seq))]
            case "output":  # not the action's
                output = action.output.copy()
                output[random.integers(len(output))] ^= random.integers(1, 128)
                return [(0.0, encode(replace(action, output=output), seq))]
            case "limits":
                values = action.action.copy()
                values[random.integers(len(values))] = random.choice([1e30, -1e30, np.nan, np.inf, 1.0001, -77])
                return [(0.0, encode(replace(action, action=values), seq))]
            case "length":
                count = int(random.integers(0, 5))
                output = np.resize(action.output, count if count != len(action.output) else 7)
                return [(0.0, encode(replace(action, output=output, action=dequantize(output, self.quant)), seq))]
        return [(0.0, encode(action, int(random.integers(1, 0x10000))))]


@pytest.mark.parametrize("waits", [True, False], ids=["lockstep", "realtime"])
def test_no_wrong_action_takes_effect(linear_bundle, faults, waits, tell):
    random = np.random.default_rng(11 + waits)
    firmware = FakeFirmware(fake_info(linear_bundle), linear_policy(GAINS, linear_bundle))
    liar = Liar(random, linear_bundle.output_quant)
    link = VirtualLink(firmware, liar)
    _, exchange = exchange_over(link, linear_bundle, asks_again=waits)
    wanted: dict[int, np.ndarray] = {}
    applied = wrong = newest = 0
    while liar.injected.total() < faults:
        exchange.step += 1
        observation = random.uniform(-1, 1, 6).astype(np.float32)
        output = firmware.policy(quantize(observation, linear_bundle.input_quant))
        wanted[exchange.step] = linear_bundle.spec.clip(dequantize(output, linear_bundle.output_quant))
        wanted.pop(exchange.step - 100, None)
        deadline = link.now_s() + 0.005
        try:
            exchange.send(observation)
            while (left_s := deadline - link.now_s()) > 0:
                reply = exchange.poll(left_s)
                if reply is None:
                    continue
                applied += 1
                wrong += reply.step < newest or not np.array_equal(reply.outputs, wanted[reply.step])
                newest = reply.step
        except BoardStatusError:
            pass  # ends a run; here the next step begins
        if waits:
            exchange.give_up()
    tell(faults, f"faulty replies, {applied} applied, {wrong} wrong")
    assert wrong == 0
    assert len(liar.injected) == min(liar.injected.total(), len(KINDS))
    assert applied >= faults // 20, "held back and duplicated ones are right"
