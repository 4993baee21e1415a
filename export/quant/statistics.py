"""What a calibration run saw at the inputs of a checkpoint's linears: the files that `calibration.collect` writes and recipes read.

A folder holds `calibration.json` (what was run, and each file's hash) and a safetensors file for every distinct input of linears:

    gram     float32 [in, in]   the weighted mean of x x^T over the rows x that came in
    mean_abs float32 [in]       of |x|
    max_abs  float32 [in]       of |x|, of all rows

Linears that read the same tensor (q, k and v; gate and up) share a file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from torch import Tensor

from export.errors import CalibrationError

INDEX = "calibration.json"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class InputStatistics:
    """The statistics of one input: see the module."""

    gram: Tensor
    mean_abs: Tensor
    max_abs: Tensor


@dataclasses.dataclass(frozen=True)
class CalibrationFolder:
    """A calibration folder whose index was read; the statistics are read when asked for."""

    path: Path
    checkpoint_fingerprint: str
    clips: int
    questions: int
    files: dict[str, str]  # "component/layer" -> file
    hashes: dict[str, str]  # file -> sha256

    def file_of(self, layer: str) -> str:
        """The file with the statistics of "component/layer".

        Raises:
            CalibrationError: there are none.
        """
        file = self.files.get(layer)
        if file is None:
            remedy = f"run calibration.collect with --components {layer.partition('/')[0]}"
            raise CalibrationError(f"{self.path} has no statistics of {layer}: {remedy}")
        return file

    def statistics(self, component: str, layer: str) -> InputStatistics:
        """Of one layer's input.

        Raises:
            CalibrationError: there are none, or the file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        file = self.file_of(f"{component}/{layer}")
        try:
            data = (self.path / file).read_bytes()
        except OSError as error:
            raise CalibrationError(f"{self.path / file} cannot be read ({error.strerror}): run calibration.collect again") from error
        if hashlib.sha256(data).hexdigest() != self.hashes[file]:
            raise CalibrationError(f"{self.path / file} is damaged: run calibration.collect again")
        try:
            return InputStatistics(**load(data))
        except (SafetensorError, TypeError) as error:
            raise CalibrationError(f"{self.path / file} holds other tensors than statistics: run calibration.collect again") from error


def open_calibration(path: Path, checkpoint_fingerprint: str) -> CalibrationFolder:
    """Read a folder's index.

    Raises:
        CalibrationError: there is none, it is damaged, or it is of another checkpoint.
    """
    index = path / INDEX
    if not index.is_file():
        raise CalibrationError(f"{path} is no calibration folder: make one with python -m calibration.collect --out {path}")
    try:
        data = json.loads(index.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise CalibrationError(f"{path} is of version {data['version']}, this program reads {VERSION}: run calibration.collect again")
        folder = CalibrationFolder(
            path, data["checkpoint_fingerprint"], data["clips"], data["questions"], dict(data["layers"]), dict(data["sha256"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(f"{index} is damaged ({error}): run calibration.collect again") from error
    if any(file not in folder.hashes or Path(file).name != file for file in folder.files.values()):
        raise CalibrationError(f"{index} is damaged: it names files without hashes; run calibration.collect again")
    if folder.checkpoint_fingerprint != checkpoint_fingerprint:
        raise CalibrationError(f"{path} was collected from another checkpoint: run calibration.collect with this one")
    return folder


def index_text(**values: object) -> str:
    """The index's text; `json.dumps` sorted, so that equal runs give equal files."""
    return json.dumps({"version": VERSION, **values}, indent=2, sort_keys=True) + "\n"
