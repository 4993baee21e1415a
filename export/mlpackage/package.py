"""An `.mlpackage` folder: its manifest, its model protobuf, and where its weight files are."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from export.errors import BackendError, PackageError, one_line
from export.mlpackage.values import Values, file_inside

REMEDY = "copy or build the package again"


class Package:
    """A package whose model is an ML program. `model` is the `Model` message of Core ML's protobuf, `program` the ML program in it."""

    def __init__(self, path: Path, model: Any, model_file: Path):
        self.path = path
        self.model = model
        self.model_file = model_file

    @classmethod
    def open(cls, path: str | Path) -> Package:
        """Read a package.

        Raises:
            PackageError: it is not there, is damaged, or its model is no ML program.
            BackendError: the package coremltools, which holds the protobuf's description, is not installed.
        """
        path = Path(path)
        model_file = _model_file(path)
        messages = protobuf()
        from google.protobuf.message import DecodeError

        try:
            model = messages.Model.FromString(model_file.read_bytes())
        except (DecodeError, OSError) as error:
            raise PackageError(f"{path}: {model_file.name} cannot be read ({one_line(error)}): {REMEDY}") from None
        kind = model.WhichOneof("Type")
        if kind != "mlProgram":
            raise PackageError(f"{path}: the model is of type {kind or 'none'}, and only ML programs are read: convert it to an mlprogram")
        return cls(path, model, model_file)

    @property
    def program(self) -> Any:
        return self.model.mlProgram

    @functools.cached_property
    def values(self) -> Values:
        """The reader of the program's constants."""
        return Values(self.model_file.parent)


def _model_file(path: Path) -> Path:
    """The model's protobuf, as the package's manifest names it."""
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise PackageError(f"{path} {what}: give the folder of an .mlpackage")
    manifest = path / "Manifest.json"
    try:
        data = json.loads(manifest.read_text())
        relative = data["itemInfoEntries"][data["rootModelIdentifier"]]["path"]
        if not isinstance(relative, str):
            raise TypeError("its path is no text")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise PackageError(f"{path} is no Core ML package: its Manifest.json cannot be read ({one_line(error)}): {REMEDY}") from None
    model_file = file_inside(path / "Data", relative)
    if model_file is None:
        raise PackageError(f"{path}: the model {relative[:200]!r} is missing, or lies outside the package: {REMEDY}")
    return model_file


@functools.cache
def protobuf() -> Any:
    """The module `Model_pb2` of coremltools, without what `import coremltools` does (8 s: every converter and PyTorch frontend).

    Messages are the same classes whichever way they were imported.
    """
    if "coremltools" in sys.modules:
        return importlib.import_module("coremltools.proto.Model_pb2")
    spec = importlib.util.find_spec("coremltools")
    if spec is None or spec.origin is None:
        raise BackendError("Core ML packages need the package coremltools: pip install -e '.[coreml]'")
    folder = Path(spec.origin).parent / "proto"
    name = "_coremltools_proto"
    found = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert found is not None and found.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(sys.modules[name])
    return importlib.import_module(f"{name}.Model_pb2")
