"""The one table of tolerances: how far a stage of a bundle may lie from the reference, and why.

Two metrics, both relative and both 0 for a perfect copy:
  `max`: largest absolute difference over the reference's largest magnitude; for graphs that compute in float32.
  `row`: of the worst row (one token's features, or the logits), the root mean square of the difference over the whole stage's
         root mean square; for quantized graphs, whose single worst value says little. One token that is garbage shows as 1.
A third, `count`, is the number of places that differ beyond what the rules allow (selected frames, greedy ids): always 0.

`own` bounds a graph fed with the reference's input, `chained` what a user gets, after every graph before it. A quantized decoder's
own logits are held against the eager decoder with the same rounded weights, so that `own` bounds what the graph does wrong and
`chained` what rounding costs.
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

_EXACT = "the host resizes, so this checks its resizers against the stored images, and on the building machine nothing"
_FP32 = "float32 sums in another order: 1e-6 measured, 1e-4 is the release's own tolerance"
_INT8 = "int8 weights and activations rounded to nearest: {}, on random weights, of the demo and of the released size"
_INT4 = "int4 weights in groups of 32, each off by up to a fifteenth of its group's largest; a lost token or layer shows as 1"

# By stage and scheme; `own` is looked up by the scheme of the stage's graph, `chained` by the coarsest scheme up to it.
_FLOAT = Tolerance("max", 1e-4, 1e-4, _FP32)
_TABLE: dict[str, dict[str, Tolerance]] = {
    "clip_patch_features": {
        "fp32": _FLOAT,
        "int8": Tolerance("row", 0.08, 0.08, _INT8.format("0.017 and 0.025 measured")),
        "int4": Tolerance("row", 0.60, 0.60, _INT4),
    },
    "frame_scores": {
        "fp32": Tolerance("max", 1e-5, 1e-4, "the scorer is always float32: its own error is that of sums"),
        "int8": Tolerance("max", 1e-5, 0.08, "features off by 2 % move the attention between frames: 0.003 and 0.023 measured"),
        "int4": Tolerance("max", 1e-5, 0.30, "as int8, with coarser features"),
    },
    "videomamba_tokens": {
        "fp32": _FLOAT,
        "int8": Tolerance("row", 0.30, 0.30, _INT8.format("0.035 after 3 layers and 0.13 after 32 measured")),
        "int4": Tolerance("row", 0.60, 0.60, _INT4),
    },
    "pooled_video_features": {
        "fp32": _FLOAT,
        "int8": Tolerance("row", 0.15, 0.15, _INT8.format("0.018 and 0.069 measured")),
        "int4": Tolerance("row", 0.60, 0.60, _INT4),
    },
    "image_tokens": {
        "fp32": _FLOAT,
        "int8": Tolerance("row", 0.05, 0.10, _INT8.format("own 0.013 and 0.015, chained 0.023 and 0.029 measured")),
        "int4": Tolerance("row", 0.40, 0.60, _INT4),
    },
    "video_tokens": {
        "fp32": _FLOAT,
        "int8": Tolerance("row", 0.05, 0.15, _INT8.format("own 0.013 and 0.016, chained 0.017 and 0.043 measured")),
        "int4": Tolerance("row", 0.40, 0.60, _INT4),
    },
    "inputs_embeds": {
        "fp32": _FLOAT,
        "int8": Tolerance("row", 0.02, 0.15, "a table's row is off by up to 1/254 of its largest value: 0.008 and 0.009 measured"),
        "int4": Tolerance("row", 0.02, 0.60, "as int8: the table has no int4 form, what is chained behind int4 has"),
    },
    "last_logits": {
        "fp32": Tolerance("max", 1e-4, 2e-4, _FP32),
        "int8": Tolerance("row", 0.08, 0.20, "own, with the same rounded weights: activations in int8"),
        "int4": Tolerance("row", 0.08, 0.50, "own, with the same rounded weights: 0.017 and 0.028 measured; chained 0.21 and 0.39"),
    },
}

# Core ML computes in float16: what is left of a graph's error is its weights' rounding, and bounds that are not named here are as above.
_HALF = "float16 weights and arithmetic, each operation rounded: {}, tiny and released size, on random weights"
_ROUNDED = "own, with the same rounded weights, leaves float16: 0.001 and 0.002 measured; chained as above"
_COREML: dict[str, dict[str, Tolerance]] = {
    "clip_patch_features": {"fp16": Tolerance("row", 0.01, 0.01, _HALF.format("0.0011 measured"))},
    "frame_scores": {"fp16": Tolerance("max", 1e-5, 0.01, "the scorer is float32; features off by 0.1 % move the attention by 0.0002")},
    "videomamba_tokens": {"fp16": Tolerance("row", 0.05, 0.05, _HALF.format("0.0024 after 2 layers measured"))},
    "pooled_video_features": {"fp16": Tolerance("row", 0.03, 0.03, _HALF.format("0.0012 measured"))},
    "image_tokens": {"fp16": Tolerance("row", 0.01, 0.01, _HALF.format("0.0008 and 0.0011 chained measured"))},
    "video_tokens": {"fp16": Tolerance("row", 0.01, 0.03, _HALF.format("0.0008 and 0.0009 chained measured"))},
    "inputs_embeds": {"fp16": Tolerance("row", 0.002, 0.03, _HALF.format("a table's values to 11 bits"))},
    "last_logits": {
        "fp32": Tolerance("row", 0.005, 0.005, "float32 arithmetic over a cache in float16"),
        "fp16": Tolerance("row", 0.01, 0.02, _HALF.format("0.0014 measured")),
        "int8": Tolerance("row", 0.01, 0.20, _ROUNDED),
        "int4": Tolerance("row", 0.01, 0.50, _ROUNDED),
    },
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
    table, chain = _TABLE[stage], UPSTREAM[stage]
    own, coarsest = schemes[chain[0]], max((schemes[c] for c in chain), key=COARSENESS.index)
    table = table | _COREML.get(stage, {}) if target == "coreml" else table
    if target not in ("executorch", "coreml") or own not in table or coarsest not in table:
        raise BackendError(f"no tolerances for stage {stage} with {coarsest} on {target}: add them to export/tolerances.py")
    # A float graph behind quantized ones is judged by their metric: its own error is far below either bound.
    return Tolerance(table[coarsest].metric, table[own].own, table[coarsest].chained, table[coarsest].why)
