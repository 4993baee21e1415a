"""A clip that is published as a folder of pictures, as MVBench's episodic_reasoning is (TVQA, three frames a second)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from export.config import FRAMES
from export.errors import VideoError
from export.model.preprocess import pick_frames

PER_SECOND = 3.0
SUFFIXES = (".jpg", ".jpeg", ".png")


def read_folder(folder: Path, start_s: float | None = None, end_s: float | None = None, frames: int = FRAMES) -> list[np.ndarray]:
    """Sample up to `frames` pictures, by the release's rule, from those with start_s <= time < end_s: uint8 RGB [H, W, 3] each. Pictures
    follow each other by name, PER_SECOND.

    Raises:
        VideoError: there is none in the span, or one cannot be read.
    """
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    span = [
        path for i, path in enumerate(pictures)
        if (start_s is None or i / PER_SECOND >= start_s) and (end_s is None or i / PER_SECOND < end_s)
    ]  # fmt: skip
    if not span:
        raise VideoError(f"{folder} holds {len(pictures)} pictures, {PER_SECOND:g} a second, and none of the span: give a folder of frames")
    try:
        return [np.asarray(Image.open(span[i]).convert("RGB")) for i in pick_frames(len(span), PER_SECOND, frames)]
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise VideoError(f"a picture of {folder} cannot be read ({error}): copy the folder again") from error
