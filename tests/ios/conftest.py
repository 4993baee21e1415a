"""Fixtures of the iOS tests."""

from pathlib import Path

import pytest

from tests.conftest import _build_once, _coreml

DEMO = Path(__file__).parents[2] / "calibration" / "demo"


@pytest.fixture(scope="session")
def demo_coreml_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint for Core ML in int4, with a tokenizer and golden vectors. Read it only."""
    return _build_once(tmp_path_factory, "demo-coreml", _coreml(DEMO / "checkpoint", "int4"))
