"""Feeds damaged inputs to one parser: ``python parsers.py NAME FOLDER FIRST LAST``. Run by test_parsers.py, as a child process.

Inputs below 0 are those of ``bombs``.

Input number n is the same on every computer with the same versions. The number at hand is kept in FOLDER/at, so that the parent
knows which input ended this process. What is wrong goes to stdout, one JSON line each.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import tomllib
import traceback
import types
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from balance_hil.errors import HarnessError
from balance_hil.files import did_you_mean

MAX_GROWTH_BYTES = 256 << 20
MAX_S = 5.0
H5_PROCESSES = 200
MODELS = Path(__file__).resolve().parents[3] / "models"
Rng = np.random.Generator
Parse = Callable[[bytes], object]
Parser = tuple[list[bytes], Callable[[bytes, Rng], bytes], Parse]

WORDS = [
    *("", "null", "true", "-1", "0", "1e999", "-0.0", "NaN", "9" * 400, "1" * 5000, '"', "'", "[", "]", "{", "}", "[" * 2000),
    *("{" * 500, '{"a":' * 3000, "- " * 3000, "&a [*a]", "*a", "!!python/object/apply:os.system [ls]", "!!binary AAAA", "\u0000"),
    *("\ud83d\ude00", "../../etc/passwd", "\\", "%s", "[red]", "2026-11-28", "0x", "a = ", "[[a]]", "\n", "\t", "---\n", "...\n"),
]
NASTY: list[Any] = [
    None,
    True,
    -1,
    0,
    1 << 70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 1000,
    [],
    {},
    [[]],
    {"": None},
    [1e999],
]


class ExceededError(BaseException):
    """A child process took more than is allowed; not an Exception, which the parser would turn into an error of its own."""


# --- damage -----------------------------------------------------------------------------------------------------------


def damaged(data: bytes, rng: Rng) -> bytes:
    """One to four changes: a bit, a byte, a number, a cut, a copy, an insertion."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(changed) + 1)) if rng.random() < 0.8 else int(rng.integers(0, min(64, len(changed)) + 1))
        length = int(rng.integers(1, 1 + min(64, len(changed) + 1)))
        match int(rng.integers(0, 7)):
            case 0 if at < len(changed):
                changed[at] ^= 1 << int(rng.integers(0, 8))
            case 1 if at < len(changed):
                changed[at] = int(rng.integers(0, 256))
            case 2:
                number = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
                changed[at : at + 4] = number.to_bytes(4, "little")
            case 3:
                del changed[at : len(changed) if rng.random() < 0.2 else at + length]
            case 4:
                changed[at:at] = changed[at : at + length]
            case 5:
                changed[at:at] = rng.bytes(length)
            case 6:
                source = int(rng.integers(0, len(changed) + 1))
                changed[at : at + length] = changed[source : source + length]
    return bytes(changed)


def damaged_text(data: bytes, rng: Rng) -> bytes:
    """Bytes as above, or a token that means something in JSON, YAML or TOML."""
    if rng.random() < 0.4:
        return damaged(data, rng)
    at = int(rng.integers(0, len(data) + 1))
    cut = int(rng.integers(0, 40))
    word = str(rng.choice(np.array(WORDS, object)))
    return data[:at] + word.encode("utf-8", "surrogatepass") + data[at + cut :]


def damaged_json(data: bytes, rng: Rng) -> bytes:
    """The text, or one value of what it means."""
    if rng.random() < 0.5:
        return damaged_text(data, rng)
    document = json.loads(data)
    places = list(_places(document))
    for _ in range(rng.integers(1, 3) if places else 0):
        holder, key = places[int(rng.integers(0, len(places)))]
        if rng.random() < 0.3:
            holder[key] = None
        else:
            holder[key] = NASTY[int(rng.integers(0, len(NASTY)))]
    return json.dumps(document).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def damaged_zip(members: Callable[[bytes, Rng], bytes]) -> Callable[[bytes, Rng], bytes]:
    """The archive, or one member with a good checksum."""

    def change(data: bytes, rng: Rng) -> bytes:
        if rng.random() < 0.3:
            return damaged(data, rng)
        changed = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(changed, "w") as new:
            names = old.namelist()
            chosen = names[int(rng.integers(0, len(names)))]
            for name in names:
                content = old.read(name)
                new.writestr(name, members(content, rng) if name == chosen else content)
        return changed.getvalue()

    return change


def damaged_anyhow(data: bytes, rng: Rng) -> bytes:
    """A zip file inside a zip file, JSON or bytes."""
    if data[:2] == b"PK":
        return damaged_zip(damaged)(data, rng)
    return damaged_json(data, rng) if data[:1] == b"{" and rng.random() < 0.7 else damaged(data, rng)


# --- parsers ----------------------------------------------------------------------------------------------------------


def _messages() -> list[Any]:
    from balance_hil.protocol import messages
    from balance_hil.testing.fake_board import fake_info

    info = fake_info(_bundle())
    ints, floats = np.arange(6, dtype=np.int8), np.linspace(-1, 1, 6, dtype=np.float32)
    made = [
        info,
        messages.Hello(7),
        messages.Infer(floats),
        messages.InferInt8(ints),
        messages.Echo(b"abc"),
        messages.Tensor(1, 0),
    ]
    made += [
        messages.Action(0, ints, ints[:2], floats[:2], 7, 9),
        messages.Error(1, 2, 3),
        messages.TensorData(0, 0, len(ints), ints),
    ]
    made += [messages.Ready(messages.PROTOCOL_VERSION, messages.SCHEMA_CRC, 0), messages.Stats(*range(15)), messages.Watchdog(5)]
    made.append(messages.LoadResult(1, 0, 0, "text"))
    return made


def _bundle() -> Any:
    from balance_hil.bundle import Bundle

    return Bundle.load(MODELS / "ppo")


def frames(folder: Path) -> Parser:
    """The decoder, in chunks; half of the frames have a good checksum."""
    from balance_hil.protocol.codec import Decoder, encode, seal

    def change(data: bytes, rng: Rng) -> bytes:
        message = made[int(rng.integers(0, len(made)))]
        good = encode(message, int(rng.integers(0, 1 << 16)))
        if rng.random() < 0.5:
            return damaged(good + good, rng)
        return seal(message.TYPE, 1, damaged(message.pack(), rng)[:1024]) + good

    def parse(data: bytes) -> None:
        decoder = Decoder()
        for at in range(0, len(data), 7):
            decoder.feed(data[at : at + 7])
        assert decoder.bytes_seen == len(data)

    made = _messages()
    return [b""], change, parse


def messages(folder: Path) -> Parser:
    """Every kind of message, from a payload."""
    from balance_hil.protocol import messages as protocol
    from balance_hil.protocol.wire import MalformedPayloadError

    kinds = list(protocol.MESSAGES.values())
    seeds = [bytes([kind]) + bytes(range(length)) for kind in range(len(kinds)) for length in (0, 20, 200)]
    seeds += [bytes([kinds.index(type(each))]) + each.pack() for each in _messages()]

    def parse(data: bytes) -> None:
        with contextlib.suppress(MalformedPayloadError):
            kinds[data[0]].unpack(data[1:])

    return seeds, lambda data, rng: data[:1] + damaged(data[1:], rng), parse


def text_lines(folder: Path) -> Parser:
    """Text between frames."""
    from balance_hil.boards.channel import printable
    from balance_hil.protocol.codec import Decoder, encode

    frame = encode(_messages()[0], 1)
    seeds = [
        b"0.1,0,0,0,0,0*3f\r\n" * 3 + frame,
        b"I (31) boot: ESP-IDF\r\n\x1b[0;32mready\r\n",
        b"error: malformed_line\n" + frame,
    ]

    def parse(data: bytes) -> None:
        decoder = Decoder()
        decoder.feed(data)
        assert printable(decoder.last_text.decode("latin-1")).isprintable()
        found = Decoder().feed(data + b"\0" + frame)
        assert found, "a whole frame after a delimiter was lost"

    return seeds, damaged_text, parse


def _by_file(folder: Path, name: str, parse: Callable[[Path], object]) -> Parse:
    path = folder / name

    def write_and_parse(data: bytes) -> None:
        path.write_bytes(data)
        parse(path)

    return write_and_parse


def tflite(folder: Path) -> Parser:
    """The flatbuffer, as every command opens it."""
    from balance_hil.tflite.edit import quantized_core, select_output
    from balance_hil.tflite.graph import read_graph

    def parse(data: bytes) -> None:
        read_graph(data)
        quantized_core(select_output(data, None))

    return [(MODELS / name / "policy_int8.tflite").read_bytes() for name in ("ppo", "ppo-rounding-invariant")], damaged, parse


def npz(folder: Path) -> Parser:
    """Calibration rows."""
    from balance_hil.exporting.calibration import load_calibration

    rows = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    seeds = []
    for save in (np.savez, np.savez_compressed):
        save(folder / "seed.npz", observations=rows)
        seeds.append((folder / "seed.npz").read_bytes())
    spec = _bundle().spec
    return seeds, damaged_zip(damaged), _by_file(folder, "rows.npz", lambda path: load_calibration(path, spec, 0))


def bundle_json(folder: Path) -> Parser:
    """A bundle's manifest; its other files are as they should be."""
    from balance_hil.bundle import Bundle

    for file in (MODELS / "ppo").iterdir():
        (folder / file.name).symlink_to(file)
    seed = (folder / "bundle.json").read_bytes()
    (folder / "bundle.json").unlink()
    return [seed], damaged_json, _by_file(folder, "bundle.json", lambda path: Bundle.load(path.parent))


def mcap(folder: Path) -> Parser:
    """A recording; half of the damaged chunks have a good checksum."""
    from balance_hil.recording import RecordingWriter, Step, read_recording

    spec = _bundle().spec
    with RecordingWriter(folder / "seed.mcap", {"bundle": "0", "clock": "lockstep", "seeds": [1]}, spec, ("tilt",)) as writer:
        for i in range(40):
            step = Step(i * 0.005, 0, i, [0.5] * 6, [0.1, -0.1], False, (0.1,), 1.0, [1] * 6, [2, 3], 400.0, 17.0, 3.0)
            writer.step(step.t_s, step)
        writer.fault(0.1, 0, 20, "late", "", request_step=3, round_trip_us=1.0, inference_us=1.0)
        writer.episode(0.2, {"episode": 0, "seed": 0, "steps": 40, "failed": False})
    whole = (folder / "seed.mcap").read_bytes()

    def change(data: bytes, rng: Rng) -> bytes:
        return _rechunked(data, rng) if rng.random() < 0.5 else damaged(data, rng)

    return [whole], change, _by_file(folder, "run.mcap", read_recording)


def _rechunked(data: bytes, rng: Rng) -> bytes:
    """The file with the content of its chunks damaged, uncompressed, under a checksum that fits."""
    import zstandard

    out, at = bytearray(data[:8]), 8
    while at + 9 <= len(data) - 8:
        opcode, length = data[at], int.from_bytes(data[at + 1 : at + 9], "little")
        content = data[at + 9 : at + 9 + length]
        if opcode == 6:  # CHUNK
            times, _, _, name_length = content[:16], content[16:24], content[24:28], int.from_bytes(content[28:32], "little")
            packed = content[32 + name_length + 8 :]
            inside = damaged_text(zstandard.ZstdDecompressor().decompressobj().decompress(packed), rng)
            head = times + len(inside).to_bytes(8, "little") + zlib.crc32(inside).to_bytes(4, "little") + bytes(4)
            content = head + len(inside).to_bytes(8, "little") + inside
        out += bytes([opcode]) + len(content).to_bytes(8, "little") + content
        at += 9 + length
    return bytes(out) + data[at:]


def yaml(folder: Path) -> Parser:
    """Options of an environment, and a signal table."""
    from balance_hil.files import read_yaml
    from balance_hil.signals import read_signals

    def parse(path: Path) -> None:
        if "observation" in read_yaml(path):
            read_signals(path, 2, 1)

    rows = b"\n".join(b"  - {name: s%d, unit: rad, min: -1, max: 1, scale: 2.5}" % i for i in range(2))
    seed = b"control_period_ms: 20\nobservation:\n" + rows + b"\naction:\n  - {name: torque, unit: N m}\n"
    nested = b"reset: {x: [1, 2.5, 'a'], y: &b {k: v}}\nz: *b\nt: 2026-11-28\n"
    return [seed, nested], damaged_text, _by_file(folder, "a.yaml", parse)


def suite(folder: Path) -> Parser:
    """Conditions of a robustness suite."""
    from balance_hil.evaluating.robustness import load_suite

    seeds = [(MODELS.parent / "host/balance_hil/envs/balance/robustness.yaml").read_bytes()]
    return seeds, damaged_text, _by_file(folder, "a.yaml", load_suite)


def fault_file(folder: Path) -> Parser:
    """Faults of ``hil run --fault FILE.yaml``."""
    from balance_hil.link import parse_faults

    page = (MODELS.parent / "docs" / "faults.md").read_text()
    seed = page.partition("```yaml\n")[2].partition("```")[0].encode()
    return [seed], damaged_text, _by_file(folder, "a.yaml", lambda path: parse_faults([str(path)]))


def toml(folder: Path) -> Parser:
    """Board files."""
    from balance_hil.boards.definition import SHIPPED, load_definition

    seeds = [path.read_bytes() for path in sorted(SHIPPED.glob("*.toml"))]
    assert all(tomllib.loads(seed.decode()) for seed in seeds)
    return seeds, damaged_text, _by_file(folder, "a.toml", load_definition)


def checkpoint_zip(folder: Path) -> Parser:
    """A checkpoint of Stable-Baselines3."""
    from balance_hil.checkpoint import read_checkpoint

    return [(MODELS / "ppo" / "policy.zip").read_bytes()], damaged_zip(damaged_anyhow), _by_file(folder, "a.zip", read_checkpoint)


def pickles(folder: Path) -> Parser:
    """vecnormalize.pkl, in every protocol."""
    from balance_hil.checkpoint.vecnormalize import read_vecnormalize

    seeds = [pickle.dumps(_vecnormalize(), protocol) for protocol in range(6)]
    return seeds, damaged, _by_file(folder, "vecnormalize.pkl", lambda path: read_vecnormalize(path, 3))


def _vecnormalize() -> Any:
    """As Stable-Baselines3 pickles it, from stand-ins for its classes, which take seconds to import."""

    def stand_in(module: str, name: str, **fields: Any) -> Any:
        kind = type(name, (), {"__module__": module})
        parts = module.split(".")
        for length in range(1, len(parts) + 1):
            package = ".".join(parts[:length])
            sys.modules[package] = types.ModuleType(package)
        setattr(sys.modules[module], name, kind)
        made = kind()
        made.__dict__.update(fields)
        return made

    common = "stable_baselines3.common"
    mean, var = np.array([0.1, -0.2, 3.0]), np.array([1.0, 2.0, 0.5])
    statistics = stand_in(f"{common}.running_mean_std", "RunningMeanStd", mean=mean, var=var, count=np.float64(7))
    fields = {"norm_obs": True, "obs_rms": statistics, "epsilon": 1e-8, "clip_obs": 10.0, "norm_obs_keys": None}
    return stand_in(f"{common}.vec_env.vec_normalize", "VecNormalize", **fields, returns=np.zeros(1))


def onnx(folder: Path) -> Parser:
    """An actor as ONNX."""
    from balance_hil.checkpoint.onnx_actor import read_onnx

    return [(MODELS / "ppo" / "actor.onnx").read_bytes()], damaged, _by_file(folder, "a.onnx", read_onnx)


def keras(folder: Path) -> Parser:
    """The check of a .keras file that comes before TensorFlow's process opens it."""
    from balance_hil.exporting.keras_source import check_keras_file

    layers = [{"class_name": "Dense", "module": "keras.layers", "config": {"units": 8}} for _ in range(3)]
    config = json.dumps({"class_name": "Sequential", "module": "keras", "config": {"layers": layers}}).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("metadata.json", b"{}")
    return [packed.getvalue()], damaged_zip(damaged_json), _by_file(folder, "a.keras", check_keras_file)


def keras_h5(folder: Path) -> Parser:
    """The same of Keras's older format, whose reader is a child process: a fork, and one in H5_PROCESSES as it is."""

    from balance_hil.exporting import keras_source

    calls = itertools.count()

    def forked(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        if next(calls) % H5_PROCESSES == 0:
            return subprocess.run(command, **options)
        said = [folder / "stdout", folder / "stderr"]
        child = os.fork()
        if child == 0:
            for number, path in enumerate(said, start=1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.argv = ["-c", command[-1]]
            status = 0
            try:
                exec(command[-2], {})
            except Exception:
                traceback.print_exc()
                status = 1
            sys.stdout.flush()
            os._exit(status)
        _, status, used = os.wait4(child, 0)
        if used.ru_utime + used.ru_stime > MAX_S or 1024 * used.ru_maxrss > resident + MAX_GROWTH_BYTES:
            raise ExceededError(f"{used.ru_utime + used.ru_stime:.1f} s and {used.ru_maxrss >> 10} MiB")
        return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(status), *(path.read_bytes() for path in said))

    resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    vars(keras_source)["subprocess"] = types.SimpleNamespace(run=forked, TimeoutExpired=subprocess.TimeoutExpired)
    return [_h5()], damaged, _by_file(folder, "a.h5", keras_source.check_keras_file)


def _h5() -> bytes:
    import h5py

    packed = io.BytesIO()
    with h5py.File(packed, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": []}})
        file.create_dataset("model_weights/dense/kernel", data=np.zeros((4, 4), np.float32))
    return packed.getvalue()


def bombs(name: str) -> list[bytes]:
    """Small inputs that mean something large, deep or endless; chance does not find them."""
    deep = {"json": b"[" * 2_000_000, "tables": b'{"a":' * 500_000, "wide": b"[" + b"[]," * 1_300_000 + b"[]]"}
    laughs = b"a0: &a0 [x, x]\n"
    laughs += b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 40))
    match name:
        case "npz":
            header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 6), }"
            npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
            return [_zip_of("observations.npy", zeros=300), _zip_of("observations.npy", npy)]
        case "keras":
            return [_zip_of("config.json", zeros=300), *(_zip_of("config.json", each) for each in deep.values())]
        case "keras_h5":
            before, heap, after = _h5().partition(
                b"GCOL"
            )  # an object of it that is 2^64 bytes long, with its head: the next is itself
            return [before + heap + after[:20] + ((1 << 64) - 16).to_bytes(8, "little") + after[28:]]
        case "checkpoint_zip":
            return [_zip_of("data", zeros=300), _zip_of("data", deep["json"]), _zip_of("policy.pth", zeros=600)]
        case "bundle_json":
            return list(deep.values())
        case "toml":
            return [
                b"name" + b".a" * 30_000 + b" = 1",
                b"x = " + b"[" * 60_000,
                b"x = " + b"9" * 60_000,
                b"[" + b"a." * 30_000 + b"a]",
            ]
        case "yaml":
            tables = laughs + b"observation: *a39\naction: *a39\ncontrol_period_ms: "
            wide = [b"a: [" + b"b," * 60_000 + b"b]", b"? " * 60_000, deep["json"][:120_000], b"- " * 60_000]
            return [laughs, tables + b"20", tables + b"*a39", *wide]
        case "suite":
            return [laughs, laughs + b"hard: *a39", laughs + b"hard: {about: *a39, options: {sensors: *a39}}"]
        case "fault_file":
            faults = (b"*a39", b"[{fault: *a39}]", b"[{fault: drop, rate: *a39}]", b"[{fault: drop, direction: *a39}]")
            return [laughs + b"faults: " + each for each in faults]
        case "pickles":
            tuples, name_ = b"\x80\x04)" + b"\x85" * 1_000_000, b"cstable_baselines3.common.vec_env.vec_normalize\nVecNormalize\n"
            deep_list = b"]" * 9_000 + b"a" * 8_999
            in_state = b"\x80\x02" + name_ + b")\x81}U\x07obs_rms" + name_ + b")\x81}(U\x04mean"
            return [
                b"\x80\x04}" + tuples[2:] + b"K\x01s.",  # hashed
                tuples + b".",
                b"\x80\x04Nr\xff\xff\xff\x7f.",  # LONG_BINPUT
                b"\x80\x05\x96" + (1 << 33).to_bytes(8, "little") + b".",  # BYTEARRAY8
                b"\x80\x02" + b"".join(b"cm\nn%d\n0" % i for i in range(200_000)) + b"N.",
                in_state + deep_list + b"U\x03var" + deep_list + b"usbsb.",
                in_state + b")" + b"\x85" * 9_000 + b"U\x03var)usbsb.",
            ]
    return []


def _zip_of(name: str, content: bytes = b"", zeros: int = 0) -> bytes:
    """A zip file with one member; ``zeros``: so many MiB of them."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for each in dict.fromkeys([name, "data", "policy.pth"]) if name in ("data", "policy.pth") else [name]:
            with archive.open(each, "w") as part:
                part.write(content if each == name else b"{}")
                for _ in range(zeros if each == name else 0):
                    part.write(bytes(1 << 20))
    return packed.getvalue()


PARSERS: dict[str, Callable[[Path], Parser]] = {
    made.__name__: made
    for made in (
        *(frames, messages, text_lines, tflite, npz, bundle_json, mcap, yaml, suite, fault_file, toml, checkpoint_zip, pickles),
        *(onnx, keras, keras_h5),
    )
}


def _tell(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Runs inputs FIRST to LAST of one parser; exits 0 whatever is found."""
    name, folder, first, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    warnings.simplefilter("ignore")
    did_you_mean("a", ["b"])
    seeds, change, parse = PARSERS[name](folder)
    for seed in seeds:  # what is sound is accepted, and everything is imported
        parse(change(b"", np.random.default_rng(0)) if name == "frames" else seed)
    special = bombs(name)
    at = (folder / "at").open("w+b", buffering=0)
    peak = begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest_s = 0.0
    for number in range(first, last):
        if number < 0:
            data = special[~number]
        else:
            rng = np.random.default_rng([number, zlib.crc32(name.encode())])
            data = change(seeds[int(rng.integers(0, len(seeds)))], rng)
        at.seek(0)
        at.write(b"%12d" % number)
        signal.setitimer(signal.ITIMER_PROF, 2 * MAX_S)  # ends the process, whatever it is doing
        start_s = time.process_time()  # whatever else this computer does
        fault = ""
        try:
            parse(data)
        except HarnessError as exc:
            if not exc.message or not exc.hint or "\n" in exc.message:
                fault = f"an error without a fact, a hint or in several lines: {exc!r}"
        except BaseException as exc:
            fault = f"{type(exc).__name__}: {exc}"
        took_s = time.process_time() - start_s
        slowest_s = max(slowest_s, took_s)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
        if grown > MAX_GROWTH_BYTES:
            fault = f"{grown >> 20} MiB"
            peak += grown // 1024
        if took_s > MAX_S:
            fault = f"{took_s:.1f} s"
        if fault:
            _tell(parser=name, input=number, fault=fault[:300])
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun) / 1024
    _tell(parser=name, inputs=last - first, slowest_s=slowest_s, grown_mib=grown_mib)


if __name__ == "__main__":
    main()
