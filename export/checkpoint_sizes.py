"""A checkpoint's sizes: what its tensors' shapes tell, and what only its `config.json` does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.checkpoint_keys import HEAD, released_name
from export.checkpoint_places import Places
from export.config import (
    ETP,
    LINEAR,
    MLP,
    VIDEO_FRAME_POOL_SIDE,
    ClipConfig,
    DecoderConfig,
    ModelConfig,
    ProjectorConfig,
    VideoMambaConfig,
)
from export.errors import CheckpointError
from export.model.clip import HEAD_DIM as CLIP_HEAD_DIM
from export.model.prompt import END_OF_TURN
from export.tensor_files import read_json

MODEL_TYPE = "MobileVideoGPT"  # how the release's model_type begins: MobileVideoGPT_qwen
PROJECTOR_TYPE_KEYS = {"image_projector": "image_mm_projector_type", "video_projector": "mm_projector_type"}

Shapes = Mapping[str, tuple[int, ...]]  # by our names


def check_settings(settings: dict, where: str, also: str | None = None) -> None:
    """Refuse what we would compute wrongly; `also` is a second model_type that will do.

    Errors: `CheckpointError` naming the setting of config.json.
    """
    model_type = settings.get("model_type")
    if not (str(model_type).startswith(MODEL_TYPE) or also and model_type == also):
        raise CheckpointError(f"{where} is no Mobile-VideoGPT: its config.json has model_type {model_type}, expected {MODEL_TYPE}_qwen")
    rope_scaling = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    supported = {
        "hidden_act": settings.get("hidden_act", "silu") == "silu",
        "rope_scaling": isinstance(rope_scaling, dict) and rope_scaling.get("rope_type", rope_scaling.get("type", "default")) == "default",
        "use_sliding_window": not settings.get("use_sliding_window", False),
        "mm_vision_select_feature": settings.get("mm_vision_select_feature", "patch") == "patch",
    }
    for key, fine in supported.items():
        if not fine:
            raise CheckpointError(f"{where}: config.json sets {key} to {settings.get(key)}, which is not supported")


def infer(settings: dict, shapes: Shapes, kinds: Mapping[str, str], stop_ids: tuple[int, ...], places: Places) -> ModelConfig:
    """The sizes of a checkpoint.

    `shapes` are its tensors', by our names; `kinds` tells which kind of projector its names are of ("image_projector" ->
    "etp"), `places` where the parts come from. Errors: `CheckpointError` naming the tensor or the setting that is missing or does
    not fit.
    """
    clip = _clip(settings, shapes, places)
    videomamba = _videomamba(shapes, places)
    decoder = _decoder(settings, shapes, places)
    topk = settings.get("topk", True)
    if not isinstance(topk, bool):
        raise CheckpointError(f"config.json sets topk to {topk!r}: expected true or false")
    return ModelConfig(
        clip=clip,
        videomamba=videomamba,
        image_projector=_projector("image_projector", settings, shapes, kinds, clip.width, decoder.width),
        video_projector=_projector("video_projector", settings, shapes, kinds, videomamba.width, decoder.width),
        decoder=decoder,
        topk=topk,
        stop_ids=stop_ids,
    )


def stop_ids(settings: dict, folder: Path, tokenizer_file: Path | None) -> tuple[int, ...]:
    """End-of-text ids of config.json and generation_config.json and the tokenizer's end of turn, each once."""
    found: list[Any] = []
    generation = folder / "generation_config.json"
    for source in (settings, read_json(generation) if generation.is_file() else {}):
        eos = source.get("eos_token_id")
        found += eos if isinstance(eos, list) else [] if eos is None else [eos]
    if tokenizer_file is not None:
        added = read_json(tokenizer_file).get("added_tokens") or []
        found += [token["id"] for token in added if isinstance(token, dict) and token.get("content") == END_OF_TURN]
    if wrong := [token for token in found if type(token) is not int]:
        raise CheckpointError(f"{folder}: eos_token_id {wrong[0]!r} is no token id")
    return tuple(dict.fromkeys(found))


def _clip(settings: dict, shapes: Shapes, places: Places) -> ClipConfig:
    width, _, patch_size, _ = _shape(shapes, places, "image_encoder.patch_embedding.weight", "width, 3, patch, patch")
    if width % CLIP_HEAD_DIM:
        place = places["image_encoder"]
        raise CheckpointError(
            f"CLIP's width {width} in {place.title} is no multiple of {CLIP_HEAD_DIM}, the width of its heads: {place.advice}"
        )
    stored = _count(shapes, "image_encoder.layers")
    select = settings.get("mm_vision_select_layer", -2)
    if type(select) is not int or not -stored <= select + 1 <= stored:
        raise CheckpointError(f"config.json sets mm_vision_select_layer to {select!r}, but CLIP has {stored} layers")
    depth = select if select >= 0 else stored + 1 + select  # hidden_states[0] is the embedding, [-1] the last layer's output
    mlp_width, _ = _shape(shapes, places, "image_encoder.layers.0.fc1.weight", "mlp width, width")
    return ClipConfig(width=width, depth=depth, heads=width // CLIP_HEAD_DIM, mlp_width=mlp_width, patch_size=patch_size)


def _videomamba(shapes: Shapes, places: Places) -> VideoMambaConfig:
    scan = "video_encoder.layers.0.mixer.directions.0"
    width, _, patch_size, _ = _shape(shapes, places, "video_encoder.patch_embedding.weight", "width, 3, 1, patch, patch")
    d_inner, d_state = _shape(shapes, places, f"{scan}.A_log", "inner width, states")
    _, _, d_conv = _shape(shapes, places, f"{scan}.conv.weight", "inner width, 1, kernel")
    _, dt_rank = _shape(shapes, places, f"{scan}.dt_proj.weight", "inner width, rank")
    depth = _count(shapes, "video_encoder.layers")
    config = VideoMambaConfig(width, depth, d_inner, d_state, d_conv, dt_rank, patch_size)
    if config.grid == 0 or config.grid % VIDEO_FRAME_POOL_SIDE:
        place, pooled = places["video_encoder"], f"{VIDEO_FRAME_POOL_SIDE}x{VIDEO_FRAME_POOL_SIDE}"
        raise CheckpointError(
            f"VideoMamba's patches of {patch_size} pixels in {place.title} make no grid that pools to {pooled}: {place.advice}"
        )
    return config


def _decoder(settings: dict, shapes: Shapes, places: Places) -> DecoderConfig:
    width, heads = _number(settings, "hidden_size"), _number(settings, "num_attention_heads")
    kv_heads = _number(settings, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise CheckpointError(f"config.json: {heads} num_attention_heads do not divide among {kv_heads} num_key_value_heads")
    layers, stored = _number(settings, "num_hidden_layers"), _count(shapes, "decoder.layers")
    if stored and stored != layers:
        place = places["decoder"]
        raise CheckpointError(
            f"config.json sets num_hidden_layers to {layers}, but {place.title} stores {stored} decoder layers: {place.advice}"
        )
    tied = settings.get("tie_word_embeddings")
    rope = settings.get("rope_parameters") or {}
    return DecoderConfig(
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_number(settings, "head_dim", width // heads),
        ffn_width=_number(settings, "intermediate_size"),
        vocab=_number(settings, "vocab_size"),
        tied=HEAD not in shapes if tied is None else bool(tied),
        rope_theta=float(_number(settings, "rope_theta", rope.get("rope_theta", 1e6), float)),
        rms_norm_eps=float(_number(settings, "rms_norm_eps", 1e-6, float)),
        max_positions=_number(settings, "max_position_embeddings", 32768),
    )


def _projector(part: str, settings: dict, shapes: Shapes, kinds: Mapping[str, str], in_width: int, out_width: int) -> ProjectorConfig:
    key = PROJECTOR_TYPE_KEYS[part]
    kind, depth = kinds.get(part, ETP), _count(shapes, f"{part}.mlp.linears")
    if settings.get(key) is not None:
        said = str(settings[key])
        counted = re.fullmatch(r"mlp(\d+)x_gelu", said)
        if not counted and said not in (ETP, LINEAR):
            raise CheckpointError(f"config.json sets {key} to {said}: supported are {ETP}, {LINEAR} and mlpNx_gelu")
        if part in kinds and kind != (MLP if counted else said):
            raise CheckpointError(f"config.json sets {key} to {said}, but the checkpoint's projector tensors are those of {kind}")
        kind, depth = (MLP, int(counted[1])) if counted else (said, depth)
    return ProjectorConfig(kind, {ETP: 2, LINEAR: 1}.get(kind, depth), in_width, out_width)


def _shape(shapes: Shapes, places: Places, name: str, expected: str) -> tuple[int, ...]:
    """The shape of our tensor `name`; `expected` words the stored one, which `our_shape` may have made shorter."""
    place, (released, rule) = places[name.split(".")[0]], released_name(name, ETP)
    if name not in shapes:
        raise CheckpointError(f"{place.title} lacks {released}: {place.advice}")
    if len(shapes[name]) != len(expected.split(", ")) - rule.conv3d:
        raise CheckpointError(f"in {place.title}, {released} is {list(shapes[name])}, expected [{expected}]: {place.advice}")
    return shapes[name]


def _count(shapes: Shapes, prefix: str) -> int:
    """How many layers there are below `prefix`: one more than the highest number, so that a gap is a missing tensor."""
    return 1 + max((int(name[len(prefix) + 1 :].split(".")[0]) for name in shapes if name.startswith(prefix + ".")), default=-1)


def _number(settings: dict, key: str, default: float | None = None, kind: type = int) -> Any:
    value = settings[key] if settings.get(key) is not None else default
    if value is None:
        raise CheckpointError(f"config.json has no {key}: take the config.json that belongs to the checkpoint")
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or value <= 0:
        raise CheckpointError(f"config.json sets {key} to {value!r}: expected a positive number")
    return value
