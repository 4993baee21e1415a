"""The Android app's core on the JVM: Kotlin's compiler finds no fault, and its unit tests pass against what Python computes.

`core` is compiled without its folders `android` and `executorch`, which need those libraries: other tests of this folder have them.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.android import toolchain
from tests.android.vectors import write_vectors

pytestmark = pytest.mark.full
PACKAGE = "org.mobilevideogpt.core"


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class files of `core`, compiled with warnings as errors."""
    return toolchain.compile_kotlin(toolchain.core_sources(), [toolchain.json_jar()], tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="module")
def classpath(core: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """`core`, its unit tests, and what both need."""
    libraries = [core, toolchain.json_jar()]
    sources = sorted(toolchain.CORE_TESTS.glob("*.kt"))
    out = tmp_path_factory.mktemp("core-tests")
    return [toolchain.compile_kotlin(sources, [*libraries, *toolchain.junit_jars()], out, friends=[core]), *libraries]


def test_unit_tests_pass_on_python_s_vectors(classpath: list[Path], demo_bundle: Path, tmp_path: Path) -> None:
    """The bundle's golden vectors, and more of the same form: odd sizes, every alphabet."""
    more = write_vectors(tmp_path / "vectors", demo_bundle / "tokenizer.json", seed=3, images=25, texts=600)
    _run(classpath, demo_bundle, [demo_bundle, more])


def test_the_released_tokenizer(classpath: list[Path], demo_bundle: Path, shared_dir: Path, tmp_path: Path) -> None:
    """Qwen2's own tokenizer, which normalizes to NFC and has 151,643 tokens: the same vectors from it."""
    vectors = write_vectors(tmp_path / "qwen2", shared_dir / "qwen2_tokenizer/tokenizer.json", seed=4, images=0, texts=1500, large=False)
    _run(classpath, demo_bundle, [vectors], ["GoldenTest"])


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        (lambda folder: _flip_a_bit(folder, "resize", "clip"), "images are resized as Pillow and OpenCV resize them"),
        (lambda folder: _flip_a_bit(folder, "resize", "video"), "images are resized as Pillow and OpenCV resize them"),
        (lambda folder: _flip_a_bit(folder, "planes", "rgb"), "planes become the decoder's RGB"),
        (lambda folder: _add_an_id(folder), "ids are Python's, and so is the text that they stream"),
    ],
    ids=["clip", "video", "planes", "ids"],
)
def test_wrong_vectors_are_noticed(change: Callable, noticed: str, classpath: list[Path], demo_bundle: Path, tmp_path: Path) -> None:
    """One bit of one golden pixel, one id too many: everything is compared."""
    for file in ("golden.json", "golden.bin", "tokenizer.json"):
        shutil.copyfile(demo_bundle / file, tmp_path / file)
    change(tmp_path)
    with pytest.raises(AssertionError, match=rf"\) {re.escape(noticed)}\({PACKAGE}"):
        _run(classpath, demo_bundle, [tmp_path], ["GoldenTest"])


def test_warnings_are_errors(tmp_path: Path) -> None:
    source = tmp_path / "Warned.kt"
    source.write_text("fun warned(text: String): Int = text!!.length\n")
    ran = toolchain.kotlinc([source], [], tmp_path / "out")
    assert ran.returncode and "warning: unnecessary non-null assertion" in ran.stderr


def test_core_knows_no_platform() -> None:
    """What runs on the JVM imports nothing of Android's or of ExecuTorch's."""
    for source in toolchain.core_sources():
        imports = [line for line in source.read_text().splitlines() if line.startswith("import ")]
        assert not [line for line in imports if line.split()[1].startswith(("android.", "androidx.", "org.pytorch."))], source.name


def _run(classpath: list[Path], bundle: Path, golden: list[Path], names: list[str] | None = None) -> str:
    """Run the unit tests, all of them or the named classes."""
    names = names or [source.stem for source in sorted(toolchain.CORE_TESTS.glob("*Test.kt"))]
    properties = {"bundle": bundle, "golden": os.pathsep.join(map(str, golden))}
    return toolchain.run_junit([f"{PACKAGE}.{name}" for name in names], classpath, properties)


def _flip_a_bit(folder: Path, kind: str, array: str) -> None:
    """In the middle of the first case's array."""
    place = json.loads((folder / "golden.json").read_text())[kind][0][array]
    data = bytearray((folder / "golden.bin").read_bytes())
    data[place["offset"] + math.prod(place["shape"]) // 2] ^= 1
    (folder / "golden.bin").write_bytes(data)


def _add_an_id(folder: Path) -> None:
    golden = json.loads((folder / "golden.json").read_text())
    golden["tokenizer"][-1]["ids"].append(0)
    (folder / "golden.json").write_text(json.dumps(golden))
