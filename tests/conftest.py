"""Fixtures that several test modules share."""

from pathlib import Path

import pytest

from tests.released_layout import write_checkpoint

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of release facts beside the repository, where it is present."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED}: this test compares with the release's key lists and files there")
    return SHARED


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in the released layout, random weights of seed 0. Read it only."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")
