"""Which frames, and their pixels: against the release's golden arrays and against torch's own resizers."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from export.config import FRAMES
from export.model.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    VIDEOMAMBA_MEAN,
    VIDEOMAMBA_STD,
    Normalize,
    clip_pixels,
    pick_frames,
    videomamba_pixels,
)

pytestmark = pytest.mark.filterwarnings("error")  # a warning here would stand in the middle of a user's conversation

FIXTURES = Path(__file__).parents[1] / "fixtures"
ENCODERS = {
    "pixel_clip": (clip_pixels, CLIP_MEAN, CLIP_STD),
    "pixel_video": (videomamba_pixels, VIDEOMAMBA_MEAN, VIDEOMAMBA_STD),
}


def the_rule(total: int, fps: float) -> list[int]:
    """The release's rule, read word by word and without numpy; a host in any language can compute it so."""
    step = max(1, round(fps))
    candidates = [frame for frame in range(total) if frame % step == 0]
    if len(candidates) > 16:
        spacing = (len(candidates) - 1) / 15  # linspace multiplies this, in float64, and sets the last value exactly
        return [candidates[int(k * spacing)] for k in range(15)] + [candidates[-1]]
    if len(candidates) == 16:
        return candidates
    m = min(16, total)
    if m == 1:
        return [0]
    stride = max(1, (total - 1) // (m - 1))
    return [k * stride for k in range(m)]


@pytest.mark.parametrize("fps", [0.0, 0.4, 0.5, 1.0, 1.5, 2.5, 7.5, 12.5, 23.976, 24, 25, 29.97, 30, 59.94, 120])
def test_pick_frames_follows_the_rule(fps):
    for total in [*range(1, 201), 383, 384, 385, 3_600, 86_313, 107_892]:
        picked = pick_frames(total, fps)
        assert picked == the_rule(total, fps), total
        assert len(picked) == min(16, total)
        assert picked == sorted(set(picked))
        assert picked[-1] < total
        assert all(type(index) is int for index in picked)


def test_exactly_sixteen_candidates_are_all_taken():
    assert pick_frames(15 * 24 + 1, 24) == pick_frames(16 * 24, 24) == list(range(0, 384, 24))
    assert pick_frames(16 * 24 + 1, 24)[:3] == [0, 24, 48]  # 17: the last gives way
    assert pick_frames(16 * 24 + 1, 24)[-1] == 384
    assert pick_frames(15 * 24, 24)[-1] == 15 * 23  # 15: an even stride instead


def test_a_clip_without_frames_is_refused():
    with pytest.raises(ValueError, match="at least one frame"):
        pick_frames(0, 24)


@pytest.mark.parametrize("stage", ENCODERS)
def test_pixels_are_the_release_s(stage):
    pixels, mean, std = ENCODERS[stage]
    frames = list(np.load(FIXTURES / "golden_tiny_0_frames.npy"))
    golden = np.load(FIXTURES / "golden_tiny_0.npz")[stage]
    values = Normalize(mean, std)(pixels(frames)).numpy().ravel()
    samples = values[np.linspace(0, values.size - 1, 4096).astype(np.int64)]
    assert np.abs(samples - golden).max() < 1e-5


@pytest.mark.parametrize("stage", ENCODERS)
def test_padding_frames_are_zero_after_normalisation(stage):
    pixels, mean, std = ENCODERS[stage]
    frames = [np.full((40, 60, 3), value, np.uint8) for value in (0, 128, 255)]
    values = pixels(frames)
    assert (values.shape, values.dtype) == ((FRAMES, 3, 224, 224), torch.float32)
    normalised = Normalize(mean, std)(values)
    assert normalised[3:].abs().max() < 1e-6
    expected = (torch.tensor([0.0, 128.0, 255.0])[:, None] / 255 - torch.tensor(mean)) / torch.tensor(std)
    assert torch.allclose(normalised[:3], expected[:, :, None, None].expand(3, 3, 224, 224), atol=1e-6)


SIZES = [(240, 320), (320, 240), (1080, 607), (97, 131), (131, 97), (224, 224), (225, 224), (8, 8), (3, 5), (8, 300), (301, 9)]


def picture(height: int, width: int) -> np.ndarray:
    """Smooth shapes and some grain, another in each channel."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y - 3 * x), np.sin(13 * x * y + 1)], axis=-1)
    grain = np.random.default_rng(height * width).normal(0, 12, waves.shape)
    return np.clip(128 + 90 * waves + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_clip_resizes_the_shortest_side_and_crops_the_centre(height, width):
    image = picture(height, width)
    short = min(height, width)
    size = [224 if side == short else int(224 * side / short) for side in (height, width)]
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized = F.interpolate(tensor, size=size, mode="bicubic", antialias=True).round().clamp(0, 255)[0]
    top, left = (size[0] - 224) // 2, (size[1] - 224) // 2
    difference = (clip_pixels([image])[0] - resized[:, top : top + 224, left : left + 224]).abs()
    assert difference.max() <= 1  # PIL resizes in two rounded passes


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_videomamba_squashes_without_antialiasing(height, width):
    image = picture(height, width)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    resized = F.interpolate(tensor, size=(224, 224), mode="bilinear", align_corners=False)[0]
    assert (videomamba_pixels([image])[0] - resized).abs().max() <= 1  # OpenCV's weights have 11 bits


def test_frames_stay_in_order_and_channels_stay_rgb():
    frames = [np.full((30, 50, 3), (10 * i, 5, 250), np.uint8) for i in range(16)]
    for pixels in (clip_pixels(frames), videomamba_pixels(frames)):
        assert pixels[:, 0, 100, 100].tolist() == [10.0 * i for i in range(16)]
        assert pixels[7, :, 0, 0].tolist() == [70.0, 5.0, 250.0]
