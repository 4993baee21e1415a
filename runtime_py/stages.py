"""The stages of Mobile-VideoGPT, from pixels to greedy ids, on any backend.

One function computes them all; what a stage passes on can be replaced (`feed`), which is how parity tells a graph's own error
(fed with the reference's inputs) from the chained one. Names and shapes are those of the golden files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from export.config import CHUNK_FRAMES, CHUNKS, KEY_FRAMES, ModelConfig
from export.errors import PromptError
from export.model.frame_scorer import select_key_frames
from export.model.preprocess import CLIP_MEAN, CLIP_STD, VIDEOMAMBA_MEAN, VIDEOMAMBA_STD, Normalize, clip_pixels, videomamba_pixels
from export.model.projector import pool_video_tokens
from export.model.prompt import split_at_visual_tokens
from runtime_py.backends.base import GraphBackend

STAGES = (
    "pixel_clip",
    "pixel_video",
    "clip_patch_features",
    "frame_scores",
    "selected_frames",
    "videomamba_tokens",
    "pooled_video_features",
    "image_tokens",
    "video_tokens",
    "inputs_embeds",
    "last_logits",
    "greedy_ids",
)
VISION = ("image_encoder", "frame_scorer", "video_encoder", "image_projector", "video_projector")  # what `visual_tokens` runs
GREEDY_STEPS = 24  # decoded in parity and dump
SHORT = (65, 3)  # tokens of beginnings that are prefilled alone: more than one question's, and few

Record = Callable[[str, Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Pixels:
    """What the encoders read: [16, 3, 224, 224] float32 RGB in 0..255 each."""

    clip: Tensor
    video: Tensor

    @classmethod
    def of(cls, frames: Sequence[np.ndarray]) -> Pixels:
        """Resize uint8 RGB frames [H, W, 3], at most 16, as the release does."""
        return cls(clip_pixels(frames), videomamba_pixels(frames))


def passed_on(name: str, value: Tensor) -> Tensor:
    """The plain recorder: nobody looks, everything is passed on as it is."""
    return value


def visual_tokens(backend: GraphBackend, pixels: Pixels, record: Record = passed_on) -> Tensor:
    """The tokens that replace the placeholders: image tokens in frame order, then video tokens, [V, D].

    `record(name, value)` sees each stage in its golden shape's layout and returns what is passed on.
    """
    config = backend.config
    features = record("clip_patch_features", backend.run("image_encoder", pixels.clip))  # [16, P, C]
    chunks = features.reshape(CHUNKS, CHUNK_FRAMES, *features.shape[1:])
    scores = record("frame_scores", backend.run("frame_scorer", chunks))  # [2, 8]
    selected = record("selected_frames", select_key_frames(scores, config.topk))  # [2, 4]
    key_frames = pixels.video.reshape(CHUNKS, CHUNK_FRAMES, *pixels.video.shape[1:])
    key_frames = torch.cat([chunk[picks] for chunk, picks in zip(key_frames, selected)])  # [8, 3, 224, 224]
    encoded = backend.run("video_encoder", key_frames[None])
    tokens = record("videomamba_tokens", encoded)  # [8, P, C]
    record("pooled_video_features", pool_video_tokens(encoded.float(), config.videomamba.grid))  # to look at: the graph pools itself
    image = record("image_tokens", backend.run("image_projector", features))
    video = record("video_tokens", backend.run("video_projector", tokens))
    return torch.cat([image, video])


def prompt_embeds(backend: GraphBackend, ids: Sequence[int], visual: Tensor) -> Tensor:
    """Embeddings of a prompt whose run of placeholders becomes the visual tokens: [N, D]."""
    before, after = split_at_visual_tokens(ids)
    parts = [embed(backend, before)] if before else []
    parts.append(visual)
    if after:  # a graph takes no empty list of ids
        parts.append(embed(backend, after))
    return torch.cat(parts)


def embed(backend: GraphBackend, ids: Sequence[int]) -> Tensor:
    """Embeddings [N, D] of text ids.

    Raises:
        PromptError: an id outside the vocabulary.
    """
    check_vocabulary(backend, ids)
    return backend.run("token_embedding", torch.tensor(list(ids), dtype=torch.int64))


def check_vocabulary(backend: GraphBackend, ids: Sequence[int]) -> None:
    """Raise PromptError for an id that the embedding table does not hold."""
    vocabulary = backend.config.decoder.vocab
    outside = [token for token in ids if not 0 <= token < vocabulary]
    if outside:
        raise PromptError(f"id {outside[0]} is outside the vocabulary of {vocabulary}: tokenize with the checkpoint's own tokenizer")


def fits(backend: GraphBackend, position: int, new: int, room: int = 1) -> bool:
    """Whether `new` tokens behind `position` leave room for so many tokens of answer."""
    return position + new + room <= backend.max_context


def check_fits(backend: GraphBackend, position: int, new: int) -> None:
    """Raise PromptError where `fits` does not hold."""
    if not fits(backend, position, new):
        raise PromptError(
            f"{new} tokens {f'after {position} ' if position else ''}do not fit the context of {backend.max_context} tokens, "
            f"of which the video takes {backend.config.visual_tokens}: "
            "ask a shorter question, start a new conversation, or build with a larger --max-context"
        )


@dataclasses.dataclass
class Stages:
    """Every stage as float32 (ids: int64) on the CPU, in the shapes of the golden files.

    `step_logits` holds the logits [V] of each greedy step; those of the same tokens fed at once behind the prompt, as a second
    question would be, which equal the last step's; and those of short beginnings of the prompt (SHORT), each alone in the cache, the
    last with one more token decoded. Among thousands of tokens a wrong mask hides, among three it does not.
    """

    values: dict[str, Tensor]
    step_logits: list[Tensor]


def compute_stages(
    backend: GraphBackend,
    pixels: Pixels,
    ids: Sequence[int],
    steps: int = GREEDY_STEPS,
    feed: Mapping[str, Tensor] | None = None,
) -> Stages:
    """Run everything and keep each stage. A stage named in `feed` is computed, kept, and replaced by `feed`'s for what follows.

    With `greedy_ids` in `feed` decoding is teacher-forced: those ids go in, whatever comes out.
    """
    before, after = split_at_visual_tokens(ids)
    check_vocabulary(backend, before + after)
    length = len(before) + backend.config.visual_tokens + len(after)
    check_fits(backend, 0, length + steps - 2)  # the last step's token is chosen, not stored
    feed, values = feed or {}, {}
    shapes = _internal_shapes(backend.config)

    def record(name: str, value: Tensor) -> Tensor:
        values[name] = value
        return feed[name].reshape(shapes.get(name, value.shape)).to(value) if name in feed else value

    visual = visual_tokens(backend, pixels, record)
    embeds = record("inputs_embeds", prompt_embeds(backend, ids, visual))
    step_logits = greedy_logits(backend, embeds, steps, feed.get("greedy_ids"))
    values["last_logits"] = step_logits[0]
    values["greedy_ids"] = torch.stack(step_logits[:steps]).argmax(-1)
    values["pixel_clip"] = Normalize(CLIP_MEAN, CLIP_STD)(pixels.clip)
    values["pixel_video"] = Normalize(VIDEOMAMBA_MEAN, VIDEOMAMBA_STD)(pixels.video)
    return Stages({name: _golden(name, values[name], backend.config) for name in STAGES}, step_logits)


def greedy_logits(backend: GraphBackend, embeds: Tensor, steps: int, forced: Tensor | None = None) -> list[Tensor]:
    """Prefill embeddings [N, D] and decode `steps` greedy steps, or the `forced` ids' steps: `Stages.step_logits`."""
    logits = backend.decode(embeds, 0)
    step_logits, fed = [logits.float().cpu()], []
    for step in range(steps - 1):
        fed.append(int(forced[step]) if forced is not None else int(step_logits[-1].argmax()))
        logits = backend.decode(embed(backend, fed[-1:]), embeds.shape[0] + step)
        step_logits.append(logits.float().cpu())
    rest = [backend.decode(embed(backend, fed), embeds.shape[0]) if fed else logits]
    rest += [backend.decode(embeds[:tokens], 0) for tokens in SHORT]
    rest.append(backend.decode(embeds[SHORT[-1] : SHORT[-1] + 1], SHORT[-1]))
    return [*step_logits, *(logits.float().cpu() for logits in rest)]


def _golden(name: str, value: Tensor, config: ModelConfig) -> Tensor:
    """A stage in the golden file's dtype and shape."""
    value = value.detach().cpu()
    value = value.float() if value.is_floating_point() else value
    shapes = {
        "videomamba_tokens": (1, -1, value.shape[-1]),  # [1, 1568, C]
        "image_tokens": (CHUNKS * CHUNK_FRAMES, -1, value.shape[-1]),  # [16, 144, D]
        "video_tokens": (CHUNKS, -1, value.shape[-1]),  # [2, 49, D]
        "inputs_embeds": (1, -1, value.shape[-1]),  # [1, N, D]
    }
    return value.reshape(shapes.get(name, value.shape))


def _internal_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes in which stages flow between graphs, where they are not the golden file's."""
    width = config.decoder.width
    return {
        "videomamba_tokens": (KEY_FRAMES, config.videomamba.patches, config.videomamba.width),
        "image_tokens": (-1, width),
        "video_tokens": (-1, width),
        "inputs_embeds": (-1, width),
    }
