"""The sizes of a checkpoint, parsed once into one frozen dataclass that the bundle keeps.

Every size comes from the checkpoint's tensors and its `config.json` (see `export/checkpoint.py`); what the release fixes in
code (16 frames, 8 key frames, 224x224, pooling grids) stands here as constants.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Literal

FRAMES = 16  # frames the image encoder sees
CHUNKS = 2  # scoring is done within chunks ...
CHUNK_FRAMES = FRAMES // CHUNKS  # ... of 8 frames
CHUNK_KEY_FRAMES = 4  # of which the 4 best are key frames
KEY_FRAMES = CHUNKS * CHUNK_KEY_FRAMES  # frames the video encoder sees
MAX_CONTEXT = 4096  # tokens that a cache holds unless a bundle is built with another --max-context
IMAGE_SIZE = 224  # pixels, both sides
IMAGE_TOKENS_PLACEHOLDER = -200  # id in a prompt; a run of it stands for all visual tokens

IMAGE_POOL_SIDE = 12  # ET-Proj pools the 14x14 image grid to 12x12
VIDEO_FRAME_POOL_SIDE = 7  # each key frame's 14x14 grid is averaged 2x2 to 7x7 before the projector
VIDEO_POOL_SIDE = 7  # ET-Proj pools a chunk's 4 x 49 tokens, read as a 14x14 grid, to 7x7

ETP, LINEAR, MLP = "etp", "linear", "mlp"  # projector kinds

# The graphs of a bundle, and the parts of the model that they are made from.
GraphName = Literal["image_encoder", "frame_scorer", "video_encoder", "image_projector", "video_projector", "token_embedding", "decoder"]
GRAPHS: tuple[str, ...] = typing.get_args(GraphName)


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """CLIP vision tower. `depth` counts the layers that run: `hidden_states[-2]` leaves the last one out."""

    width: int
    depth: int
    heads: int  # width / 64: no tensor holds it
    mlp_width: int
    patch_size: int
    layer_norm_eps: float = 1e-5

    @property
    def grid(self) -> int:
        return IMAGE_SIZE // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid**2


@dataclasses.dataclass(frozen=True)
class VideoMambaConfig:
    """VideoMamba encoder: bidirectional Mamba-1 blocks over a class token and 8 frames of patches."""

    width: int
    depth: int
    d_inner: int
    d_state: int
    d_conv: int
    dt_rank: int
    patch_size: int
    rms_norm_eps: float = 1e-5

    @property
    def grid(self) -> int:
        return IMAGE_SIZE // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid**2

    @property
    def sequence(self) -> int:
        """Tokens of one scan: the class token and the patches of 8 frames."""
        return 1 + KEY_FRAMES * self.patches


@dataclasses.dataclass(frozen=True)
class ProjectorConfig:
    """`kind` is `etp`, `linear` or `mlp`; `depth` counts the linears of an `mlpNx_gelu` (2 for etp, 1 for linear)."""

    kind: str
    depth: int
    in_width: int
    out_width: int


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Qwen2 decoder."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    vocab: int
    tied: bool
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    max_positions: int = 32768


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """All sizes of one Mobile-VideoGPT checkpoint, and the two switches of its `config.json`."""

    clip: ClipConfig
    videomamba: VideoMambaConfig
    image_projector: ProjectorConfig
    video_projector: ProjectorConfig
    decoder: DecoderConfig
    topk: bool = True  # the release's load-time option: False takes the lowest scores as key frames
    stop_ids: tuple[int, ...] = ()

    @property
    def image_tokens_per_frame(self) -> int:
        return IMAGE_POOL_SIDE**2 if self.image_projector.kind == ETP else self.clip.patches

    @property
    def video_tokens_per_chunk(self) -> int:
        pooled = CHUNK_KEY_FRAMES * VIDEO_FRAME_POOL_SIDE**2
        return VIDEO_POOL_SIDE**2 if self.video_projector.kind == ETP else pooled

    @property
    def visual_tokens(self) -> int:
        """Tokens that replace the placeholders: 2,402 in the release."""
        return FRAMES * self.image_tokens_per_frame + CHUNKS * self.video_tokens_per_chunk

    def to_json(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict) -> ModelConfig:
        return cls(
            clip=ClipConfig(**data["clip"]),
            videomamba=VideoMambaConfig(**data["videomamba"]),
            image_projector=ProjectorConfig(**data["image_projector"]),
            video_projector=ProjectorConfig(**data["video_projector"]),
            decoder=DecoderConfig(**data["decoder"]),
            topk=data["topk"],
            stop_ids=tuple(data["stop_ids"]),
        )
