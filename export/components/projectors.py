"""`image_projector` and `video_projector`: vision features to tokens of the decoder's width."""

import math

import torch
from torch import Tensor, nn

from export.components.base import Component, Form, Signature
from export.config import CHUNK_KEY_FRAMES, CHUNKS, ETP, FRAMES, KEY_FRAMES, VIDEO_FRAME_POOL_SIDE, ModelConfig
from export.manifest import TensorSpec
from export.model.mobile_videogpt import MobileVideoGPT


def pooling_matrix(side: int, pooled: int) -> Tensor:
    """Adaptive average pooling of a side x side grid as one matrix [pooled^2, side^2], rows of means.

    Window i covers floor(i side / pooled) to ceil((i + 1) side / pooled): windows overlap where pooled does not divide side.
    Left as an operator it becomes hundreds of slices and means.
    """
    windows = torch.zeros(pooled, side)
    for i in range(pooled):
        start, end = i * side // pooled, -(-(i + 1) * side // pooled)
        windows[i, start:end] = 1 / (end - start)
    return torch.kron(windows, windows)


class PoolByProduct(nn.Module):
    """[B, D, side, side] -> [B, D, pooled, pooled] as a product with a constant matrix."""

    def __init__(self, side: int, pooled: int):
        super().__init__()
        self.pooled = pooled
        self.register_buffer("weights", pooling_matrix(side, pooled).T.contiguous(), persistent=False)  # [side^2, pooled^2]

    def forward(self, grid: Tensor) -> Tensor:
        rows, width = grid.shape[:2]
        return torch.mm(grid.reshape(rows * width, -1), self.weights).reshape(rows, width, self.pooled, self.pooled)


def projector_twin(projector: nn.Module, side: int) -> nn.Module:
    """The eager projector with its pooling replaced; the rest lowers as it is."""
    if projector.config.kind == ETP:
        projector.pool = PoolByProduct(side, projector.pool_side)
    return projector


def image_signature(config: ModelConfig, form: Form) -> Signature:
    features = TensorSpec("features", (FRAMES, config.clip.patches, config.clip.width), "float32", "CLIP patch features")
    shape = (FRAMES * config.image_tokens_per_frame, config.decoder.width)
    return Signature((features,), (TensorSpec("tokens", shape, "float32", "image tokens in frame order"),))


def video_signature(config: ModelConfig, form: Form) -> Signature:
    tokens = TensorSpec("tokens", (KEY_FRAMES, config.videomamba.patches, config.videomamba.width), "float32", "VideoMamba tokens")
    shape = (CHUNKS * config.video_tokens_per_chunk, config.decoder.width)
    return Signature((tokens,), (TensorSpec("video_tokens", shape, "float32", "video tokens, pooled and regrouped per chunk"),))


def image_twin(model: MobileVideoGPT, form: Form) -> nn.Module:
    return projector_twin(model.image_projector, model.config.clip.grid)


def video_twin(model: MobileVideoGPT, form: Form) -> nn.Module:
    side = math.isqrt(CHUNK_KEY_FRAMES * VIDEO_FRAME_POOL_SIDE**2)  # a chunk's 4 x 49 tokens are read as one 14 x 14 grid
    return projector_twin(model.video_projector, side)


IMAGE_PROJECTOR = Component("image_projector", ("image_projector",), image_signature, image_twin)
VIDEO_PROJECTOR = Component("video_projector", ("video_projector",), video_signature, video_twin)
