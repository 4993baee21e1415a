"""Clips on disk for training: drawn, encoded as H.264, decoded again, in shards that are whole or not there."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from calibration.clips import SIDE, Clip, plan_clip, write_h264
from calibration.scenes import CLIP_FRAMES
from runtime_py.files import replacing
from runtime_py.video import read_frames

SHARD = 100  # clips


class ClipStore:
    """Clips 0..count-1 of a split: `frames[i]` is uint8 RGB [16, 224, 224, 3], `clips[i]` what it shows."""

    def __init__(self, folder: Path, split: str, seed: int, count: int):
        self.folder, self.split, self.seed, self.count = folder / split, split, seed, count
        self.clips: list[Clip] = [plan_clip(split, seed, number) for number in range(count)]
        self._shards: list[np.ndarray] = []

    def __len__(self) -> int:
        return self.count

    def shards(self) -> list[range]:
        """The numbers of the clips in each shard."""
        return [range(start, min(start + SHARD, self.count)) for start in range(0, self.count, SHARD)]

    def missing(self) -> list[range]:
        """The shards that are still to be made."""
        return [shard for shard in self.shards() if not self._path(shard).exists()]

    def make(self, workers: int) -> Iterator[range]:
        """Make what is missing, yielding each shard that is done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
            jobs = [pool.submit(_make_shard, self._path(shard), self.split, self.seed, shard) for shard in self.missing()]
            try:
                for job in concurrent.futures.as_completed(jobs):
                    yield job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def open(self) -> ClipStore:
        self._shards = [np.load(self._path(shard), mmap_mode="r") for shard in self.shards()]
        return self

    def frames(self, number: int) -> np.ndarray:
        shard, place = locate(number)
        return self._shards[shard][place]

    def _path(self, shard: range) -> Path:
        return self.folder / f"seed{self.seed}-{shard.start:05d}-{shard.stop - 1:05d}.npy"


def locate(number: int) -> tuple[int, int]:
    """Which shard holds a clip, and its place there."""
    return divmod(number, SHARD)


def _make_shard(path: Path, split: str, seed: int, shard: range) -> range:
    frames = np.empty((len(shard), CLIP_FRAMES, SIDE, SIDE, 3), np.uint8)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".clip-") as folder:
        video = Path(folder) / "clip.mp4"
        for i, number in enumerate(shard):
            write_h264(plan_clip(split, seed, number).draw(), video)
            frames[i] = read_frames(video).frames
    with replacing(path) as file:
        np.save(file, frames)
    return shard
