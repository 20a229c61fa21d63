"""``hil bench engine``: what an inference costs on a Cortex-M: code, memory and instructions, for each engine and board.

The firmware runs in QEMU with ``-icount shift=0``, where an instruction takes a nanosecond of the board's time, so that its timer
counts them. The counts repeat exactly. Instructions are not cycles: a load, a division or a taken branch costs more than one on a
real processor, and flash has wait states.

Code is what the linker took from the engine's libraries, constants included; memory is the engine's arena and object. TensorFlow
Lite Micro is measured beside ours where HIL_TFLM_LIB names its library (docs/boards.md); otherwise its numbers are those recorded
below.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.boards import BoardDefinition, load_definitions
from balance_hil.boards.qemu import QEMU, check_installation
from balance_hil.bundle import model_id
from balance_hil.errors import BoardBootError
from balance_hil.firmware_build import HEADERS, build_image
from balance_hil.model_header import write_header
from balance_hil.runtimes.tflite_builder import typical_policy
from balance_hil.runtimes.tflite_graph import read_graph
from balance_hil.runtimes.tflm import TflmModel

POLICIES = ("TANH", "RELU")
LIBRARIES = {"int8": ("engine_int8",), "tflm": ("engine_tflm", "tflm")}
TFLM_BOARDS = ("qemu-m4", "qemu-m7")
TIMEOUT_S = 60.0
# TFLM of August 2026 with CMSIS-NN, -O2, 6-64-64-2, measured the same way: instructions of one inference.
RECORDED = {
    ("qemu-m3", "TANH"): 71_850,
    ("qemu-m4", "TANH"): 66_204,
    ("qemu-m7", "TANH"): 79_130,
    ("qemu-m55", "TANH"): 56_630,
    ("qemu-m4", "RELU"): 18_049,
}
RECORDED_CODE_BYTES = 33_100  # on the Cortex-M4, kernels -O2 and the rest -Os


@dataclass(frozen=True)
class Measurement:
    """One engine on one board with one policy."""

    board: str
    engine: str
    policy: str
    numbers: dict[str, int]  # as the firmware reported them, and code_bytes
    operators: list[int]  # instructions of each


def run() -> list[dict[str, Any]]:
    """Rows for every board, engine and policy."""
    check_installation()
    boards = {name: board for name, board in load_definitions().items() if board.kind == "qemu"}
    headers = {policy: write_policy(policy) for policy in POLICIES}
    rows: list[dict[str, Any]] = []
    for name, board in boards.items():
        for policy in POLICIES:
            tflm = measure(board, "tflm", policy, headers[policy]) if _tflm_available(name) else None
            rows += _rows(measure(board, "int8", policy, headers[policy]), tflm)
            if tflm is not None:
                rows += _rows(tflm, None)
    return rows


def _tflm_available(board: str) -> bool:
    return bool(os.environ.get("HIL_TFLM_LIB")) and board in TFLM_BOARDS


def _rows(ours: Measurement, tflm: Measurement | None) -> list[dict[str, Any]]:
    base, when = _baseline(ours, tflm)
    names = [operator.name for operator in read_graph(typical_policy(ours.policy)).operators]
    values = [("inference", "inference_instructions", ours.numbers["inference_instructions"], "instructions")]
    values += [(f"  {k} {names[k]}", f"operator {k}", value, "instructions") for k, value in enumerate(ours.operators)]
    values += [
        ("loading the model", "load_instructions", ours.numbers["load_instructions"], "instructions"),
        ("code and constants", "code_bytes", ours.numbers["code_bytes"], "B"),
        ("arena", "arena_bytes", ours.numbers["arena_bytes"], "B"),
        ("object", "object_bytes", ours.numbers["object_bytes"], "B"),
        ("most stack, loading included", "stack_bytes", ours.numbers["stack_bytes"], "B"),
    ]
    rows = []
    for metric, key, value, unit in values:
        row = {"what": f"{ours.board} {ours.engine} {ours.policy.lower()}", "metric": metric, "value": value, "unit": unit}
        if (other := base.get(key)) is not None:
            row |= {"baseline": f"TFLM {other:,}, {when}", "ratio": value / other}
        rows.append(row)
    return rows


def _baseline(ours: Measurement, tflm: Measurement | None) -> tuple[dict[str, int | None], str]:
    """What to compare with, by the firmware's names, and when it was measured."""
    if ours.engine == "tflm":
        return {}, ""
    if tflm is not None:
        return dict(tflm.numbers), "this run"
    code = RECORDED_CODE_BYTES if ours.board == "qemu-m4" else None
    return {"inference_instructions": RECORDED.get((ours.board, ours.policy)), "code_bytes": code}, "recorded"


def write_policy(policy: str) -> Path:
    """``model.h`` of a policy, with vectors by which the firmware checks what it measures."""
    model = typical_policy(policy)
    reference = TflmModel(model)
    inputs = np.random.default_rng(0).integers(-128, 128, (8, reference.n_obs), dtype=np.int8)
    header = HEADERS / model_id(model) / "model.h"
    header.parent.mkdir(parents=True, exist_ok=True)
    write_header(header, model, inputs, reference.infer_int8_batch(inputs))
    return header


def measure(board: BoardDefinition, engine: str, policy: str, header: Path) -> Measurement:
    suffix = "_tflm" if engine == "tflm" else ""
    image = build_image(f"bench_{board.name.removeprefix('qemu-')}{suffix}", header)
    numbers: dict[str, int] = {}
    operators: list[int] = []
    for line in _report(board.machine, image).splitlines():
        name, value = line.split()
        if name == "operator_instructions":
            operators.append(int(value))
        else:
            numbers[name] = int(value)
    if numbers["status"] != 0 or numbers["mismatches"] != 0:
        raise BoardBootError(f"the engine {engine} on {board.name} does not compute what TFLM computes", "run: hil compare")
    numbers["code_bytes"] = code_bytes(image.with_suffix(".map").read_text(), LIBRARIES[engine])
    return Measurement(board.name, engine, policy, numbers, operators)


def _report(machine: str, image: Path) -> str:
    """What the benchmark firmware sends, up to its last line."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as link:
        link.settimeout(TIMEOUT_S)
        command = [QEMU, "-M", machine, "-kernel", str(image), "-nodefaults", "-display", "none", "-icount", "shift=0"]
        command += ["-chardev", f"socket,id=uart,fd={server.fileno()},server=on,wait=on,nodelay=on", "-serial", "chardev:uart"]
        text = b""
        with subprocess.Popen(command, pass_fds=[server.fileno()], stderr=subprocess.DEVNULL) as qemu:
            try:
                while not text.endswith(b"done 0\n") and (chunk := link.recv(4096)):
                    text += chunk
            finally:
                qemu.kill()
    if not text.endswith(b"done 0\n"):
        raise BoardBootError(f"the benchmark on {machine} ended early: {text[-200:]!r}", "try again")
    return text.decode()


def code_bytes(linker_map: str, libraries: tuple[str, ...]) -> int:
    """Bytes of code and constants that the linker kept of some static libraries, from its map."""
    sizes: dict[str, int] = defaultdict(int)
    section = ""
    memory = linker_map[linker_map.index("Linker script and memory map") :]
    for line in memory.splitlines():
        if named := re.match(r" (\.[\w.$]+)", line):
            section = named[1]
        found = re.match(r" (?:\.[\w.$]+)?\s+0x0*([0-9a-f]*)\s+0x([0-9a-f]+)\s+\S*?lib([\w+]+)\.a\(", line)
        if found and found[1] and section.startswith((".text", ".rodata")):
            sizes[found[3]] += int(found[2], 16)
    return sum(sizes[library] for library in libraries)
