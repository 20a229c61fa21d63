"""The ``--json`` contract: its schemas are generated, and what the commands print keeps to them."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from balance_hil import documents
from balance_hil.cli import bench, compare, evaluate

from . import contract

DOCS = Path(__file__).resolve().parents[2] / "docs" / "json.md"


@pytest.mark.parametrize("name", documents.DOCUMENTS)
def test_the_shipped_schema_is_the_generated_one(name):
    pytest.importorskip("pydantic")
    shipped = (documents.SCHEMAS / f"{name}.json").read_text()
    assert shipped == documents.render_schema(name), "run: python -m balance_hil.documents"
    assert json.loads(shipped)["properties"]["schema"]["const"] == f"balance_hil/{name}@2"


@pytest.mark.parametrize("name", documents.DOCUMENTS)
def test_every_key_of_a_document_is_explained(name):
    explained = set(re.findall(r"`(\w+)`", DOCS.read_text()))
    assert set(json.loads((documents.SCHEMAS / f"{name}.json").read_text())["required"]) <= explained


def printed(command, *arguments):
    name = command.callback.__module__.rpartition(".")[2]
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], prog_name=name, standalone_mode=False)
    assert isinstance(result.exception, SystemExit | None), result.exception
    return json.loads(result.stdout)


def test_what_evaluate_prints(ppo_bundle):
    contract.check(
        "evaluate", printed(evaluate.command, ppo_bundle.path, "--runtime", "tflm", "--episodes", 2, "--steps", "50", "--json")
    )


def test_what_compare_prints(ppo_bundle):
    options = ("--runtimes", "tflm,int8-reference", "--samples", "200", "--observations", "golden", "--layers", "--json")
    document = printed(compare.command, ppo_bundle.path, *options)
    assert document["pairs"]
    assert document["layers"]
    contract.check("compare", document)


def test_what_bench_prints(monkeypatch):
    from balance_hil.benchmarks import loop

    monkeypatch.setattr(loop, "BLOCKS", 1)
    monkeypatch.setattr(loop, "STEPS_PER_BLOCK", 20)
    contract.check("bench", printed(bench.command, "loop", "--json"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda document: document.pop("success_rate"),
        lambda document: document.update(runtime=3),
        lambda document: document["episodes"][0].update(failed="no"),
        lambda document: document.update(schema="balance_hil/evaluate@1"),
    ],
)
def test_a_document_that_breaks_the_contract_is_noticed(ppo_bundle, spoil):
    pydantic = pytest.importorskip("pydantic")
    document = printed(evaluate.command, ppo_bundle.path, "--runtime", "tflm", "--episodes", 1, "--steps", "5", "--json")
    spoil(document)
    with pytest.raises(pydantic.ValidationError):
        contract.check("evaluate", document)


def test_a_run_says_that_tflm_was_emulated(monkeypatch):
    from balance_hil.running import result
    from balance_hil.running.trace import TflmCheck

    monkeypatch.setattr(result, "is_emulated", lambda: True)
    assert result.equals_tflm(TflmCheck(checked=3, differing=1, skipped="")) == {"checked": 3, "differing": 1, "emulated": True}
    assert result.equals_tflm(TflmCheck(checked=0, differing=None, skipped="why")) is None
