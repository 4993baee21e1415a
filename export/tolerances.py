"""The one table of tolerances: how far a stage of a bundle may lie from the reference, and why.

Two metrics, both relative and both 0 for a perfect copy:
  `max`: largest absolute difference over the reference's largest magnitude; for graphs that compute in float32.
  `rms`: root mean square of the difference over the reference's root mean square; for quantized graphs, whose single worst
         value says little (1 / rms^2 is the signal-to-noise ratio: 0.1 is 20 dB).
A third, `count`, is the number of places that differ beyond what the rules allow (selected frames, greedy ids): always 0.

`own` bounds a graph fed with the reference's input, `chained` what a user gets, after every graph before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from export.errors import BackendError


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """Bounds of one stage: errors up to and including them pass."""

    metric: str
    own: float
    chained: float
    why: str


# A stage's graph, and the graphs before it in the chain.
UPSTREAM: dict[str, tuple[str, ...]] = {
    "pixel_clip": (),
    "pixel_video": (),
    "clip_patch_features": ("image_encoder",),
    "frame_scores": ("frame_scorer", "image_encoder"),
    "selected_frames": ("frame_scorer", "image_encoder"),
    "videomamba_tokens": ("video_encoder",),
    "pooled_video_features": ("video_encoder",),
    "image_tokens": ("image_projector", "image_encoder"),
    "video_tokens": ("video_projector", "video_encoder"),
    "inputs_embeds": ("token_embedding", "image_projector", "image_encoder", "video_projector", "video_encoder"),
    "last_logits": ("decoder", "token_embedding", "image_projector", "image_encoder", "video_projector", "video_encoder"),
    "greedy_ids": ("decoder", "token_embedding", "image_projector", "image_encoder", "video_projector", "video_encoder"),
}
COARSENESS = ("fp32", "fp16", "int8", "int4")  # a chain is as coarse as its coarsest graph

_EXACT = "resizing is the same code on every backend; the last bit of a normalisation may differ"
_FP32 = "float32 sums in another order: 1e-6 per operator measured, 1e-4 is the release's own tolerance"
_INT8 = "int8 weights and activations rounded to nearest, on random weights, which are harder than trained ones"
_INT4 = "int4 weights in groups of 32: each weight is off by up to a fourteenth of its group's largest"

# (own scheme) -> bounds; `own` by the stage's graph, `chained` by the coarsest graph up to it.
_FEATURES: dict[str, Tolerance] = {
    "fp32": Tolerance("max", 1e-4, 1e-4, _FP32),
    "int8": Tolerance("rms", 0.10, 0.10, _INT8),
    "int4": Tolerance("rms", 0.30, 0.30, _INT4),
}
_LOGITS: dict[str, Tolerance] = {
    "fp32": Tolerance("max", 1e-4, 2e-4, _FP32),
    "int8": Tolerance("rms", 0.15, 0.20, _INT8),
    "int4": Tolerance("rms", 0.50, 0.50, _INT4),
}
_SCORES: dict[str, Tolerance] = {
    "fp32": Tolerance("max", 1e-5, 1e-4, "the scorer is always float32: its own error is that of sums"),
    "int8": Tolerance("max", 1e-5, 0.10, "features off by a few per cent move the attention between frames"),
    "int4": Tolerance("max", 1e-5, 0.30, "as int8, with coarser features"),
}


def tolerance(stage: str, target: str, schemes: Mapping[str, str]) -> Tolerance:
    """The bounds of one stage for a bundle whose graphs have these schemes (`schemes` by component).

    Raises:
        BackendError: there are no bounds for that target and scheme yet, so nothing can be verified.
    """
    if stage in ("pixel_clip", "pixel_video"):
        return Tolerance("max", 1e-6, 1e-6, _EXACT)
    if stage in ("selected_frames", "greedy_ids"):
        return Tolerance("count", 0, 0, "selections and ids are equal, but for ties within the score's or logit's tolerance")
    table = {"frame_scores": _SCORES, "last_logits": _LOGITS}.get(stage, _FEATURES)
    chain = UPSTREAM[stage]
    own, coarsest = schemes[chain[0]], max((schemes[c] for c in chain), key=COARSENESS.index)
    if target != "executorch" or own not in table or coarsest not in table:
        raise BackendError(f"no tolerances for stage {stage} with {coarsest} on {target}: add them to export/tolerances.py")
    # A float graph behind quantized ones is judged by their metric: its own error is far below either bound.
    return Tolerance(table[coarsest].metric, table[own].own, table[coarsest].chained, table[coarsest].why)
