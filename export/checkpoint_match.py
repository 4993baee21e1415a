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
from export.checkpoint_places import Place, Places
from export.config import ETP, ModelConfig
from export.errors import CheckpointError
from export.model.mobile_videogpt import MobileVideoGPT
from export.tensor_files import StoredTensor, fetch, read_tensors

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NAMES_SHOWN = 4  # of the tensors that an error is about
CLIP_LAYER = re.compile(r"image_encoder\.layers\.(\d+)\..+")


@dataclasses.dataclass(frozen=True)
class Found:
    """A stored tensor under its released name. `label` is its name in `place`, behind its file's where that was named."""

    label: str
    released: str
    stored: StoredTensor
    place: Place


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
    part: str  # by our name
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
    VisionGroup("CLIP", "image_encoder", "--clip", CLIP, "openai/clip-vit-base-patch16", None, _clip_name),
    VisionGroup(
        "VideoMamba",
        "video_encoder",
        "--videomamba",
        VIDEOMAMBA,
        "OpenGVLab/VideoMamba",
        "videomamba_m16_25M_f8_res224.pth",
        _videomamba_name,
    ),
)


def with_vision(
    found: list[Found], group: VisionGroup, named: str | Path | None, dropped: dict[str, str], places: dict[str, Place]
) -> list[Found]:
    """`found` with the group's tensors from the file that the user named, else the checkpoint's own, else the release's source.

    Fills `dropped` with what is replaced, and `places` with the group's.
    """
    own = [tensor for tensor in found if tensor.released.startswith(group.prefix + ".")]
    if own and named is None:
        return found
    if named is None:
        advice = f"name the {group.title} weights, which the checkpoint lacks, with {group.option}"
    else:
        advice = f"give {group.option} a weights file, a folder of weights or a hub id"
    path = fetch(named or group.hub_id, f"{group.title} source", advice, group.hub_file)
    place = Place(f"the {group.title} source {path}", f"give {group.option} other weights, such as the release's {group.hub_id}")
    named_tensors = [Found(f"{path.name}/{name}", group.rename(name), stored, place) for name, stored in read_tensors(path).items()]
    if not any(our_name(tensor.released) and tensor.released.startswith(group.prefix + ".") for tensor in named_tensors):
        takes = f"{group.option} takes a weights file, a folder of weights or a hub id"
        raise CheckpointError(f"{path} holds no {group.title} weights: {takes}, such as {group.hub_id}")
    places[group.part] = place
    dropped |= {tensor.label: f"replaced by {path} ({group.option})" for tensor in own}
    return [tensor for tensor in found if tensor not in own] + named_tensors


def assign(found: Iterable[Found], dropped: dict[str, str]) -> tuple[dict[str, Source], list[Found]]:
    """Translate names by the table: sources by our names, and the tensors that no rule knows. Fills `dropped`."""
    sources: dict[str, Source] = {}
    unknown = []
    for tensor in found:
        translated = our_name(tensor.released)
        if reason := reason_dropped(tensor.released):
            dropped[tensor.label] = reason
        elif translated is None:
            unknown.append(tensor)
        else:
            ours, rule = translated
            if ours in sources:
                raise CheckpointError(f"{sources[ours].label} and {tensor.label} are the same tensor: remove one of them")
            sources[ours] = Source(tensor.label, tensor.stored, rule)
    return sources, unknown


def check(
    config: ModelConfig, sources: dict[str, Source], unknown: list[Found], dropped: dict[str, str], places: Places
) -> dict[str, Source]:
    """The sources that make up a model of these sizes; the rest goes to `dropped`.

    Errors: `CheckpointError` naming the tensors that are missing, left over, of another shape or not of floats, and where.
    """
    _check_widths(config, sources, places)
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in MobileVideoGPT(config).state_dict().items()}
    if config.decoder.tied:
        del expected[HEAD]
    faults = {place: Faults() for place in [*places.values(), *(tensor.place for tensor in unknown)]}
    for tensor in unknown:
        faults[tensor.place].unknown.append(tensor.label)
    used = {}
    for name, source in sources.items():
        layer, at_fault = CLIP_LAYER.fullmatch(name), faults[_place(places, name)]
        if name in expected:
            used[name] = source
            if source.shape != expected[name]:
                at_fault.misshaped.append(f"{source.label} is {list(source.stored.shape)}, expected {_stored(expected[name], source.rule)}")
            if source.dtype not in FLOATS:
                at_fault.no_floats.append(f"{source.label} {source.dtype}")
        elif layer and int(layer[1]) >= config.clip.depth:
            dropped[source.label] = UNREACHED_CLIP
        elif name == HEAD:
            dropped[source.label] = TIED
        else:
            at_fault.unknown.append(source.label)
    kinds = {"image_projector": config.image_projector.kind, "video_projector": config.video_projector.kind}
    for name in expected.keys() - used.keys():
        faults[_place(places, name)].missing.append(released_name(name, kinds.get(name.split(".")[0], ETP))[0])
    complaints = [f"in {place.title}, {told}: {place.advice}" for place, found in faults.items() if (told := found.told())]
    if complaints:
        raise CheckpointError("; ".join(complaints))
    return used


@dataclasses.dataclass
class Faults:
    """What is wrong with the tensors of one place."""

    missing: list[str] = dataclasses.field(default_factory=list)
    unknown: list[str] = dataclasses.field(default_factory=list)
    misshaped: list[str] = dataclasses.field(default_factory=list)
    no_floats: list[str] = dataclasses.field(default_factory=list)

    def told(self) -> str:
        """In words, "" where there is nothing."""
        words = {"missing": self.missing, "unknown": self.unknown, "not of floats": self.no_floats}
        told = [f"{_names(names)} {problem}" for problem, names in words.items() if names]
        if self.misshaped:
            more = f" (and {len(self.misshaped) - 1} more of the wrong shape)" if len(self.misshaped) > 1 else ""
            told.append(f"{min(self.misshaped)}{more}")
        return "; ".join(told)


def _check_widths(config: ModelConfig, sources: dict[str, Source], places: Places) -> None:
    """An encoder of another size than the checkpoint's projector was trained on is the encoder's fault, where it came separately."""
    for encoder, projector, width in (
        ("image_encoder", "image_projector", config.clip.width),
        ("video_encoder", "video_projector", config.videomamba.width),
    ):
        first, place = sources.get(f"{projector}.mlp.linears.0.weight"), places[encoder]
        if first and place != places[projector] and len(first.shape) == 2 and first.shape[1] != width:
            takes = f"{places[projector].title} takes {first.shape[1]}"
            raise CheckpointError(f"{place.title} gives features of width {width}, but the projector of {takes}: {place.advice}")


def _place(places: Places, name: str) -> Place:
    return places[name.split(".")[0]]


def _stored(shape: tuple[int, ...], rule: Rule) -> list[int]:
    """What `our_shape` took out, put back: the shape that a file should have."""
    return [*shape[:2], 1, *shape[2:]] if rule.conv3d else list(shape)


def _names(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown
