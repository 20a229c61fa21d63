"""The model card: ``README.md`` of a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from balance_hil.bundle import FROM_CALIBRATION, Bundle
from balance_hil.exporting.config import ExportConfig
from balance_hil.quantize import FLOAT32
from balance_hil.spec import Signal
from balance_hil.tflite.graph import TfliteGraph

_FLOAT_COLUMNS = 4  # of the table of layers, without quantization


def write_model_card(path: Path, bundle: Bundle, graph: TfliteGraph, config: ExportConfig) -> None:
    """Writes the card. Every number comes from the bundle or from its model."""
    metrics = bundle.metrics
    sections = [
        f"# {bundle.path.name}: {_title(bundle)}",
        *([f"**Rejected: {'; '.join(metrics['verdict']['reasons'])}.**"] if not metrics["verdict"]["good"] else []),
        _summary(bundle),
        *(["## Training\n\n" + _training(bundle.training)] if bundle.training.get("evaluation") else []),
        "## Stages\n\n" + _stages(bundle),
        "## Source\n\n" + _source(bundle),
        "## Signals\n\nObservation, float32:\n\n"
        + _signals(bundle.spec.observation)
        + "\n\nOutput, float32:\n\n"
        + _signals(bundle.spec.action),
        "## Quantization\n\n" + _quantization(bundle),
        *(
            ["## Rounding-invariant\n\n" + _rounding_invariant(metrics["rounding_invariant"])]
            if "rounding_invariant" in metrics
            else []
        ),
        "## Layers\n\n" + _layers(graph),
        "## Memory\n\n"
        + _table(
            ("what", "bytes"),
            [(f"{stage['name']} file", stage["size_bytes"]) for stage in metrics["stages"] if stage["name"] != "torch"]
            + [
                ("tensor arena that TFLM counts as used, on a 64-bit desktop", metrics["arena_used_bytes"]),
                ("tensor arena that TFLM needs to allocate, on a 64-bit desktop", metrics["arena_needed_bytes"]),
            ],
        ),
        "## Rebuild\n\n" + _rebuild(bundle, config),
        "## Versions\n\n" + _table(("package", "version"), list(bundle.versions.items())),
    ]
    path.write_text(front_matter(bundle) + "\n\n".join(sections) + "\n")


def front_matter(bundle: Bundle) -> str:
    """The YAML block that the Hugging Face Hub reads: tags, and the results of the board's model in the field's form."""
    environment = bundle.spec.environment
    last = bundle.metrics["stages"][-1]
    card: dict[str, Any] = {
        "library_name": "tflite",
        "tags": [
            "reinforcement-learning",
            "robotics",
            bundle.kind.name,
            "tflite-micro",
            *([bundle.algorithm] if bundle.algorithm else []),
        ],
    }
    if environment and last.get("metrics"):
        values = {"success_rate": last["success_rate"], **last["metrics"]}
        metrics = [{"type": "mean_reward" if name == "return" else name, "value": float(value)} for name, value in values.items()]
        task, dataset = {"type": "reinforcement-learning"}, {"name": environment, "type": environment}
        card["model-index"] = [{"name": bundle.path.name, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}]
    return f"---\n{yaml.safe_dump(card, sort_keys=False)}---\n\n"


def _title(bundle: Bundle) -> str:
    kind = f"{bundle.algorithm.upper()} policy" if bundle.algorithm else "policy"
    return f"{kind} for {bundle.spec.environment}" if bundle.spec.environment else kind


def _source(bundle: Bundle) -> str:
    source, checked = bundle.source, bundle.checked_against
    text = f"`{source['file']}` ({source['kind']}{', made by ' + source['made_by'] if source['made_by'] else ''})."
    if bundle.normalization:
        origin = source["normalization"]
        where = "mean and standard deviation of the calibration rows" if origin == FROM_CALIBRATION else f"`{origin}`"
        text += f" Observations are normalized on the board before they are quantized, by {where}."
    if checked["by"]:
        return (
            f"{text} Its actions on {checked['rows']} recorded and random observations were compared with {checked['by']}: "
            f"they differ by {checked['max_error']:.2g} of half their range at most (allowed: {checked['tolerance']:g})."
        )
    return f"{text} It could not be compared with the source's own answers: {checked['why']}."


def _summary(bundle: Bundle) -> str:
    metrics, spec = bundle.metrics, bundle.spec
    last = metrics["stages"][-1]
    kind = bundle.kind.name
    episodes = "There is no environment to run it in; "
    if metrics["episodes"]:
        episodes = (
            f"Executed by TensorFlow Lite Micro {last['success_rate']:.0%} of {metrics['episodes']} episodes of "
            f"{metrics['episode_steps']} steps do not fail; "
        )
    return (
        f"Id `{bundle.id}`. Maps {spec.n_obs} observations to {spec.n_act} actions every {spec.control_period_s * 1000:g} ms; "
        f"{metrics['parameters']} parameters, {last['size_bytes']} bytes in {kind} with {bundle.kind.dtype} input and output. "
        f"{episodes}its outputs differ from the float policy's by {last['rms_error']:.4f} RMS, {last['max_error']:.4f} at most."
    )


def _training(training: Mapping[str, Any]) -> str:
    judged = training["evaluation"]
    rows: list[tuple[object, ...]] = [
        ("environment steps", f"{training['steps']:,}" if training["steps"] else "none: computed, not learned"),
        ("wall time of training, evaluation apart", f"{training['wall_s']:.3g} s"),
    ]
    if training.get("cpu_s"):
        rows.append(("processor time of training", f"{training['cpu_s']:.0f} s"))
    rows += [
        ("float policy", f"{judged['episodes'] - judged['failed']} of {judged['episodes']} unseen episodes without failure"),
        *((name, f"{value:.4g}") for name, value in judged["metrics"].items()),
    ]
    table = _table(("what", "value"), rows)
    settings = training.get("hyper_parameters", {})
    curriculum, judged_on = settings.get("curriculum"), settings.get("evaluation", {}).get("options")
    text = table
    if judged_on:
        what = "a robot that differs from the nominal one in everything below, sampled for every episode"
        text += f"\n\nThese episodes were of {what}.{_options(judged_on)}"
    if curriculum:
        end = (
            "it ended with an even more different one"
            if judged_on
            else "these episodes were of its end, a robot sampled for every episode"
        )
        text += f"\n\nTrained with a curriculum: {end}.{_options(curriculum['end'])}"
    return f"{text}\n\nThe stages below are of the nominal robot." if judged_on or curriculum else text


def _options(values: Mapping[str, Any]) -> str:
    lines = "\n".join(f"{group}: {json.dumps(quantities)}" for group, quantities in values.items())
    return f"\n\n```yaml\n{lines}\n```"


def _stages(bundle: Bundle) -> str:
    rows = [
        (
            stage["name"],
            stage["runtime"],
            _number(stage["max_error"]),
            _number(stage["rms_error"]),
            *([f"{stage['success_rate']:.0%}"] if bundle.metrics["episodes"] else []),
            *(f"{value:.4g}" for value in stage["metrics"].values()),
        )
        for stage in bundle.metrics["stages"]
    ]
    success = ["success"] if bundle.metrics["episodes"] else []
    header = ("stage", "executed by", "max error", "RMS error", *success, *bundle.metrics["stages"][0]["metrics"])
    note = (
        "Errors are differences of outputs from the stage above, on calibration and held-out observations. "
        "Success and metrics are of the same episodes for every stage."
    )
    return _table(header, rows) + "\n\n" + note


def _signals(signals: tuple[Signal, ...]) -> str:
    rows = [(s.index, s.name, _number(s.min, "g"), _number(s.max, "g"), f"{s.scale:g} {s.unit}".strip()) for s in signals]
    return _table(("index", "name", "min", "max", "1.0 means"), rows)


def _quantization(bundle: Bundle) -> str:
    quant = (
        "Nothing is quantized: inputs, outputs and weights are float32."
        if bundle.kind == FLOAT32
        else _table(
            ("tensor", "scale", "zero point"),
            [
                ("input", repr(bundle.input_quant.scale), bundle.input_quant.zero_point),
                ("output", repr(bundle.output_quant.scale), bundle.output_quant.zero_point),
            ],
        )
    )
    calibration = bundle.calibration
    origin = f"{calibration['rows']} calibration rows, {calibration['source']}"
    if "uniform_rows" in calibration:
        origin += f" ({calibration['recorded_rows']}), plus {calibration['uniform_rows']} uniform over the limits"
    return (
        f"{quant}\n\nWeights {calibration['weights']}. {origin}; seed {calibration['seed']}, SHA-256 `{calibration['sha256']}`."
    )


def _rounding_invariant(proof: Mapping[str, Any]) -> str:
    different = ", ".join(f"{name} {count}" for name, count in proof["outputs_unlike_tflm"].items())
    return (
        "Every scale is a power of two, every weight a multiple of 4 and every bias 2 modulo 4: no runtime ever meets a number "
        "that it could round in two ways, so all give the same bits. Dense layers shift right by "
        f"{proof['smallest_shift']} to {proof['largest_shift']} bits; no accumulator exceeds {proof['largest_accumulator']}. "
        f"Output values unlike TFLM's on {proof['random_inputs']} random inputs: {different}.\n\n"
        f"RMS error of actions on the calibration rows: {proof['validation_rms_error_ordinary']:.4f} for the ordinary int8 "
        f"model, {proof['validation_rms_error_before_fine_tuning']:.4f} with these constraints, "
        f"{proof['validation_rms_error']:.4f} after {proof['fine_tuning_steps']} steps of fine-tuning on "
        f"{proof['fine_tuning_rows']} other rows."
    )


def _layers(graph: TfliteGraph) -> str:
    rows = [
        (
            operator.index,
            operator.name,
            operator.activation,
            " x ".join(str(n) for n in graph.output_of(operator).shape),
            *(f"{scale:.6g}" for scale in graph.output_of(operator).scales[:1]),
            *graph.output_of(operator).zero_points[:1],
        )
        for operator in graph.operators
    ]
    quantized = ("scale", "zero point") if rows and len(rows[0]) > _FLOAT_COLUMNS else ()
    return _table(("operator", "kind", "fused activation", "output", *quantized), rows)


def _rebuild(bundle: Bundle, config: ExportConfig) -> str:
    folder = f"policies/{bundle.path.name}" if bundle.training else str(bundle.source["file"])
    lines = []
    training = bundle.training
    if training.get("rebuild"):
        folder += "-2"  # a training replaces no bundle
        lines.append(f"{training['rebuild']} --output {folder}")
    options = [f"--seed {config.seed}"] if config.seed else []
    options += [] if config.quantize == "int8" else [f"--quantize {config.quantize}"]
    options += ["--per-tensor"] if config.per_tensor else []
    options += ["--rounding-invariant"] if config.rounding_invariant else []
    options += [f"--calibration {config.calibration.name}"] if config.calibration else []
    lines.append(" ".join([f"hil export {folder}", *options]))
    text = "```\n" + "\n".join(lines) + "\n```\n\n"
    return text + "The same source and seed give the same bytes with the versions below."


def _number(value: float | None, form: str = ".2g") -> str:
    return "" if value is None else format(value, form)


def _table(header: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
