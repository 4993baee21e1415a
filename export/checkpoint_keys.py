"""The released names of Mobile-VideoGPT's tensors, ours, and the names that are dropped with their reasons.

A rule pairs two templates and works in both directions. In them `{i}` is a layer's number, `{w}` is `weight` or `bias`,
`{p}` one of the projections that keep their name, and `{2i}` a number that the release counts double (a Sequential with an
activation after each linear).
"""

from __future__ import annotations

import dataclasses
import functools
import re

from torch import Tensor

from export.config import ETP, LINEAR, MLP

PLACEHOLDERS = {"i": r"\d+", "2i": r"\d*[02468]", "w": "weight|bias", "p": "q|k|v|o|gate|up|down"}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")

CLIP = "model.image_vision_tower.vision_tower.vision_model"
VIDEOMAMBA = "model.vision_tower.vision_encoder"
TIED_HEAD, HEAD = "lm_head.weight", "decoder.head.weight"
EMBEDDING = "token_embedding.weight"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of the key table: the release's template and ours.

    `conv3d`: the release stores a convolution over (time, height, width) whose time kernel is 1; ours is per frame.
    `projector_kind`: the kind of projector that the release stores under this name, None for other tensors.
    """

    released: str
    ours: str
    conv3d: bool = False
    projector_kind: str | None = None


def _projector(released: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{released}.mlp.mlp.{{2i}}.{{w}}", f"{ours}.mlp.linears.{{i}}.{{w}}", projector_kind=ETP),
        Rule(f"{released}.peg.peg.0.{{w}}", f"{ours}.position.{{w}}", projector_kind=ETP),
        Rule(f"{released}.{{2i}}.{{w}}", f"{ours}.mlp.linears.{{i}}.{{w}}", projector_kind=MLP),
        Rule(f"{released}.{{w}}", f"{ours}.mlp.linears.0.{{w}}", projector_kind=LINEAR),
    ]


def _scan_direction(suffix: str, direction: int) -> list[Rule]:
    mixer, ours = f"{VIDEOMAMBA}.layers.{{i}}.mixer", f"video_encoder.layers.{{i}}.mixer.directions.{direction}"
    return [
        Rule(f"{mixer}.A{suffix}_log", f"{ours}.A_log"),
        Rule(f"{mixer}.D{suffix}", f"{ours}.D"),
        Rule(f"{mixer}.conv1d{suffix}.{{w}}", f"{ours}.conv.{{w}}"),
        Rule(f"{mixer}.x_proj{suffix}.weight", f"{ours}.x_proj.weight"),
        Rule(f"{mixer}.dt_proj{suffix}.{{w}}", f"{ours}.dt_proj.{{w}}"),
    ]


RULES: list[Rule] = [
    Rule("model.embed_tokens.weight", EMBEDDING),
    Rule("model.layers.{i}.self_attn.{p}_proj.{w}", "decoder.layers.{i}.attention.{p}_proj.{w}"),
    Rule("model.layers.{i}.mlp.{p}_proj.weight", "decoder.layers.{i}.ffn.{p}_proj.weight"),
    Rule("model.layers.{i}.input_layernorm.weight", "decoder.layers.{i}.attention_norm.weight"),
    Rule("model.layers.{i}.post_attention_layernorm.weight", "decoder.layers.{i}.ffn_norm.weight"),
    Rule("model.norm.weight", "decoder.norm.weight"),
    Rule(TIED_HEAD, HEAD),
    *_projector("model.image_mm_projector", "image_projector"),
    *_projector("model.mm_projector", "video_projector"),
    Rule(f"{CLIP}.embeddings.class_embedding", "image_encoder.class_embedding"),
    Rule(f"{CLIP}.embeddings.patch_embedding.weight", "image_encoder.patch_embedding.weight"),
    Rule(f"{CLIP}.embeddings.position_embedding.weight", "image_encoder.position_embedding"),
    Rule(f"{CLIP}.pre_layrnorm.{{w}}", "image_encoder.pre_norm.{w}"),
    Rule(f"{CLIP}.encoder.layers.{{i}}.self_attn.out_proj.{{w}}", "image_encoder.layers.{i}.attention.out_proj.{w}"),
    Rule(f"{CLIP}.encoder.layers.{{i}}.self_attn.{{p}}_proj.{{w}}", "image_encoder.layers.{i}.attention.{p}_proj.{w}"),
    Rule(f"{CLIP}.encoder.layers.{{i}}.layer_norm{{i}}.{{w}}", "image_encoder.layers.{i}.norm{i}.{w}"),
    Rule(f"{CLIP}.encoder.layers.{{i}}.mlp.fc{{i}}.{{w}}", "image_encoder.layers.{i}.fc{i}.{w}"),
    Rule(f"{VIDEOMAMBA}.cls_token", "video_encoder.class_token"),
    Rule(f"{VIDEOMAMBA}.pos_embed", "video_encoder.position_embedding"),
    Rule(f"{VIDEOMAMBA}.temporal_pos_embedding", "video_encoder.temporal_position_embedding"),
    Rule(f"{VIDEOMAMBA}.patch_embed.proj.weight", "video_encoder.patch_embedding.weight", conv3d=True),
    Rule(f"{VIDEOMAMBA}.patch_embed.proj.bias", "video_encoder.patch_embedding.bias"),
    *_scan_direction("", 0),
    *_scan_direction("_b", 1),
    Rule(f"{VIDEOMAMBA}.layers.{{i}}.mixer.in_proj.weight", "video_encoder.layers.{i}.mixer.in_proj.weight"),
    Rule(f"{VIDEOMAMBA}.layers.{{i}}.mixer.out_proj.weight", "video_encoder.layers.{i}.mixer.out_proj.weight"),
    Rule(f"{VIDEOMAMBA}.layers.{{i}}.norm.weight", "video_encoder.layers.{i}.norm.weight"),
    Rule(f"{VIDEOMAMBA}.norm.weight", "video_encoder.norm.weight"),
]

UNREACHED_CLIP = "not reached: CLIP stops before it (mm_vision_select_layer)"
TIED = "tied to the token embedding (tie_word_embeddings)"
DROPPED: list[tuple[str, str]] = [  # (pattern of the whole released name, reason)
    (rf"{VIDEOMAMBA}\.clip_decoder\..+", "VideoMamba's pre-training only"),
    (r"(text_encoder|vision_proj|text_proj|itm_head)\..+|temp", "the text side of VideoMamba's pre-training"),
    (rf"{CLIP}\.post_layernorm\.(weight|bias)", UNREACHED_CLIP),
    (r"(.+\.)?position_ids", "counts 0, 1, 2, ...; computed where it is needed"),
    (r"text_model\..+", "CLIP's text side"),
    (r"logit_scale", "CLIP's text side"),
    (r"(text|visual)_projection\.weight", "CLIP's comparison of text and image"),
    (r".+\.rotary_emb\.inv_freq", "rotary frequencies; computed from rope_theta"),
]


def our_name(released: str) -> tuple[str, Rule] | None:
    """Our name of a released tensor and the rule that gives it, or None for an unknown name."""
    for rule in RULES:
        if found := _translate(released, rule.released, rule.ours):
            return found, rule
    return None


def released_name(ours: str, projector_kind: str) -> tuple[str, Rule]:
    """The released name of one of our tensors, and its rule. A projector's names depend on its kind."""
    for rule in RULES:
        if rule.projector_kind in (None, projector_kind) and (found := _translate(ours, rule.ours, rule.released)):
            return found, rule
    raise KeyError(ours)


def reason_dropped(released: str) -> str | None:
    """Why a released tensor is not used, or None."""
    return next((reason for pattern, reason in DROPPED if re.fullmatch(pattern, released)), None)


def to_ours(tensor: Tensor, rule: Rule) -> Tensor:
    return tensor.squeeze(2) if rule.conv3d else tensor  # [C, 3, 1, P, P] -> [C, 3, P, P]


def to_released(tensor: Tensor, rule: Rule) -> Tensor:
    return tensor.unsqueeze(2) if rule.conv3d else tensor


def our_shape(shape: tuple[int, ...], rule: Rule) -> tuple[int, ...]:
    """The shape after `to_ours`; one that it does not fit stays, and is reported as the wrong shape it is."""
    return shape[:2] + shape[3:] if rule.conv3d and len(shape) == 5 and shape[2] == 1 else shape


def _translate(name: str, template: str, into: str) -> str | None:
    """`name`, which must match `template`, rewritten to the other template; placeholders correspond in their order."""
    match = _pattern(template).fullmatch(name)
    if match is None:
        return None
    values = iter(zip(_PLACEHOLDER.findall(template), match.groups()))

    def fill(placeholder: re.Match) -> str:
        kind, value = next(values)
        if kind == placeholder[1]:
            return value
        return str(int(value) // 2 if kind == "2i" else int(value) * 2)

    return _PLACEHOLDER.sub(fill, into)


@functools.cache
def _pattern(template: str) -> re.Pattern:
    parts = _PLACEHOLDER.split(template)  # text and placeholders' names by turns
    return re.compile("".join(f"({PLACEHOLDERS[part]})" if i % 2 else re.escape(part) for i, part in enumerate(parts)))
