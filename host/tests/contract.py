"""Holds real ``--json`` output against the contract."""

from typing import Any

import pytest

from balance_hil.documents import DOCUMENTS


def check(name: str, document: dict[str, Any]) -> None:
    """Fails where a document lacks a key of the contract or has a value of another type."""
    pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed: pip install 'balance-hil[dev]'")
    pydantic.TypeAdapter(DOCUMENTS[name]).validate_python(document, strict=True)
