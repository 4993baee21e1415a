"""What the frozen encoders make of the training clips, kept on disk in float16, so that the decoder's training need not run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from calibration.store import ClipStore, locate
from export.config import CHUNK_FRAMES, CHUNKS
from export.model.clip import ClipVisionEncoder
from export.model.frame_scorer import FrameScorer, select_key_frames
from export.model.preprocess import clip_pixels, videomamba_pixels
from export.model.projector import pool_video_tokens
from export.model.videomamba import VideoMambaEncoder
from runtime_py.files import replacing


class FeatureStore:
    """Of each clip: the image encoder's features [16, P, C] and its key frames [2, 4], and the video encoder's pooled tokens
    [2, 196, W] of those, in shards that are whole or not there."""

    def __init__(self, folder: Path, clips: ClipStore):
        self.folder, self.clips = folder / clips.split, clips
        self._image: list[np.ndarray] = []
        self._video: list[np.ndarray] = []

    def make_image(self, encoder: ClipVisionEncoder) -> Iterator[range]:
        """Run the image encoder and the scorer over the shards that are missing, yielding each that is there."""
        scorer, device = FrameScorer(), encoder.class_embedding.device

        def run(frames: np.ndarray) -> dict[str, np.ndarray]:
            features = encoder(clip_pixels(frames).to(device))  # [16, P, C]
            scores = scorer(features.reshape(CHUNKS, CHUNK_FRAMES, *features.shape[1:]))
            return {"image": features.half().cpu().numpy(), "key_frames": select_key_frames(scores).numpy()}

        yield from self._make(("image", "key_frames"), lambda frames, *_: run(frames))

    def make_video(self, encoder: VideoMambaEncoder) -> Iterator[range]:
        """Run the video encoder over the key frames likewise; `make_image` comes first."""

        def run(frames: np.ndarray, number: int, shard: range) -> dict[str, np.ndarray]:
            picked = np.load(self._path("key_frames", shard), mmap_mode="r")[number - shard.start]
            pixels = videomamba_pixels(frames).reshape(CHUNKS, CHUNK_FRAMES, 3, *frames.shape[1:3])
            chosen = torch.cat([chunk[torch.from_numpy(picks)] for chunk, picks in zip(pixels, np.array(picked))])
            encoded = encoder(chosen[None].to(encoder.class_token.device))
            return {"video": pool_video_tokens(encoded, encoder.config.grid).half().cpu().numpy()}

        yield from self._make(("video",), run)

    def open(self) -> FeatureStore:
        self._image, self._video = (
            [np.load(self._path(name, shard), mmap_mode="r") for shard in self.clips.shards()] for name in ("image", "video")
        )
        return self

    def image(self, number: int) -> Tensor:
        shard, place = locate(number)
        return torch.from_numpy(np.array(self._image[shard][place]))

    def video(self, number: int) -> Tensor:
        shard, place = locate(number)
        return torch.from_numpy(np.array(self._video[shard][place]))

    def _make(self, names: tuple[str, ...], run: Callable[[np.ndarray, int, range], dict[str, np.ndarray]]) -> Iterator[range]:
        self.folder.mkdir(parents=True, exist_ok=True)
        for shard in self.clips.shards():
            if not all(self._path(name, shard).exists() for name in names):
                with torch.inference_mode():
                    made = [run(self.clips.frames(number), number, shard) for number in shard]
                for name in names:
                    with replacing(self._path(name, shard)) as file:
                        np.save(file, np.stack([one[name] for one in made]))
            yield shard

    def _path(self, name: str, shard: range) -> Path:
        return self.folder / f"{name}-{shard.start:05d}-{shard.stop - 1:05d}.npy"
