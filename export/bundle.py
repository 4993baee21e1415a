"""Reading a bundle folder, which is believed only as far as its hashes go; `export.bundle_writer` writes it.

Every hash is checked the first time, then only sizes, modification times and inodes: those are remembered in the user's cache
folder, not in the bundle, so a copy is hashed again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import secrets
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from export.errors import BundleError
from export.manifest import CHECKSUMS, DIGEST, REMEDY, FileEntry, GraphEntry, Manifest, read_manifest

REFERENCE = "reference.npz"


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked: what `open_bundle` returns."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """The path of a file that the manifest lists. Raises BundleError for any other name."""
        names = _entries(self.manifest)
        if name not in names:
            raise BundleError(f"{self.folder}: this bundle has no {name}; it has {', '.join(sorted(names))}")
        return self.folder / name

    def graph_path(self, graph: str) -> Path:
        """The artifact of one of the seven graphs: a file, or a folder for a Core ML package."""
        if graph not in self.manifest.graphs:
            raise BundleError(f"{self.folder}: there is no graph {graph!r}; there are {', '.join(self.manifest.graphs)}")
        return self.folder / self.manifest.graphs[graph].file

    def reference(self) -> dict[str, np.ndarray]:
        """The inputs and the reference's stages that the build stored, under their names."""
        path = self.path(REFERENCE)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise BundleError(f"{path}: cannot be read as arrays ({error}): {REMEDY}") from error


def open_bundle(folder: Path | str, verify: bool = False) -> Bundle:
    """Check a bundle and return it. Every byte is hashed the first time, after a change, and whenever `verify` is true.

    Raises BundleError, one line that names the file, where one is missing, cannot be read, or is not what the manifest says.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    entries = _entries(manifest)
    looks = [_look(folder, name, entry) for name, entry in entries.items()]
    seen = {"manifest": manifest.to_json()[DIGEST], "files": looks}
    stamp = _stamp_file(folder)
    if verify or _read_stamp(stamp) != seen:
        for name, entry in entries.items():
            with _reading(folder / name):
                found, _ = hash_path(folder / name)
            if found != entry.sha256:
                raise BundleError(f"{folder / name}: its contents are not those that were built: {REMEDY}")
        _write_stamp(stamp, seen)  # what was seen before hashing: a change while hashing shows next time
    if not manifest.verified:
        _warn_unverified(folder.resolve())
    return Bundle(folder, manifest)


def hash_path(path: Path) -> tuple[str, int]:
    """SHA-256 (hex) and size (bytes) of a file. Of a folder: the hash of the text that `sha256sum` prints for all its files,
    in the order of their relative paths, and the sum of their sizes."""
    if not path.is_dir():
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size
    return hashlib.sha256(checksums(path).encode()).hexdigest(), path_size(path)


def checksums(folder: Path) -> str:
    """What `sha256sum` prints for all files of a folder, in the order of their relative paths, but for a list of that kind."""
    files = [file for file in files_below(folder) if file != folder / CHECKSUMS]
    return "".join(f"{hash_path(file)[0]}  {file.relative_to(folder).as_posix()}\n" for file in files)


def pin(folder: Path) -> str:
    """What names a bundle, all of it: the SHA-256 (hex) of its list of hashes. The apps download a bundle by it."""
    return hash_path(folder / CHECKSUMS)[0]


def path_size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in files_below(path)) if path.is_dir() else path.stat().st_size


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and its folders, in the order of their paths. The Finder's own files do not count."""
    files = [Path(below) / name for below, _, names in os.walk(folder) for name in names if name != ".DS_Store"]
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _entries(manifest: Manifest) -> dict[str, FileEntry | GraphEntry]:
    return {graph.file: graph for graph in manifest.graphs.values()} | manifest.files


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BundleError(f"{path}: is missing: {REMEDY}") from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}): {REMEDY}") from error


def _look(folder: Path, name: str, entry: FileEntry | GraphEntry) -> list[list]:
    """Name, size, modification time and inode of each file of an entry, once the sizes add up to what the manifest says."""
    path = folder / name
    with _reading(path):
        stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in (files_below(path) if path.is_dir() else [path])]
    size = sum(found.st_size for _, found in stats)
    if size != entry.bytes:
        raise BundleError(f"{path}: has {size:,} bytes where {entry.bytes:,} were built: {REMEDY}")
    return [[file, found.st_size, found.st_mtime_ns, found.st_ino] for file, found in stats]


def _stamp_file(folder: Path) -> Path | None:
    """Where this bundle's stamp is kept: one file for each folder. None where the user has no cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    return Path(base, "mobile-videogpt-export", "checked", f"{name}.json") if os.path.isabs(base) else None


def _read_stamp(stamp: Path | None) -> dict | None:
    try:
        return json.loads(stamp.read_bytes()) if stamp else None
    except (OSError, ValueError):
        return None  # as good as none: the files are hashed


def _write_stamp(stamp: Path | None, seen: dict) -> None:
    if stamp is None:
        return
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not correctness
        stamp.parent.mkdir(parents=True, exist_ok=True)
        new = stamp.with_name(f"{stamp.name}.{os.getpid()}-{secrets.token_hex(4)}")
        new.write_text(json.dumps(seen))
        new.replace(stamp)


@functools.cache
def _warn_unverified(folder: Path) -> None:
    """Once a process for each bundle."""
    print(f"warning: {folder}: built with --no-verify: nothing shows that it computes what the model computes", file=sys.stderr)
