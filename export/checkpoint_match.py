"""From stored tensors to ours: which file each comes from, under which name, and that none is missing or left over."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from export.checkpoint_keys import (
    CLIP,
    HEAD,
    TIED,
    UNREACHED_CLIP,
    VIDEOMAMBA,
    Rule,
    our_name,
    our_shape,
    reason_dropped,
    released_name,
    to_ours,
)
from export.config import ETP, ModelConfig
from export.errors import CheckpointError
from export.model.mobile_videogpt import MobileVideoGPT
from export.tensor_files import StoredTensor, fetch, read_tensors

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NAMES_SHOWN = 4  # of the tensors that an error is about
CLIP_LAYER = re.compile(r"image_encoder\.layers\.(\d+)\..+")


@dataclasses.dataclass(frozen=True)
class Found:
    """A stored tensor under its released name. `label` says where it is: its name, behind its file's where that was named."""

    label: str
    released: str
    stored: StoredTensor


@dataclasses.dataclass(frozen=True)
class Source:
    """A stored tensor that becomes one of ours by a rule of the key table."""

    label: str
    stored: StoredTensor
    rule: Rule

    @property
    def dtype(self) -> torch.dtype:
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return our_shape(self.stored.shape, self.rule)

    def read(self) -> Tensor:
        """The values, in our shape and the stored dtype."""
        return to_ours(self.stored.read(), self.rule)


@dataclasses.dataclass(frozen=True)
class VisionGroup:
    """One of the frozen encoders: where it stands in a checkpoint, and where the release takes it from otherwise."""

    title: str
    option: str  # of the command line
    prefix: str  # of its released names
    hub_id: str
    hub_file: str | None
    rename: Callable[[str], str]  # name in a file of its own -> released name


def _clip_name(name: str) -> str:
    vision = r"((model\.)?image_vision_tower\.)?(vision_tower\.)?(vision_model\.)?((embeddings|pre_layrnorm|encoder|post_layernorm)\..+)"
    match = re.fullmatch(vision, name)
    return f"{CLIP}.{match[5]}" if match else name


def _videomamba_name(name: str) -> str:
    if reason_dropped(name):
        return name
    return f"{VIDEOMAMBA}." + re.sub(r"^(model\.vision_tower\.)?vision_encoder\.", "", name)


VISION_GROUPS = (
    VisionGroup("CLIP", "--clip", CLIP, "openai/clip-vit-base-patch16", None, _clip_name),
    VisionGroup(
        "VideoMamba", "--videomamba", VIDEOMAMBA, "OpenGVLab/VideoMamba", "videomamba_m16_25M_f8_res224.pth", _videomamba_name
    ),
)


def with_vision(found: list[Found], group: VisionGroup, named: str | Path | None, dropped: dict[str, str]) -> list[Found]:
    """`found` with the group's tensors from the file that the user named, else the checkpoint's own, else the release's source."""
    own = [tensor for tensor in found if tensor.released.startswith(group.prefix + ".")]
    if own and named is None:
        return found
    if named is None:
        advice = f"the checkpoint has no {group.title} weights, so name them with {group.option}"
    else:
        advice = f"{group.option} takes a weights file, a folder of weights or a hub id"
    path = fetch(named or group.hub_id, f"{group.title} source", advice, group.hub_file)
    named_tensors = [Found(f"{path.name}/{name}", group.rename(name), stored) for name, stored in read_tensors(path).items()]
    if not any(tensor.released.startswith(group.prefix + ".") for tensor in named_tensors):
        raise CheckpointError(f"{path} holds no {group.title} weights: {advice}")
    dropped |= {tensor.label: f"replaced by {path} ({group.option})" for tensor in own}
    return [tensor for tensor in found if tensor not in own] + named_tensors


def assign(found: Iterable[Found], dropped: dict[str, str]) -> tuple[dict[str, Source], list[str]]:
    """Translate names by the table: sources by our names, and the labels that no rule knows. Fills `dropped`."""
    sources: dict[str, Source] = {}
    unknown = []
    for tensor in found:
        translated = our_name(tensor.released)
        if reason := reason_dropped(tensor.released):
            dropped[tensor.label] = reason
        elif translated is None:
            unknown.append(tensor.label)
        else:
            ours, rule = translated
            if ours in sources:
                raise CheckpointError(f"{sources[ours].label} and {tensor.label} are the same tensor: remove one of them")
            sources[ours] = Source(tensor.label, tensor.stored, rule)
    return sources, unknown


def check(config: ModelConfig, sources: dict[str, Source], unknown: list[str], dropped: dict[str, str]) -> dict[str, Source]:
    """The sources that make up a model of these sizes; the rest goes to `dropped`.

    Errors: `CheckpointError` naming the tensors that are missing, left over, of another shape or not of floats.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in MobileVideoGPT(config).state_dict().items()}
    if config.decoder.tied:
        del expected[HEAD]
    unknown, used = list(unknown), {}
    for name, source in sources.items():
        layer = CLIP_LAYER.fullmatch(name)
        if name in expected:
            used[name] = source
        elif layer and int(layer[1]) >= config.clip.depth:
            dropped[source.label] = UNREACHED_CLIP
        elif name == HEAD:
            dropped[source.label] = TIED
        else:
            unknown.append(source.label)
    kinds = {"image_projector": config.image_projector.kind, "video_projector": config.video_projector.kind}
    missing = [released_name(name, kinds.get(name.split(".")[0], ETP))[0] for name in expected.keys() - used.keys()]
    misshaped = [f"{s.label} {list(s.stored.shape)}" for name, s in used.items() if s.shape != expected[name]]
    no_floats = [f"{s.label} {s.dtype}" for s in used.values() if s.dtype not in FLOATS]
    problems = {"missing": missing, "unknown": unknown, "of the wrong shape": misshaped, "not of floats": no_floats}
    if any(problems.values()):
        told = "; ".join(f"{_names(names)} {problem}" for problem, names in problems.items() if names)
        raise CheckpointError(f"the tensors are not those of Mobile-VideoGPT with this config.json: {told}")
    return used


def _names(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown
