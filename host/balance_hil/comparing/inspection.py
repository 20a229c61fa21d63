"""The ends of a board's pipeline: it is given observations that show every known way of converting them wrongly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from balance_hil.boards import Board
from balance_hil.comparing.comparison import BoardIo
from balance_hil.comparing.diagnosis import Exchange, Finding, diagnose, exchange_with
from balance_hil.comparing.probes import probe_observations
from balance_hil.comparing.subject import Subject
from balance_hil.errors import HarnessError, UnsupportedOperatorError
from balance_hil.quantize import dequantize, quantize
from balance_hil.runtimes.base import Float32Array
from balance_hil.runtimes.emulated import EmulatedRuntime, Variant
from balance_hil.runtimes.emulated.rules import TFLM


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a board made of float32 observations."""

    io: BoardIo
    findings: tuple[Finding, ...]  # on input, model and output, in this order; () where the model cannot be emulated


def inspect_board(board: Board, subject: Subject, observations: Float32Array, variant: Variant | None, seed: int) -> Inspection:
    """Sends ``observations``, float32 [n, n_obs], and probes as floats, and compares what came back with the host's conversions.

    Args:
        board: connected.
        subject: the model that it should run.
        observations: recorded ones.
        variant: the board's arithmetic where it was identified, None where not.
        seed: of the probes.

    Raises:
        HarnessError: the board is lost.
    """
    quant = subject.graph.input_quant
    sent = np.concatenate([observations, probe_observations(quant, subject.graph.n_obs, seed=seed)])
    exchange = exchange_with(board, sent)
    actions = dequantize(exchange.outputs, subject.graph.output_quant)
    io = BoardIo(
        observations=len(sent),
        input_differing=int(np.count_nonzero(exchange.inputs != quantize(sent, quant))),
        action_differing=int(np.count_nonzero(exchange.actions != actions)),
    )
    return Inspection(io=io, findings=_findings(exchange, subject, variant or TFLM))


def _findings(exchange: Exchange, subject: Subject, variant: Variant) -> tuple[Finding, ...]:
    try:
        model = EmulatedRuntime(subject.graph, variant)
    except UnsupportedOperatorError:
        return ()
    others = {}
    for name, other in subject.neighbors().items():
        try:
            others[name] = EmulatedRuntime(other, variant)
        except HarnessError:
            continue  # it is a guess at what the board runs; one that cannot be emulated cannot be guessed
    return diagnose(exchange, model, others)
