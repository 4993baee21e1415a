"""Where the parts of a checkpoint come from: what an error calls the file or folder at fault, and says to do about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from export.config import GRAPHS


@dataclasses.dataclass(frozen=True)
class Place:
    """A source of tensors. `title` stands in a sentence ("the checkpoint DIR"), `advice` ends one ("download it again")."""

    title: str
    advice: str


Places = Mapping[str, Place]  # by our names of the parts: "image_encoder", ..., "decoder"


def in_checkpoint(folder: Path) -> dict[str, Place]:
    """Everything from one folder in released layout."""
    return dict.fromkeys(GRAPHS, Place(f"the checkpoint {folder}", "download it again, or take the config.json that belongs to it"))


def in_fine_tune(folder: Path, base: Path, brings_projectors: bool) -> dict[str, Place]:
    """A LoRA fine-tune's parts: merged from it and its base, but for the projectors that it brings whole."""
    merged = Place(f"the base {base} with the fine-tune {folder}", "give --base the model that the fine-tune was trained on")
    places = dict.fromkeys(GRAPHS, merged)
    if brings_projectors:
        projectors = Place(f"the fine-tune {folder}", "take the config.json and the non_lora_trainables.bin of the same training")
        places |= {"image_projector": projectors, "video_projector": projectors}
    return places
