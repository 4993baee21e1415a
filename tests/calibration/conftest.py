"""Statistics and questions that the tests of the comparisons share."""

from pathlib import Path

import pytest

from calibration.clips import write_clips
from calibration.collect import main as collect
from export.build import DEMO_CHECKPOINT


@pytest.fixture(scope="session")
def demo_statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo's decoder is fed with by two clips with two questions each. Read it only."""
    folder = tmp_path_factory.mktemp("collected")
    write_clips(folder / "clips", "validation", 2, 2)
    assert collect(["--checkpoint", str(DEMO_CHECKPOINT), "--clips", str(folder / "clips"), "--out", str(folder / "statistics")]) == 0
    return folder / "statistics"


@pytest.fixture(scope="session")
def vision_statistics(demo_statistics: Path) -> Path:
    """Statistics of the same checkpoint, but of none of the decoder's layers. Read it only."""
    folder = demo_statistics.with_name("vision")
    if not folder.exists():
        clips = ["--clips", str(demo_statistics.with_name("clips")), "--limit", "1"]
        arguments = ["--checkpoint", str(DEMO_CHECKPOINT), "--components", "image_projector", "--out", str(folder)]
        assert collect([*arguments, *clips]) == 0
    return folder


@pytest.fixture(scope="session")
def asked_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip of another split, with two questions and their answers. Read it only."""
    folder = tmp_path_factory.mktemp("asked")
    write_clips(folder, "test", 1, 2, seed=1)
    return folder
