"""Writing a bundle folder: whole or not at all.

The work goes to a hidden sibling `.<name>.partial-<pid>-<random>` of the destination, which is renamed when complete; whatever
ends it early (an error, Ctrl-C, SIGTERM) removes it, and what a killed process left the next build removes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import re
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

from export.bundle import checksums, files_below, hash_path
from export.errors import NO_SPACE, BundleError
from export.manifest import CHECKSUMS, MANIFEST_FILE, FileEntry, Manifest
from export.model_card import render_model_card

MODEL_CARD = "README.md"
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
        """Complete `manifest` (hashes, sizes, `files`, `bundle_bytes`, and `created` where empty), write the model card, the
        manifest and the list of all files' hashes, and put the folder in place. Returns the manifest as a reader sees it."""
        folder = self._folder()
        try:
            manifest = _complete(manifest, folder)
            (folder / MODEL_CARD).write_text(render_model_card(manifest), encoding="utf-8", errors="replace")
            for file in files_below(folder):
                _sync(file)
            (folder / MANIFEST_FILE).write_text(json.dumps(manifest.to_json(), indent=1) + "\n", encoding="utf-8")
            (folder / CHECKSUMS).write_text(checksums(folder), encoding="utf-8")
            for name in (MANIFEST_FILE, CHECKSUMS):
                _sync(folder / name)
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


def _complete(manifest: Manifest, folder: Path) -> Manifest:
    measured: dict[str, FileEntry] = {}
    for graph in manifest.graphs.values():
        if not (folder / graph.file).exists():
            raise BundleError(f"graph {graph.name}: nothing was written to {graph.file}")
        if graph.file not in measured:
            measured[graph.file] = FileEntry(*hash_path(folder / graph.file))
    graphs = {name: dataclasses.replace(graph, **vars(measured[graph.file])) for name, graph in manifest.graphs.items()}
    taken = {folder / name for name in (*measured, MODEL_CARD, MANIFEST_FILE)}
    others = [file for file in files_below(folder) if taken.isdisjoint((file, *file.parents))]
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
