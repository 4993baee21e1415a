"""A session on disk: the cache as far as it is filled, the video's tokens, and the conversation, for another process.

One safetensors file. Its header says what it belongs to: the format's version, the bundle or checkpoint and how it is run, the video,
and the SHA-256 of all that and of the tensors. What does not belong together is refused, so that no answer is about another video or
from another model. `VideoCache` is a folder of such files, one for each video, that stays below a size: the least recently used go
first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.errors import BackendError, ExportError, SnapshotError, one_line
from runtime_py.backends.base import GraphBackend
from runtime_py.files import check_writable, replacing
from runtime_py.session import Held, Session, State, Turn

FORMAT, VERSION = "mobile-videogpt session", "2"
VISUAL = "visual"  # the video's tokens; every other tensor is the backend's cache, under its own name
SUFFIX = ".session"
ABANDONED_S = 3600
REMEDY = "delete it and watch the video again"


def snapshot(session: Session, path: Path, video: str) -> None:
    """Write a session. `video`: what tells its video from others, see `video_fingerprint`.

    Raises:
        SnapshotError: it has watched nothing.
        BackendError: the backend cannot give its cache away.
        ExportError: the file cannot be written; what stood there stays as it was.
    """
    from safetensors.torch import save

    try:
        state = session.state()
    except ValueError as error:
        raise SnapshotError("the session has watched no video: there is nothing to keep") from error
    tensors = {VISUAL: state.visual.cpu().contiguous(), **session.backend.read_cache(state.filled)}
    about = {
        "format": FORMAT, "version": VERSION, "model": session.backend.identity, "video": video,
        "conversation": json.dumps(_to_json(state)),
    }  # fmt: skip
    with replacing(path) as file:
        file.write(save(tensors, metadata=about | {"sha256": _hash(about, tensors)}))


def restore(session: Session, path: Path, video: str) -> None:
    """Put a session back; it goes on as the one that was written would have.

    Raises:
        SnapshotError: the file is damaged, of another version, model or video. The session is left as it was.
    """
    about, tensors = _read(path)
    belongs = {"model": session.backend.identity, "video": video}
    for key, wanted in belongs.items():
        if about.get(key) != wanted:
            raise SnapshotError(f"{path} is of another {key}: {REMEDY}")
    if about.pop("sha256", None) != _hash(about, tensors):
        raise SnapshotError(f"{path} is damaged: {REMEDY}")
    try:
        state = _from_json(json.loads(about["conversation"]), tensors.pop(VISUAL))
    except (KeyError, TypeError, ValueError) as error:
        raise SnapshotError(f"{path} holds no conversation ({error}): {REMEDY}") from error
    session.backend.write_cache(tensors)
    session.resume(state)


def video_fingerprint(path: Path, start_s: float | None, end_s: float | None) -> str:
    """What tells a video and a part of it from others: the file's contents and the seconds."""
    digest = hashlib.sha256(repr((start_s, end_s)).encode())
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read ({error.strerror}): give a video file") from error
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class VideoCache:
    """Snapshots of videos in a folder, at most `limit_bytes` of them."""

    folder: Path
    limit_bytes: int

    def prepare(self) -> None:
        """Make the folder. Raises ExportError where it cannot be made or written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExportError(f"--cache {self.folder} cannot be made ({error.strerror}): choose another folder") from error
        check_writable(self.folder / SUFFIX)

    def restore(self, session: Session, video: str) -> bool:
        """Put the session back that watched this video, where there is one that can be read: `keep` writes anew over what cannot."""
        path = self._path(session.backend, video)
        if not path.exists():
            return False
        try:
            restore(session, path, video)
        except (SnapshotError, BackendError):
            return False
        with contextlib.suppress(OSError):
            os.utime(path)  # used now
        return True

    def keep(self, session: Session, video: str) -> None:
        """Write the session into the folder that `prepare` made, and remove what has not been used for longest until it is below its
        limit.

        Raises:
            ExportError, OSError: the folder is gone or cannot be written, or the disk is full.
        """
        snapshot(session, self._path(session.backend, video), video)
        self._trim()

    def _path(self, backend: GraphBackend, video: str) -> Path:
        return self.folder / f"{hashlib.sha256(f'{backend.identity}/{video}'.encode()).hexdigest()[:32]}{SUFFIX}"

    def _trim(self) -> None:
        found = []
        for file in self.folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # another process trims too
                found.append((file.stat(), file))
        for file in self.folder.glob(f".*{SUFFIX}.partial-*"):  # of a process that was killed while it wrote
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > ABANDONED_S:
                    file.unlink()
        total = 0
        for stat, file in sorted(found, key=lambda one: one[0].st_mtime, reverse=True):
            total += stat.st_size
            if total > self.limit_bytes:
                file.unlink(missing_ok=True)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise SnapshotError(f"{path} is no session of this project: give one that was written by it")
            if about.get("version") != VERSION:
                raise SnapshotError(f"{path} has version {about.get('version')}, and this program reads {VERSION}: {REMEDY}")
            return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (OSError, SafetensorError) as error:
        raise SnapshotError(f"{path} cannot be read as a session ({one_line(error)}): {REMEDY}") from error


def _hash(about: dict[str, str], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy() if tensor.numel() else b"")
    return digest.hexdigest()


def _to_json(state: State) -> dict[str, Any]:
    return {"held": dataclasses.asdict(state.held), "opening": state.opening, "forgotten": state.forgotten}


def _from_json(data: dict[str, Any], visual: Tensor) -> State:
    def ids(values: Any) -> tuple[int, ...] | None:
        return None if values is None else tuple(int(value) for value in values)

    held = data["held"]
    turns = tuple(Turn(ids(turn["first"]), ids(turn["later"]), ids(turn["answer"]) or ()) for turn in held["turns"])
    conversation = Held(int(held["position"]), ids(held["unfed"]) or (), turns)
    return State(conversation, ids(data["opening"]), int(data["forgotten"]), visual)
