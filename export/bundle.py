"""A bundle folder: written whole or not at all, and believed only as far as its hashes go.

Writing goes to a hidden sibling `.<name>.partial-<pid>-<random>` of the destination, which is renamed when complete; whatever
ends the work early (an error, Ctrl-C, SIGTERM) removes it, and what a killed process left the next build removes. Reading
checks every hash the first time, then only sizes, modification times and inodes: those are remembered in the user's cache
folder, not in the bundle, so a copy is hashed again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

import numpy as np

from export.errors import BundleError
from export.manifest import DIGEST, MANIFEST_FILE, REMEDY, FileEntry, GraphEntry, Manifest, read_manifest
from export.model_card import render_model_card

MODEL_CARD = "README.md"
REFERENCE = "reference.npz"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # Python itself turns SIGINT into an exception

_partials_in_use: set[Path] = set()  # of this process; in a container the process killed before may have had the same pid


class BundleWriter:
    """Context manager that makes the bundle folder `out`, all of it or nothing.

        with BundleWriter(out) as writer:  # BundleError here if `out` is not ours to replace or cannot be written
            writer.need_space(2_000_000_000)
            save(writer.path("decoder.pte"))
            manifest = writer.commit(manifest)  # hashes, sizes, model card, manifest.json; then `out` appears

    A bundle that stands at `out` is replaced, and stays as it was if anything fails. Leaving without `commit` leaves nothing.
    """

    def __init__(self, out: Path | str):
        self.out = Path(os.path.realpath(out))
        self._partial: Path | None = None
        self._undo = contextlib.ExitStack()
        _check_replaceable(self.out)

    def need_space(self, size: int) -> None:
        """Raise BundleError unless the disk of `out` has `size` bytes free."""
        folder, free = _free_space(self.out)
        if free < size:
            needs = f"{free:,} bytes free and the bundle needs {size:,}"
            raise BundleError(f"{folder} has {needs}: free some, or choose another folder with --out")

    def __enter__(self) -> BundleWriter:
        with contextlib.ExitStack() as undo:
            undo.enter_context(_signals_unwind())
            try:
                for folder in reversed([folder for folder in self.out.parents if not folder.exists()]):
                    undo.callback(_remove_if_empty, folder)
                    folder.mkdir(exist_ok=True)
                _clean_up_after_killed(self.out)
                partial = _sibling(self.out, "partial")
                undo.callback(_discard, partial)
                _partials_in_use.add(partial)
                partial.mkdir()
            except OSError as error:
                raise _write_error(self.out, error) from error
            self._partial, self._undo = partial, undo.pop_all()
        return self

    def path(self, filename: str) -> Path:
        """Where to write the bundle's `filename`; '/' separates folders, which are made."""
        path = self._folder() / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, manifest: Manifest) -> Manifest:
        """Complete `manifest` (hashes, sizes, `files`, `bundle_bytes`, and `created` where empty), write the model card and
        the manifest, and put the folder in place. Returns the manifest as a reader sees it."""
        folder = self._folder()
        try:
            manifest = _complete(manifest, folder)
            (folder / MODEL_CARD).write_text(render_model_card(manifest), encoding="utf-8", errors="replace")
            for file in _files_below(folder):
                _sync(file)
            (folder / MANIFEST_FILE).write_text(json.dumps(manifest.to_json(), indent=1) + "\n", encoding="utf-8")
            _sync(folder / MANIFEST_FILE)
            for below, _, _ in os.walk(folder, topdown=False):
                _sync(Path(below))
            _put_in_place(folder, self.out)
        except OSError as error:
            raise _write_error(self.out, error) from error
        self._partial = None
        return manifest

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        is_full = isinstance(error, OSError) and error.errno in NO_SPACE
        full = _write_error(self.out, error) if is_full else None  # before the clean-up, which frees the space again
        self._partial = None
        _ignore_signals()
        self._undo.close()
        if full:
            raise full from error

    def _folder(self) -> Path:
        if self._partial is None:
            raise RuntimeError("a BundleWriter writes inside its with block, and until its commit")
        return self._partial


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
    listing, size = hashlib.sha256(), 0
    for file in _files_below(path):
        file_hash, file_size = hash_path(file)
        listing.update(f"{file_hash}  {file.relative_to(path).as_posix()}\n".encode())
        size += file_size
    return listing.hexdigest(), size


def _complete(manifest: Manifest, folder: Path) -> Manifest:
    measured: dict[str, FileEntry] = {}
    for graph in manifest.graphs.values():
        if not (folder / graph.file).exists():
            raise BundleError(f"graph {graph.name}: nothing was written to {graph.file}")
        if graph.file not in measured:
            measured[graph.file] = FileEntry(*hash_path(folder / graph.file))
    graphs = {name: dataclasses.replace(graph, **vars(measured[graph.file])) for name, graph in manifest.graphs.items()}
    taken = {folder / name for name in (*measured, MODEL_CARD, MANIFEST_FILE)}
    others = [file for file in _files_below(folder) if taken.isdisjoint((file, *file.parents))]
    files = {file.relative_to(folder).as_posix(): FileEntry(*hash_path(file)) for file in others}
    size = sum(entry.bytes for entry in (*measured.values(), *files.values()))
    created = manifest.created or datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest = dataclasses.replace(manifest, graphs=graphs, files=files, bundle_bytes=size, created=created)
    return Manifest.from_json(manifest.to_json())  # what a reader would refuse is not written


def _check_replaceable(out: Path) -> None:
    """A build may take the place of nothing, of an empty folder, and of a bundle; of nothing else that somebody may need."""
    try:
        if not out.exists() or (out.is_dir() and not os.path.ismount(out) and (_is_bundle(out) or not any(out.iterdir()))):
            return  # a mount point cannot be renamed over
    except OSError as error:
        raise _write_error(out, error) from error
    raise BundleError(f"{out} is there already and is no bundle that could be replaced: choose another folder with --out")


def _is_bundle(folder: Path) -> bool:
    """Of any schema version. Other programs have a manifest.json too: it must be one of ours."""
    try:
        data = json.loads((folder / MANIFEST_FILE).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and {"schema_version", "graphs", "decoder"} <= data.keys()


def _put_in_place(partial: Path, out: Path) -> None:
    old = _sibling(out, "old")
    replaces = out.exists() and _is_bundle(out)
    if replaces:
        out.rename(old)
    try:
        partial.rename(out)  # takes the place of an empty folder as well
    finally:
        if replaces and not out.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    _sync(out.parent)


def _clean_up_after_killed(out: Path) -> None:
    """Remove what killed builds of the same bundle left; put back the old one where the kill came between the two renames."""
    ours = re.compile(rf"\.{re.escape(out.name)}\.(partial|old)-(\d{{1,9}})-[0-9a-f]{{8}}")
    for folder in out.parent.iterdir():
        match = ours.fullmatch(folder.name)
        if not match or folder in _partials_in_use or _is_other_process(int(match[2])):
            continue
        if match[1] == "old" and not out.exists():
            folder.rename(out)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _is_other_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _sibling(out: Path, role: str) -> Path:
    return out.with_name(f".{out.name}.{role}-{os.getpid()}-{secrets.token_hex(4)}")


def _discard(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    _partials_in_use.discard(partial)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    """Let SIGTERM and a hang-up unwind the stack as Ctrl-C does. A handler that somebody else set is left alone."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING_SIGNALS)}
    for number in ENDING_SIGNALS:
        if before[number] is signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: set by C code, so `_ignore_signals` left it too
                signal.signal(number, handler)


def _ignore_signals() -> None:
    """A second Ctrl-C must not interrupt the clean-up after the first; `_signals_unwind` gives the signals back at its end."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *ENDING_SIGNALS):
            if signal.getsignal(number) is not None:
                signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # what a shell reports for the signal


def _free_space(out: Path) -> tuple[Path, int]:
    """The nearest existing folder at or above `out`, and the bytes free on its disk."""
    folder = next(folder for folder in (out, *out.parents) if folder.is_dir())
    return folder, shutil.disk_usage(folder).free


def _write_error(out: Path, error: OSError) -> BundleError:
    if error.errno in NO_SPACE:
        folder, free = _free_space(out.parent)
        return BundleError(f"{folder}: no space left ({free:,} bytes were free): free some, or choose another folder with --out")
    return BundleError(f"{out}: the bundle cannot be written ({error.strerror}): choose another folder with --out")


def _files_below(folder: Path) -> list[Path]:
    """All files in a folder and its folders, in the order of their paths. The Finder's own files do not count."""
    files = [Path(below) / name for below, _, names in os.walk(folder) for name in names if name != ".DS_Store"]
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in (_files_below(path) if path.is_dir() else [path])]
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
