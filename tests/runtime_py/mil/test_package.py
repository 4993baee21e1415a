"""Damaged packages: one line that says so, never another exception, and never numbers from half a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from export.errors import PackageError
from runtime_py.mil import Program
from tests.runtime_py.mil.making import mb, save

X = np.arange(6, dtype=np.float16).reshape(2, 3)
TABLE = np.arange(48, dtype=np.float16).reshape(16, 3) / 8


def build(x, total):
    y = mb.add(x=x, y=mb.reduce_max(x=mb.const(val=TABLE), axes=[0], keep_dims=True))
    return mb.coreml_update_state(state=total, value=mb.add(x=mb.read_state(input=total), y=y))


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return save(build, {"x": X}, tmp_path_factory.mktemp("good") / "model.mlpackage", states={"total": X})


@pytest.fixture
def package(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model.mlpackage"))


def outputs(path: Path) -> np.ndarray:
    program = Program.load(path)
    (name,) = program.functions
    return next(iter(program.run({"x": X}, name, program.make_state(name)).values()))


def works_or_is_refused(path: Path) -> bool:
    """Whether the package works; a refusal must be one line that a user can read."""
    try:
        outputs(path)
        return True
    except PackageError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return False


def file_of(package: Path, name: str) -> Path:
    (path,) = package.rglob(name)
    return path


def test_the_good_one(package):
    np.testing.assert_array_equal(outputs(package), X + TABLE[-1])


@pytest.mark.parametrize("name", ["Manifest.json", "model.mlmodel", "weight.bin"])
def test_truncated_files(package, name):
    """Cut at every byte near the ends and at 150 places between: a protobuf may end between two fields, and then lacks something."""
    path = file_of(package, name)
    data = path.read_bytes()
    between = np.linspace(0, len(data) - 1, 150).astype(int).tolist()
    for place in sorted({*range(min(len(data), 40)), *range(max(0, len(data) - 40), len(data)), *between}):
        path.write_bytes(data[:place])
        if works_or_is_refused(package):
            np.testing.assert_array_equal(outputs(package), X + TABLE[-1], err_msg=f"{name} cut at byte {place} of {len(data)}")


@pytest.mark.parametrize("name, step", [("Manifest.json", 3), ("model.mlmodel", 5), ("weight.bin", 1)])
def test_flipped_bits(package, name, step):
    path = file_of(package, name)
    data = path.read_bytes()
    end = 128 if name == "weight.bin" else len(data)  # what follows are the numbers themselves
    for place in range(64 if name == "weight.bin" else 0, end, step):
        for bit in (0, 3, 7):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            works_or_is_refused(package)


@pytest.mark.parametrize("name", ["Manifest.json", "model.mlmodel", "weight.bin"])
def test_missing_and_empty_files(package, name):
    path = file_of(package, name)
    path.write_bytes(b"")
    with pytest.raises(PackageError):
        outputs(package)
    path.unlink()
    with pytest.raises(PackageError):
        outputs(package)
    path.mkdir()
    with pytest.raises(PackageError):
        outputs(package)


NOT_A_MANIFEST = (b"[]", b"null", b"{}", b'{"itemInfoEntries": [], "rootModelIdentifier": 3}', b"\xff\xfe", b"[" * 100_000)


@pytest.mark.parametrize("content", NOT_A_MANIFEST)
def test_manifest_of_another_form(package, content):
    (package / "Manifest.json").write_bytes(content)
    with pytest.raises(PackageError, match="is no Core ML package"):
        Program.load(package)


@pytest.mark.parametrize("path", ["../../outside.mlmodel", "/etc/hostname", "com.apple.CoreML", "", "\0", "x" * 5000])
def test_manifest_that_leads_elsewhere(package, path):
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
    (package / "Manifest.json").write_text(json.dumps(manifest))
    (package.parent / "outside.mlmodel").write_bytes(b"")
    with pytest.raises(PackageError):
        Program.load(package)


def test_no_package(tmp_path):
    for path in (tmp_path, tmp_path / "none", Path(__file__)):
        with pytest.raises(PackageError):
            Program.load(path)


def test_a_neural_network_is_refused(package):
    from export.mlpackage.package import protobuf

    model = protobuf().Model()
    model.neuralNetwork.SetInParent()
    file_of(package, "model.mlmodel").write_bytes(model.SerializeToString())
    with pytest.raises(PackageError, match="of type neuralNetwork"):
        Program.load(package)
