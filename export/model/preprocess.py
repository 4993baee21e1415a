"""Frames to pixels: which frames of a clip, the two resizers of the release, and its normalisation constants.

Both encoders take float32 RGB in 0..255, NCHW, 224x224, and normalise inside (`Normalize`). A clip of fewer than 16 frames
is padded with frames of mean x 255, which are zero after normalisation.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from export.config import FRAMES, IMAGE_SIZE

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
VIDEOMAMBA_MEAN = (0.485, 0.456, 0.406)
VIDEOMAMBA_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """`(x / 255 - mean) / std` per channel, in float32: [B, 3, H, W] in 0..255 -> the same shape, standardised."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.float() / 255.0 - self.mean.float()) / self.std.float()


def pick_frames(total: int, fps: float, frames: int = FRAMES) -> list[int]:
    """Indices, counted as decoded, of the frames that the release samples from a clip of `total` frames.

    Candidates are every `max(1, round(fps))`-th frame from 0. More than 16: the 16 at `linspace` truncated; fewer: up to 16
    frames from 0 with an even stride that reaches into the whole clip.
    """
    if total < 1:
        raise ValueError("a clip has at least one frame")
    candidates = list(range(0, total, max(1, round(fps))))
    if len(candidates) >= frames:
        keep = np.linspace(0, len(candidates) - 1, frames).astype(int)  # the identity for exactly 16
        return [candidates[i] for i in keep]
    count = min(frames, total)
    stride = max(1, (total - 1) // (count - 1)) if count > 1 else 1
    return [i * stride for i in range(count)]


def clip_pixels(frames: Sequence[np.ndarray]) -> Tensor:
    """CLIP's pixels of up to 16 frames: uint8 RGB [H, W, 3] each -> [16, 3, 224, 224] float32 in 0..255.

    Shortest side to 224 by PIL's antialiased bicubic, centre crop.
    """
    return _pad([_shortest_side_and_crop(frame) for frame in frames], CLIP_MEAN)


def videomamba_pixels(frames: Sequence[np.ndarray]) -> Tensor:
    """VideoMamba's pixels of up to 16 frames: uint8 RGB [H, W, 3] each -> [16, 3, 224, 224] float32 in 0..255.

    Squashed to 224x224 by OpenCV's bilinear, which has no antialiasing.
    """
    import cv2

    size = (IMAGE_SIZE, IMAGE_SIZE)
    return _pad([cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in frames], VIDEOMAMBA_MEAN)


def _shortest_side_and_crop(frame: np.ndarray) -> np.ndarray:
    from PIL import Image

    height, width = frame.shape[:2]
    if width <= height:
        size = (IMAGE_SIZE, int(IMAGE_SIZE * height / width))
    else:
        size = (int(IMAGE_SIZE * width / height), IMAGE_SIZE)
    resized = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    top, left = (size[1] - IMAGE_SIZE) // 2, (size[0] - IMAGE_SIZE) // 2
    return resized[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]


def _pad(images: list[np.ndarray], mean: tuple[float, ...]) -> Tensor:
    """Stack uint8 [224, 224, 3] images as float32 NCHW and pad to 16 with frames of mean x 255."""
    pixels = torch.empty(FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE)
    pixels[:] = torch.tensor(mean).view(1, 3, 1, 1) * 255.0
    for i, image in enumerate(images):
        pixels[i] = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # a copy: PIL's memory is read-only, and torch warns of that
    return pixels
