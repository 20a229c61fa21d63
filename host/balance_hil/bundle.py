"""A bundle: the folder under ``models/`` that carries one policy from training to the board.

    policy.zip             SB3 checkpoint, if it came so    training.json   settings and results of the training
    actor.onnx             deterministic actor              policy_float32.tflite, policy_int8.tflite, or policy_int16x8.tflite
    model.h                C array of the board's model     golden.npz      inputs, every layer's tensor and outputs (TFLM)
    signals.h              names, units, order, scales
    bundle.json            manifest (this module)       README.md       model card

Boards run the model of the bundle's element type. ``id`` is the first 12 hex digits of the SHA-256 of this file and the
normalization; the board reports the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import BundleError, ModelTooWideError
from balance_hil.files import did_you_mean, parse_json, read_limited, read_npz
from balance_hil.paths import MODELS, POLICIES
from balance_hil.quantize import ELEMENT_TYPES, INT8, ElementType, Normalization, QuantParams, quantize
from balance_hil.spec import PolicySpec

MANIFEST = "bundle.json"
FORMAT_VERSION = 2
MAX_MANIFEST_BYTES, MAX_MANIFEST_VALUES = 16 << 20, 1_000_000  # of about 100,000 signals
MODEL_FILES = {kind: f"policy_{kind}.tflite" for kind in ELEMENT_TYPES}  # by the name of the element type
INT8_MODEL = MODEL_FILES["int8"]
FLOAT_MODEL = MODEL_FILES["float32"]
ONNX_MODEL = "actor.onnx"
POLICY = "policy.zip"
TRAINING = "training.json"
HEADER = "model.h"
SIGNALS = "signals.h"
GOLDEN = "golden.npz"
MODEL_CARD = "README.md"
_TABLES = ("source", "checked_against", "calibration", "training", "versions", "metrics")  # of the manifest, stored as they are
REQUIRED_FILES = (HEADER, GOLDEN)  # and the model
FROM_CALIBRATION = "calibration"  # origin of a normalization that the export added, to suit int8


def model_id(model: bytes, normalization: Normalization | None = None) -> str:
    """First 12 hex digits of the SHA-256 of a ``.tflite``, followed by its normalization where it has one."""
    return hashlib.sha256(model + (normalization.to_bytes() if normalization else b"")).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """One exported policy. Make it with ``load``; write a new one with ``write_bundle``."""

    path: Path
    id: str
    algorithm: str  # "ppo", ...; "" if the checkpoint does not contain it
    spec: PolicySpec
    input_quant: QuantParams
    output_quant: QuantParams
    normalization: Normalization | None = None  # of observations, on the board before quantization; part of the id
    source: Mapping[str, Any] = field(default_factory=dict)  # kind, file, sha256, and where the normalization came from
    checked_against: Mapping[str, Any] = field(default_factory=dict)  # comparison with the source, or why there is none
    calibration: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Reads and validates a bundle: its folder, or its name, see ``locate``.

        Raises:
            BundleError: no such folder, a missing file, a file that is not the one the manifest was written for.
        """
        folder = locate(path)
        manifest = _read_manifest(folder)
        try:
            quantization = manifest["quantization"]
            kind = ELEMENT_TYPES[quantization.get("type", INT8.name)]
        except (AttributeError, LookupError, TypeError) as exc:
            raise _broken(folder, f"{MANIFEST} lacks or garbles {exc}") from exc
        _check_files(folder, manifest, (MODEL_FILES[kind.name], *REQUIRED_FILES))
        try:
            bundle = cls(
                path=folder,
                id=manifest["id"],
                algorithm=manifest["algorithm"],
                spec=PolicySpec.from_dict(manifest["spec"]),
                input_quant=_quant_params(kind, **quantization["input"]),
                output_quant=_quant_params(kind, **quantization["output"]),
                normalization=Normalization.from_dict(manifest["normalization"]) if manifest["normalization"] else None,
                **{name: dict(manifest[name]) for name in _TABLES},
            )
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:
            raise _broken(folder, f"{MANIFEST} lacks or garbles {exc}") from exc
        if model_id(bundle.model(), bundle.normalization) != bundle.id:
            raise _broken(folder, f"{bundle.model_file.name} does not have the id {bundle.id}")
        return bundle

    def file(self, name: str) -> Path:
        """Path of one of the bundle's files."""
        return self.path / name

    def golden(self, name: str) -> NDArray[Any]:
        """One of the arrays of the golden vectors. Raises BundleError."""
        try:
            return read_npz(self.file(GOLDEN))[name]
        except (OSError, ValueError, KeyError) as exc:
            raise _broken(self.path, f"{GOLDEN} cannot be read: {exc}") from exc

    @property
    def kind(self) -> ElementType:
        """Element type of the model that boards run: int8, unless it was exported with another ``--quantize``."""
        return self.input_quant.kind

    @property
    def model_file(self) -> Path:
        """Path of the ``.tflite`` that boards run."""
        return self.file(MODEL_FILES[self.kind.name])

    def model(self) -> bytes:
        """Bytes of the ``.tflite`` that boards run."""
        return self.model_file.read_bytes()

    def golden_raw(self, which: str) -> NDArray[Any]:
        """Raw "input" [n, n_obs] or "output" [n, n_act] of the golden vectors, of the element type. Raises BundleError."""
        return self.golden(f"{which}_{self.kind.dtype}").astype(self.kind.dtype)

    def quantized(self, observations: NDArray[np.float32]) -> NDArray[Any]:
        """Model inputs for observations, float32 [..., n_obs]: normalized if the bundle has a normalization, then quantized.

        They are of the bundle's element type.

        Raises:
            NonFiniteInputError: a value is NaN or infinite.
        """
        return quantize(observations, self.input_quant, self.normalization)

    @property
    def source_normalization(self) -> Normalization | None:
        """The normalization that the policy was trained behind: None where it was the export that added one."""
        return None if self.source.get("normalization") == FROM_CALIBRATION else self.normalization

    def manifest(self) -> dict[str, Any]:
        """The manifest without the file table, as plain JSON types."""
        return {
            "format": FORMAT_VERSION,
            "id": self.id,
            "algorithm": self.algorithm,
            "spec": self.spec.to_dict(),
            "quantization": {"type": self.kind.name, "input": _plain(self.input_quant), "output": _plain(self.output_quant)},
            "normalization": self.normalization.to_dict() if self.normalization else None,
            **{name: dict(getattr(self, name)) for name in _TABLES},
        }


def bundle_names() -> list[str]:
    """Names that ``locate`` resolves: of the user's policies, and of the shipped ones."""
    folders = [path.parent for root in (POLICIES, MODELS) for path in root.glob(f"*/{MANIFEST}")]
    return sorted({folder.name for folder in folders if not folder.name.startswith(".")})


def locate(name: str | Path) -> Path:
    """The path that ``name`` stands for: itself, or by its bare name a folder in ``policies/`` or among the shipped policies."""
    path = Path(name)
    if len(path.parts) != 1 or path.is_file() or (path / MANIFEST).is_file():
        return path
    for root in (POLICIES, MODELS):
        if (root / path / MANIFEST).is_file():
            return root / path
    return path


def no_such_bundle(path: Path) -> BundleError:
    """The error for a path that is not there, or a name that no policy has."""
    known = bundle_names()
    return BundleError(
        f"no such bundle: {path}" + did_you_mean(path.name, known),
        f"policies are {', '.join(known)}; make one: hil train ppo, then hil export",
    )


def find_bundle(wanted: str, *roots: Path) -> Bundle:
    """The bundle with the id ``wanted`` among the folders of ``roots``. Folders without a bundle are skipped.

    Raises:
        BundleError: none of them has that id, or the one that has is incomplete or altered.
    """
    ids = {}
    for manifest in (path for root in roots for path in sorted(root.glob("*/" + MANIFEST))):
        if manifest.parent.name.startswith("."):  # a staging folder
            continue
        with contextlib.suppress(BundleError, KeyError):
            ids[manifest.parent] = _read_manifest(manifest.parent)["id"]
    for folder, found in ids.items():
        if found == wanted:
            return Bundle.load(folder)
    there = ", ".join(f"{folder.name} ({found})" for folder, found in ids.items()) or "no bundle"
    raise BundleError(
        f"no bundle in {' or '.join(map(str, roots))} has the id {wanted}; there is {there}", "name its folder: --bundle FOLDER"
    )


def manifest_text(bundle: Bundle, files: Mapping[str, str]) -> str:
    """What bundle.json holds, with the SHA-256 of each of ``files``.

    Raises:
        ModelTooWideError: more signals than a bundle takes; required size and limit in bytes.
    """
    text = json.dumps(bundle.manifest() | {"files": files}, indent=2) + "\n"
    if len(text) > MAX_MANIFEST_BYTES:
        raise ModelTooWideError(
            f"the model is too wide for a bundle, which run, emulate and flash need: its {bundle.spec.n_obs} inputs and "
            f"{bundle.spec.n_act} outputs take {len(text)} bytes in {MANIFEST}, the limit is {MAX_MANIFEST_BYTES}",
            "compare it without one: hil compare MODEL.tflite --board native",
        )
    return text


def write_bundle(staging: Path, bundle: Bundle) -> Bundle:
    """Publishes the finished files of ``staging`` as ``bundle.path``.

    Files of the old bundle that the new one does not write (a policy, a note) are kept, except models of another element
    type. The old bundle stays whole until the last rename; ``staging`` must lie on the same file system
    (``files.staging_folder``). Raises what ``manifest_text`` raises.
    """
    files = {p.name: _sha256(p) for p in sorted(staging.iterdir()) if p.name not in (MANIFEST, MODEL_CARD)}
    (staging / MANIFEST).write_text(manifest_text(bundle, files))
    target = bundle.path
    target.mkdir(parents=True, exist_ok=True)
    # The manifest goes last: after a crash between two renames load() rejects the bundle.
    names = sorted(p.name for p in staging.iterdir() if p.name != MANIFEST)
    for name in [*names, MANIFEST]:
        (staging / name).replace(target / name)
    for name in MODEL_FILES.values():
        if name not in names:
            (target / name).unlink(missing_ok=True)
    return Bundle.load(target)


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise no_such_bundle(folder)
    try:
        manifest = parse_json(read_limited(folder / MANIFEST, MAX_MANIFEST_BYTES), MAX_MANIFEST_VALUES)
    except FileNotFoundError:
        raise BundleError(
            f"{folder} holds no {MANIFEST}: nothing was exported there", f"export it: hil export {folder}"
        ) from None
    except (OSError, ValueError) as exc:
        raise _broken(folder, f"{MANIFEST} is not JSON ({exc})") from exc
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
        raise _broken(folder, f"{MANIFEST} is not of format {FORMAT_VERSION}")
    return manifest


def _check_files(folder: Path, manifest: dict[str, Any], required: tuple[str, ...]) -> None:
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise _broken(folder, f"{MANIFEST} lists no files")
    for name in sorted({*required, *files}):
        try:
            found = _sha256(folder / name) if name in files and Path(name).name == name else ""
        except OSError:
            found = ""
        if not found:
            raise _broken(folder, f"{name[:80]} is missing")
        if found != files[name]:
            raise _broken(folder, f"{name} was altered after the export")


def _broken(folder: Path, fact: str) -> BundleError:
    return BundleError(f"the bundle {folder} is incomplete or altered: {fact}", f"export it again: hil export {folder}")


def _plain(params: QuantParams) -> dict[str, Any]:
    return {"scale": params.scale, "zero_point": params.zero_point}


def _quant_params(kind: ElementType, scale: float, zero_point: int) -> QuantParams:
    """Raises TypeError, ValueError, OverflowError for what no tensor of that type has."""
    params = QuantParams(float(scale), operator.index(zero_point), kind)
    if not (0 < params.scale < math.inf and kind.low <= params.zero_point <= kind.high):
        raise ValueError(f"the quantization {params}")
    return params


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
