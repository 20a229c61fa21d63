"""What a board runs: a model, its normalization, and vectors that its engine must reproduce.

One ``ModelImage`` has three forms: ``model.h`` (compiled into a firmware image), a file (the native board), and an upload (LOAD).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from balance_hil.bundle import Bundle, model_id
from balance_hil.errors import BundleError, HarnessError, MissingExtraError
from balance_hil.files import write_atomically
from balance_hil.protocol import messages
from balance_hil.quantize import ELEMENT_TYPES, INT8, ElementType, Normalization
from balance_hil.tflite.codec import schema
from balance_hil.tflite.graph import read_graph

SELF_TEST_ROWS = 8  # of the golden vectors that an image carries, one at least, and of inputs of
SELF_TEST_BYTES = 16_384  # in all
MAX_OBS, MAX_ACT = 255, 64  # bytes, of a model that needs no larger image than any other: kMaxObs, kMaxAct of the firmware
# Operators of the compact engine that an image has only if its model does, by their numbers in TensorFlow Lite's schema.
KERNELS = {
    "ADD": 0,
    "AVERAGE_POOL_2D": 1,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 4,
    "MAX_POOL_2D": 17,
    "MUL": 18,
    "SOFTMAX": 25,
    "PAD": 34,
    "MEAN": 40,
}
# And those of int32, which only compute the shape that RESHAPE gives its output: nothing runs, the file has that shape.
SHAPE_ARITHMETIC = {"STRIDED_SLICE": 45, "SHAPE": 77, "PACK": 83}
ALWAYS_THERE = ("FULLY_CONNECTED", "RELU", "TANH")  # in every image
_BYTES_PER_LINE = 16
_NUMBERS_PER_LINE = 8


def normalization_crc(normalization: Normalization | None) -> int:
    """Identifier of a normalization in INFO: its CRC-32; 0 for none."""
    return zlib.crc32(normalization.to_bytes()) if normalization else 0


def _no_rows() -> NDArray[Any]:
    return np.zeros((0, 0), np.int8)


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelImage:
    """A model and what belongs to it.

    Args:
        model: bytes of the ``.tflite``, int8 or of another element type.
        normalization: of observations, before quantization; None: none.
        inputs: raw values [n, n_obs], vectors for the self-test; none are allowed but for an upload.
        outputs: raw values [n, n_act] that TensorFlow Lite Micro gives for them.
        id: what the board reports; by default that of model and normalization.
    """

    model: bytes
    normalization: Normalization | None = None
    inputs: NDArray[Any] = field(default_factory=_no_rows)
    outputs: NDArray[Any] = field(default_factory=_no_rows)
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", model_id(self.model, self.normalization))

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """The image of ``bundle``."""
        rows = _self_test_rows(bundle.spec.n_obs)
        inputs, outputs = (bundle.golden_raw(which)[:rows] for which in ("input", "output"))
        return cls(model=bundle.model(), normalization=bundle.normalization, inputs=inputs, outputs=outputs)

    @property
    def kind(self) -> ElementType:
        """Element type of the model; int8 of one that nobody here can read."""
        if len(self.inputs):
            return next(kind for kind in ELEMENT_TYPES.values() if kind.dtype == self.inputs.dtype)
        try:
            return read_graph(self.model).kind
        except HarnessError:  # the board says what is wrong with it
            return INT8

    def begin(self, transfer: int) -> messages.LoadBegin:
        """The announcement of an upload."""
        return messages.LoadBegin(
            transfer,
            len(self.model),
            int(self.normalization is not None),
            len(self.inputs),
            self.inputs.shape[1] or (len(self.normalization.mean) if self.normalization else 0),
            self.outputs.shape[1],
            zlib.crc32(self.data()),
            self.id,
            self.kind.number,
        )

    def data(self) -> bytes:
        """The bytes of an upload."""
        normalization = self.normalization.to_bytes() if self.normalization else b""
        return self.model + normalization + self.inputs.tobytes() + self.outputs.tobytes()

    def file(self) -> bytes:
        """The file that the native board starts with: size and payload of the announcement, then the data."""
        announcement = self.begin(0).pack()
        return struct.pack("<H", len(announcement)) + announcement + self.data()

    def header(self) -> str:
        """``model.h``: the model as an aligned array, its length and id, its normalization, the vectors."""
        size = _BYTES_PER_LINE
        lines = [", ".join(f"0x{b:02x}" for b in self.model[i : i + size]) for i in range(0, len(self.model), size)]
        array = ",\n    ".join(lines)
        rows = _self_test_rows(self.inputs.shape[1])
        inputs, outputs = self.inputs[:rows], self.outputs[:rows]
        return f"""// Written by `hil export`. Do not edit: the board reports kModelId and the host refuses any other model.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hil_model {{

/// First 12 hex digits of the SHA-256 of kModel{" and its normalization" if self.normalization else ""}.
constexpr char kModelId[] = "{self.id}";

constexpr std::size_t kModelSize = {len(self.model)};

/// TensorFlow Lite flatbuffer. TFLM wants it aligned to 16 bytes.
alignas(16) const unsigned char kModel[kModelSize] = {{
    {array},
}};
{_operators(self.model)}{_sizes(self.model)}{_element_type(self.kind)}{_normalization(self.normalization)}
/// Inputs and the outputs that TFLM gives for them, to the bit.
constexpr int kSelfTestCount = {len(inputs)};
constexpr {_C_TYPES[inputs.dtype.name]} kSelfTestInput[kSelfTestCount][{inputs.shape[1] or 1}] = {{
{_rows(inputs)}
}};
constexpr {_C_TYPES[outputs.dtype.name]} kSelfTestOutput[kSelfTestCount][{outputs.shape[1] or 1}] = {{
{_rows(outputs)}
}};

}}  // namespace hil_model
"""

    def write_header(self, path: Path) -> None:
        """Writes ``model.h``, and makes its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.header())


def _operators(model: bytes) -> str:
    try:
        names = set(read_graph(model).operator_counts())
        numbers = {
            number for name in names - set(ALWAYS_THERE) if (number := getattr(schema().BuiltinOperator, name, None)) is not None
        }
    except MissingExtraError:  # nobody here reads the model: all of them
        numbers = {*KERNELS.values(), *SHAPE_ARITHMETIC.values()}
    except BundleError:  # the board says what it is
        numbers = set()
    if not numbers:
        return ""
    comment = f"/// Operators of kModel besides {', '.join(ALWAYS_THERE)}, by their numbers in TensorFlow Lite's schema."
    return f"\n{comment}\n#define HIL_MODEL_OPERATORS {', '.join(map(str, sorted(numbers)))}\n"


def _self_test_rows(n_obs: int) -> int:
    return min(SELF_TEST_ROWS, max(1, SELF_TEST_BYTES // max(1, n_obs)))


def _sizes(model: bytes) -> str:
    """Of a model that does not fit a frame: firmware/platform/image.py passes them to every file of the firmware."""
    try:
        graph = read_graph(model)
    except (MissingExtraError, BundleError):  # the board says what is wrong with it
        return ""
    width = graph.kind.dtype.itemsize
    if width * graph.n_obs <= MAX_OBS and width * graph.n_act <= MAX_ACT:
        return ""
    return f"""
/// Bytes of inputs and of outputs of kModel, which the firmware must be built for: -DHIL_MAX_OBS and -DHIL_MAX_ACT.
#define HIL_MODEL_MAX_OBS {max(width * graph.n_obs, MAX_OBS)}
#define HIL_MODEL_MAX_ACT {max(width * graph.n_act, MAX_ACT)}
"""


def _element_type(kind: ElementType) -> str:
    if kind == INT8:
        return ""
    return f"""
/// kModel is of {kind.name}: the firmware must be built with -DHIL_WIDE=1.
#define HIL_MODEL_ELEMENT_TYPE {kind.number}
"""


def _normalization(by: Normalization | None) -> str:
    """Hexadecimal floats: the bits, whatever the compiler."""
    if by is None:
        return ""

    def array(values: NDArray[np.float32]) -> str:
        words = [f"{float(v).hex()}f" for v in values]
        lines = [", ".join(words[i : i + _NUMBERS_PER_LINE]) for i in range(0, len(words), _NUMBERS_PER_LINE)]
        return "{\n    " + ",\n    ".join(lines) + ",\n}"

    return f"""
/// Observations: (value - mean) * inverse_std, within plus and minus the clip; in float32, before quantization.
#define HIL_MODEL_NORMALIZED 1
constexpr float kNormalizationMean[] = {array(by.mean)};
constexpr float kNormalizationInverseStd[] = {array(by.inverse_std)};
constexpr float kNormalizationClip = {float(by.clip).hex()}f;
"""


_C_TYPES = {"int8": "std::int8_t", "int16": "std::int16_t", "float32": "float"}


def _rows(values: NDArray[Any]) -> str:
    text = (lambda v: f"{float(v).hex()}f") if values.dtype == np.float32 else str
    return "\n".join("    {" + ", ".join(text(v) for v in row.tolist()) + "}," for row in values)
