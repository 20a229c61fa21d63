"""``python host/tests/firmware/fuzz_seeds.py``: writes what the fuzz targets start from: small models, frames, uploads.

The files have names, which tells them from what the fuzzer found. firmware/test/fuzz/seed_model.h is made here, too.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from balance_hil.protocol import messages
from balance_hil.protocol.codec import encode
from balance_hil.protocol.wire import Message
from balance_hil.testing.synthetic_models import LOGISTIC_QUANT, TANH_QUANT, ModelBuilder, random_dense

FUZZ = Path(__file__).resolve().parents[3] / "firmware" / "test" / "fuzz"
RIGHT = 3  # of the upload target: sizes and vectors are those of the model


def model(kind: str, *, per_channel: bool = True) -> bytes:
    """A policy of six inputs and two outputs with one hidden layer of four and what ``kind`` names."""
    rng = np.random.default_rng(7)
    builder = ModelBuilder()
    source = builder.tensor((1, 6), scale=1 / 64, zero_point=3)
    hidden = random_dense(builder, rng, source, 4, per_channel=per_channel, activation="RELU" if kind == "RELU" else "NONE")
    if kind == "LOGISTIC":
        hidden = builder.elementwise("LOGISTIC", hidden, LOGISTIC_QUANT)
    elif kind == "FLOAT":
        hidden = builder.elementwise("QUANTIZE", builder.elementwise("DEQUANTIZE", hidden, kind="FLOAT32"), (0.05, 1))
    elif kind in ("RELU6", "QUANTIZE"):
        hidden = builder.elementwise(kind, hidden, (0.02, -128))
    out = builder.elementwise("TANH", random_dense(builder, rng, hidden, 2, per_channel=False), TANH_QUANT)
    return builder.build([source], [out])


KINDS = ("NONE", "RELU", "LOGISTIC", "FLOAT", "RELU6", "QUANTIZE")


def conversation() -> list[Message]:
    return [
        messages.Hello(1),
        messages.Infer(np.linspace(-1, 1, 6).astype(np.float32)),
        messages.InferInt8(np.arange(6, dtype=np.int8)),
        messages.Tensor(0, 0),
        messages.Tensor(9, 1),
        messages.InputData(2, np.arange(4, dtype=np.int8)),
        messages.ObservationData(0, np.linspace(-1, 1, 6).astype(np.float32)),
        messages.InferStored(0),
        messages.Tensor(messages.INPUT_TENSOR, 1),
        messages.Profile(np.zeros(0, np.float32)),
        messages.SelfTest(),
        messages.Profile(np.linspace(-1, 1, 6).astype(np.float32)),
        messages.StatsRequest(),
        messages.SetWatchdog(20),
        messages.SetTextLine(0),
        messages.SetTextLine(1),
        messages.Echo(b"abc"),
        messages.Reset(),
        messages.EnterBootloader(),
        messages.LoadBegin(7, 8, 1, 1, 6, 2, 0, "0123456789ab", 0),
        messages.LoadData(7, 0, bytes(16)),
        messages.LoadCommit(7),
        messages.LoadAbort(7),
    ]


def moves() -> bytes:
    """The conversation as moves of the server target, then text, silence and a reader that does not read."""
    frames = b"".join(bytes([0, m.TYPE & 0x7F]) + struct.pack("<H", len(m.pack())) + m.pack() for m in conversation())
    line = b"0.1,-2e-1,.3,0,1,-1*65\n"
    text = bytes([3, len(line)]) + line
    return frames + text + bytes([5, 200, 0, 7, 6 | 0x80]) + text + bytes([6, 3, 3, 5, 0x81, 1, 5, 44, 1])


def write(target: str, name: str, data: bytes) -> None:
    folder = FUZZ / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def main() -> None:
    for message in conversation():
        write("frame", f"seed-{type(message).__name__.lower()}", encode(message, 7))
    write("frame", "seed-text", b"\x000.5,-1e3\r\nhello\n" + b"7" * 300 + b"\n" + encode(messages.Echo(b"behind text"), 1))
    write("frame", "seed-long", encode(messages.Echo(bytes(range(256)) * 3), 2))
    write("server", "seed-conversation", moves())
    for kind in KINDS:
        data = model(kind)
        write("model", f"seed-{kind.lower()}", data)
        write("upload", f"seed-{kind.lower()}", bytes([RIGHT, 2, 6, 2, 100, 0]) + data)
    data = model("NONE")
    spoiled = {"wrong-crc": (7, 0), "wrong-id": (11, 0), "wrong-vectors": (1, 0), "disorder": (3, 0b10100110)}
    spoiled |= {"normalized": (35, 0), "wrong-normalization": (99, 0)}
    for name, (how, disorder) in spoiled.items():
        write("upload", f"seed-{name}", bytes([how, 2, 6, 2, 30, disorder]) + data)
    write("upload", "seed-twice", bytes([RIGHT | 16, 1, 6, 2, 200, 1]) + data)
    write("upload", "seed-wrong-shape", bytes([0, 1, 5, 2, 200, 0]) + data)
    small = model("RELU", per_channel=False)
    rows = [", ".join(f"0x{b:02x}" for b in small[i : i + 20]) for i in range(0, len(small), 20)]
    (FUZZ / "seed_model.h").write_text(
        "// Made by host/tests/firmware/fuzz_seeds.py: the policy of the fuzz targets' board, int8 [6] to int8 [2].\n"
        "#pragma once\n\n#include <cstdint>\n\n// clang-format off\n"
        "alignas(16) inline constexpr uint8_t kSeedModel[] = {\n    " + ",\n    ".join(rows) + ",\n};\n"
    )


if __name__ == "__main__":
    main()
