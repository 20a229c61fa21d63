"""Identification of the board and its model."""

import re
from dataclasses import replace

import numpy as np
import pytest

from balance_hil.boards import Board
from balance_hil.bundle import Bundle
from balance_hil.errors import ModelMismatchError
from balance_hil.model_image import normalization_crc
from balance_hil.protocol import messages
from balance_hil.quantize import Normalization


def test_board_runs_this_bundle(hil_board: Board, hil_bundle: Bundle) -> None:
    info = hil_board.info
    assert info.model_id == hil_bundle.id
    assert (info.n_obs, info.n_act) == (hil_bundle.spec.n_obs, hil_bundle.spec.n_act)
    assert (info.input_scale, info.input_zero_point) == (hil_bundle.input_quant.scale, hil_bundle.input_quant.zero_point)
    assert (info.output_scale, info.output_zero_point) == (hil_bundle.output_quant.scale, hil_bundle.output_quant.zero_point)


def test_board_normalizes_as_this_bundle_does(hil_board: Board, hil_bundle: Bundle) -> None:
    assert hil_board.info.normalization_crc == normalization_crc(hil_bundle.normalization)


def test_board_speaks_this_protocol(hil_board: Board) -> None:
    assert hil_board.info.protocol == messages.PROTOCOL_VERSION
    assert hil_board.info.schema_crc == messages.SCHEMA_CRC


def test_identity_is_complete(hil_board: Board) -> None:
    info = hil_board.info
    assert info.board
    assert info.processor
    assert info.engine
    assert info.engine_version
    assert re.fullmatch(r"[0-9a-f]{12}\+?", info.firmware_commit), "a commit of 12 hex digits, + when built with local changes"
    assert info.engine_status == messages.Status.OK
    assert info.n_ops > 0
    assert 0 < info.arena_used <= info.arena_size
    # Physical boards may report 0 (unknown); emulated ones may not.
    least = 1 if hil_board.definition.is_emulated else 0
    assert min(info.stack, info.ram, info.flash) >= least
    assert hil_board.stats().stack >= least
    assert info.max_payload == messages.MAX_PAYLOAD
    assert info.rx_buffer >= info.max_payload, "one request of the largest size must fit"


def test_info_belongs_to_this_session(hil_board: Board) -> None:
    for nonce in (0, 1, 0xFFFFFFFF):
        info = hil_board.request(messages.Hello(nonce))
        assert isinstance(info, messages.Info)
        assert info.nonce == nonce


def test_greeting_again_changes_nothing(hil_board: Board) -> None:
    before = hil_board.info
    after = hil_board.identify()
    # Peak stack usage is a measurement; everything else is identity.
    assert replace(after, nonce=0, stack=0, watchdog_ms=0) == replace(before, nonce=0, stack=0, watchdog_ms=0)


def test_stale_model_is_refused(hil_board: Board, hil_bundle: Bundle) -> None:
    hil_board.bundle = replace(hil_bundle, id="0" * 12)
    try:
        with pytest.raises(ModelMismatchError, match=f"runs policy {hil_bundle.id}, this run needs {'0' * 12}"):
            hil_board.identify()
    finally:
        hil_board.bundle = hil_bundle


def test_another_normalization_is_refused(hil_board: Board, hil_bundle: Bundle) -> None:
    n_obs = hil_bundle.spec.n_obs
    hil_board.bundle = replace(hil_bundle, normalization=Normalization(np.ones(n_obs), np.ones(n_obs), 9.0))
    try:
        with pytest.raises(ModelMismatchError, match="normaliz"):
            hil_board.identify()
    finally:
        hil_board.bundle = hil_bundle


def test_misread_tables_are_refused(hil_board: Board, hil_bundle: Bundle) -> None:
    quant = hil_bundle.input_quant
    hil_board.bundle = replace(hil_bundle, input_quant=replace(quant, zero_point=-1 - quant.zero_point))
    try:
        with pytest.raises(ModelMismatchError, match="reports other sizes, scales"):
            hil_board.identify()
    finally:
        hil_board.bundle = hil_bundle
