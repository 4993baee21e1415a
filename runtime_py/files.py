"""Result files of the commands: checked before the work, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from export.errors import ExportError


def check_writable(path: Path) -> None:
    """Raise ExportError where a result could not be written to `path` in the end."""
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise ExportError(f"{path} cannot be written: there is no folder {folder}; make it, or choose another file")
    if path.exists() and not path.is_file():
        raise ExportError(f"{path} is no file that can be replaced: choose another")
    if not os.access(folder, os.W_OK):
        raise ExportError(f"{path} cannot be written: no permission to write in {folder}; choose another file")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` when the block ends well; otherwise `path` stays as it was.

    Raises:
        ExportError: `check_writable` says so.
    """
    check_writable(path)
    path = Path(os.path.realpath(path))
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A whole text as `path`, or `path` as it was; errors as `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())
