"""``model.h``: the C header that carries a model, and some golden vectors, into a firmware image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from balance_hil.bundle import model_id

SELF_TEST_ROWS = 8  # the first of the golden vectors
_BYTES_PER_LINE = 16


def write_header(path: Path, model: bytes, inputs: NDArray[np.int8], outputs: NDArray[np.int8]) -> None:
    """Writes ``model.h``: the model as an aligned array, its length and id, and vectors for the board's self-test.

    Args:
        path: of the header.
        model: bytes of the int8 ``.tflite``.
        inputs: int8 [n, n_obs]; the first 8 rows go into the header, or fewer where there are fewer.
        outputs: int8 [n, n_act] that TFLM gives for them.
    """
    count = min(SELF_TEST_ROWS, len(inputs))
    lines = [", ".join(f"0x{b:02x}" for b in model[i : i + _BYTES_PER_LINE]) for i in range(0, len(model), _BYTES_PER_LINE)]
    array = ",\n    ".join(lines)
    text = f"""// Written by `hil export`. Do not edit: the board reports kModelId and the host refuses any other model.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hil_model {{

/// First 12 hex digits of the SHA-256 of kModel.
constexpr char kModelId[] = "{model_id(model)}";

constexpr std::size_t kModelSize = {len(model)};

/// int8 TensorFlow Lite flatbuffer. TFLM wants it aligned to 16 bytes.
alignas(16) const unsigned char kModel[kModelSize] = {{
    {array},
}};

/// Inputs and the outputs that TFLM gives for them, to the bit.
constexpr int kSelfTestCount = {count};
constexpr std::int8_t kSelfTestInput[kSelfTestCount][{inputs.shape[1]}] = {{
{_rows(inputs[:SELF_TEST_ROWS])}
}};
constexpr std::int8_t kSelfTestOutput[kSelfTestCount][{outputs.shape[1]}] = {{
{_rows(outputs[:SELF_TEST_ROWS])}
}};

}}  // namespace hil_model
"""
    path.write_text(text)


def _rows(values: NDArray[np.int8]) -> str:
    return "\n".join("    {" + ", ".join(str(int(v)) for v in row) + "}," for row in values)
