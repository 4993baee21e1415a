"""What a bundle is held against: the eager model's stages on a known input, as a bundle stores them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from export.model.preprocess import CLIP_MEAN, CLIP_STD, VIDEOMAMBA_MEAN, VIDEOMAMBA_STD, Normalize
from export.model.prompt import split_at_visual_tokens
from runtime_py.backends.base import GraphBackend
from runtime_py.stages import GREEDY_STEPS, STAGES, Pixels, compute_stages, greedy_logits

PIXELS = ("pixel_clip", "pixel_video")  # stored as the 8-bit images that they come from
SAMPLED_LOGITS = 4096  # of each greedy step, evenly spaced over the vocabulary: a bundle keeps those, not 24 whole rows
TOP_IDS = 16  # best ids of each greedy step, with their logits


@dataclasses.dataclass(frozen=True)
class Reference:
    """The reference's input, its stages, and of its greedy steps the best ids and a sample of the logits.

    The rounded logits are those of the eager decoder with the weights that a quantized bundle stores; None for a float one.
    """

    frames: np.ndarray  # uint8 RGB [n, H, W, 3]
    ids: np.ndarray  # int64 [n]
    stages: dict[str, Tensor]
    top_ids: Tensor  # int64 [steps, TOP_IDS]
    top_logits: Tensor  # [steps, TOP_IDS]
    logits: Tensor  # [rows, at most SAMPLED_LOGITS]: a sample of all `Stages.step_logits`
    rounded_last_logits: Tensor | None = None  # [V]
    rounded_logits: Tensor | None = None  # as `logits`

    @classmethod
    def compute(cls, backend: GraphBackend, frames: np.ndarray, ids: np.ndarray, steps: int = GREEDY_STEPS) -> Reference:
        """Run the eager model on uint8 frames [n, H, W, 3] and prompt ids."""
        result = compute_stages(backend, Pixels.of(list(frames)), ids.tolist(), steps)
        best = torch.stack(result.step_logits[:steps]).topk(TOP_IDS, dim=-1)
        return cls(frames, ids, result.values, best.indices, best.values, sample(result.step_logits))

    def with_rounded(self, backend: GraphBackend) -> Reference:
        """The same with the logits of `backend`, whose decoder's weights are rounded as the bundle's."""
        logits = greedy_logits(backend, self.stages["inputs_embeds"][0], len(self.top_ids), self.stages["greedy_ids"])
        return dataclasses.replace(self, rounded_last_logits=logits[0], rounded_logits=sample(logits))

    def truth_of_own(self) -> Tensor:
        """The step logits that a graph fed with the reference's input should give."""
        return self.logits if self.rounded_logits is None else self.rounded_logits

    def distance_from_best(self, step: int, token: int) -> float:
        """How far the reference's logit of `token` lies below its best; infinite for one that is not among its best."""
        places = (self.top_ids[step] == token).nonzero()
        return float(self.top_logits[step, 0] - self.top_logits[step, places[0, 0]]) if len(places) else float("inf")

    def text_rows(self, embeds: Tensor) -> Tensor:
        """The rows of `inputs_embeds` [1, N, D] that are no visual tokens: [text, D]."""
        before, after = (len(part) for part in split_at_visual_tokens(self.ids.tolist()))
        return torch.cat([embeds[0, :before], embeds[0, embeds.shape[1] - after :]])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As a bundle stores it; of `inputs_embeds` only what does not stand in the token stages."""
        pixels = Pixels.of(list(self.frames))
        arrays = {"frames": self.frames, "ids": self.ids, "text_embeds": self.text_rows(self.stages["inputs_embeds"]).numpy()}
        arrays |= {"pixel_clip_uint8": pixels.clip.round().byte().numpy(), "pixel_video_uint8": pixels.video.round().byte().numpy()}
        arrays |= {f"greedy_{name}": getattr(self, name).numpy() for name in ("top_ids", "top_logits", "logits")}
        if self.rounded_logits is not None and self.rounded_last_logits is not None:
            arrays |= {"rounded_logits": self.rounded_logits.numpy(), "rounded_last_logits": self.rounded_last_logits.numpy()}
        return arrays | {name: value.numpy() for name, value in self.stages.items() if name not in (*PIXELS, "inputs_embeds")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Reference:
        """Raises KeyError for an array that is not there."""
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        stages = {name: tensors[name] for name in STAGES if name not in (*PIXELS, "inputs_embeds")}
        before = len(split_at_visual_tokens(arrays["ids"].tolist())[0])
        text, visual = tensors["text_embeds"], [stages["image_tokens"].flatten(0, 1), stages["video_tokens"].flatten(0, 1)]
        stages["inputs_embeds"] = torch.cat([text[:before], *visual, text[before:]])[None]
        stages["pixel_clip"] = Normalize(CLIP_MEAN, CLIP_STD)(tensors["pixel_clip_uint8"])
        stages["pixel_video"] = Normalize(VIDEOMAMBA_MEAN, VIDEOMAMBA_STD)(tensors["pixel_video_uint8"])
        greedy = (tensors[f"greedy_{name}"] for name in ("top_ids", "top_logits", "logits"))
        rounded = (tensors.get("rounded_last_logits"), tensors.get("rounded_logits"))
        return cls(arrays["frames"], arrays["ids"], stages, *greedy, *rounded)


def sample(step_logits: list[Tensor]) -> Tensor:
    """At most SAMPLED_LOGITS of each step's logits [V], the same places of every step."""
    vocabulary = step_logits[0].shape[0]
    places = torch.linspace(0, vocabulary - 1, min(vocabulary, SAMPLED_LOGITS)).long()
    return torch.stack([logits[places] for logits in step_logits])
