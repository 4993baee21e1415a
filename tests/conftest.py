"""Fixtures that several test modules share."""

import os
from pathlib import Path

import pytest

from tests.kernels.driver import no_tool
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


def _build_once(tmp_path_factory: pytest.TempPathFactory, name: str, arguments: list[str]) -> Path:
    """A bundle built by the command line, once for all worker processes of a test run."""
    from filelock import FileLock

    from export.build import main

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    out = shared / "bundles" / name
    with FileLock(shared / f"{name}.lock"):
        if not out.exists():
            target = [] if "--target" in arguments else ["--target", "executorch"]
            assert main([*target, "--out", str(out), *arguments]) == 0
    return out


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint under the default recipe, int4. Read it only."""
    return _build_once(tmp_path_factory, "demo", [])


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint in fp32. Read it only."""
    return _build_once(tmp_path_factory, "tiny", ["--checkpoint", str(tiny_checkpoint), "--recipe", "fp32"])


@pytest.fixture(scope="session")
def tiny_fused_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint in fp32 around this project's operators. Read it only."""
    from export.ops import native

    if why := native.unavailable():
        no_tool(f"a fused bundle can neither be checked nor run here: {why}")
    arguments = ["--checkpoint", str(tiny_checkpoint), "--recipe", "fp32", "--kernels", "fused"]
    return _build_once(tmp_path_factory, "tiny-fused", arguments)


@pytest.fixture(scope="session")
def demo_fused_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint under int4 around this project's operators: its decoder consists of them. Read it only."""
    from export.ops import native

    if why := native.unavailable():
        no_tool(f"a fused bundle can neither be checked nor run here: {why}")
    return _build_once(tmp_path_factory, "demo-fused", ["--kernels", "fused"])


def _coreml(checkpoint: Path, recipe: str) -> list[str]:
    """A short context, for the interpreter's sake: it computes attention over every slot of the cache."""
    return ["--target", "coreml", "--checkpoint", str(checkpoint), "--recipe", recipe, "--max-context", "2700"]


@pytest.fixture(scope="session")
def tiny_coreml_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint for Core ML in fp16. Read it only."""
    return _build_once(tmp_path_factory, "tiny-coreml", _coreml(tiny_checkpoint, "fp16"))


@pytest.fixture(scope="session")
def tiny_coreml_int4_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint for Core ML in int4. Read it only."""
    return _build_once(tmp_path_factory, "tiny-coreml-int4", _coreml(tiny_checkpoint, "int4"))


@pytest.fixture(scope="session")
def tiny_delegate_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint in int4 as ExecuTorch programs with Core ML delegates. Read it only."""
    arguments = _coreml(tiny_checkpoint, "int4")
    return _build_once(tmp_path_factory, "tiny-delegate", ["--target", "executorch", "--delegate", "coreml", *arguments[2:]])


@pytest.fixture(scope="session")
def demo_coreml_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint under int4 for Core ML. Read it only."""
    from export.build import DEMO_CHECKPOINT

    return _build_once(tmp_path_factory, "demo-coreml", _coreml(DEMO_CHECKPOINT, "int4"))
