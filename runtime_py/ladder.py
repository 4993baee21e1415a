"""The parity ladder: each stage of a bundle against the reference's, on its own and chained.

Selected frames must be equal unless the reference's margin is under the measured score error. A greedy step must give the
reference's id, unless its two best logits lie within the tolerance, and logits within the last_logits bound; so must the same
tokens fed at once behind the prompt. Whatever was excused is said in the stage's note.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from export.config import CHUNK_KEY_FRAMES
from export.manifest import StageParity
from export.model.preprocess import CLIP_MEAN, CLIP_STD, VIDEOMAMBA_MEAN, VIDEOMAMBA_STD, Normalize
from export.model.prompt import split_at_visual_tokens
from export.tolerances import Tolerance, tolerance
from runtime_py.backends.base import GraphBackend
from runtime_py.stages import GREEDY_STEPS, STAGES, Pixels, Stages, compute_stages

PIXELS = ("pixel_clip", "pixel_video")
SAMPLED_LOGITS = 4096  # of each greedy step, evenly spaced over the vocabulary: a bundle keeps those, not 24 whole rows
LOGIT_DEVIATIONS = 4  # a difference of two logits, each off by a normal error, is within 4 of its deviations but once in 16,000


@dataclasses.dataclass(frozen=True)
class Reference:
    """The reference's input and stages, and of its greedy steps: best minus second-best logit, the logits' rms and largest magnitude,
    and a sample of the logits themselves (of the tokens fed at once as well)."""

    frames: np.ndarray
    ids: np.ndarray
    stages: dict[str, Tensor]
    margins: Tensor
    logit_rms: Tensor  # [steps]
    logit_max: Tensor  # [steps]
    logits: Tensor  # [steps + 1, at most SAMPLED_LOGITS]

    @classmethod
    def compute(cls, backend: GraphBackend, frames: np.ndarray, ids: np.ndarray, steps: int = GREEDY_STEPS) -> Reference:
        """Run the eager model on uint8 frames [n, H, W, 3] and prompt ids."""
        result = compute_stages(backend, Pixels.of(list(frames)), ids.tolist(), steps)
        logits = torch.stack(result.step_logits[:steps])  # [steps, V]
        best = logits.topk(2, dim=-1).values
        spread = (best[:, 0] - best[:, 1], logits.pow(2).mean(-1).sqrt(), logits.abs().amax(-1))
        return cls(frames, ids, result.values, *spread, _sample(result.step_logits))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As a bundle stores it. Pixels are kept as the 8-bit images that they were before normalisation."""
        arrays = {"frames": self.frames, "ids": self.ids, "greedy_margins": self.margins.numpy()}
        arrays |= {"greedy_logit_rms": self.logit_rms.numpy(), "greedy_logit_max": self.logit_max.numpy()}
        arrays |= {"greedy_logits": self.logits.numpy()}
        pixels = Pixels.of(list(self.frames))
        arrays |= {"pixel_clip_uint8": pixels.clip.byte().numpy(), "pixel_video_uint8": pixels.video.byte().numpy()}
        before, after = (len(part) for part in split_at_visual_tokens(self.ids.tolist()))
        embeds = self.stages["inputs_embeds"][0]  # [N, D], of which all but the text stands in the token stages
        arrays["text_embeds"] = torch.cat([embeds[:before], embeds[len(embeds) - after :]]).numpy()
        return arrays | {name: value.numpy() for name, value in self.stages.items() if name not in (*PIXELS, "inputs_embeds")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Reference:
        stages = {name: torch.from_numpy(arrays[name]) for name in STAGES if name not in (*PIXELS, "inputs_embeds")}
        before = len(split_at_visual_tokens(arrays["ids"].tolist())[0])
        text = torch.from_numpy(arrays["text_embeds"])
        visual = [stages["image_tokens"].flatten(0, 1), stages["video_tokens"].flatten(0, 1)]
        stages["inputs_embeds"] = torch.cat([text[:before], *visual, text[before:]])[None]
        stages["pixel_clip"] = Normalize(CLIP_MEAN, CLIP_STD)(torch.from_numpy(arrays["pixel_clip_uint8"]))
        stages["pixel_video"] = Normalize(VIDEOMAMBA_MEAN, VIDEOMAMBA_STD)(torch.from_numpy(arrays["pixel_video_uint8"]))
        greedy = (torch.from_numpy(arrays[f"greedy_{name}"]) for name in ("margins", "logit_rms", "logit_max", "logits"))
        return cls(arrays["frames"], arrays["ids"], stages, *greedy)


def climb(backend: GraphBackend, reference: Reference, target: str, schemes: Mapping[str, str]) -> tuple[StageParity, ...]:
    """Every stage's errors against its bounds. `schemes` holds each component's weight scheme."""
    pixels, ids = Pixels.of(list(reference.frames)), reference.ids.tolist()
    steps = len(reference.margins)
    own = compute_stages(backend, pixels, ids, steps, feed=reference.stages)
    forced = {"greedy_ids": reference.stages["greedy_ids"]}
    chained = compute_stages(backend, pixels, ids, steps, feed=forced)
    notes: dict[str, str] = {}
    selections = [_selection_errors(stages, reference) for stages in (own, chained)]
    if not torch.equal(chained.values["selected_frames"], reference.stages["selected_frames"]):
        notes["selected_frames"] = "later stages ran with the reference's selection"
        selected = {"selected_frames": reference.stages["selected_frames"]}
        rest = compute_stages(backend, pixels, ids, steps, feed=forced | selected)
        kept = {name: chained.values[name] for name in ("frame_scores", "selected_frames")}
        chained = Stages(rest.values | kept, rest.step_logits)
    ladder = []
    for stage in STAGES:
        bounds = tolerance(stage, target, schemes)
        if stage == "selected_frames":
            (own_error, excused_own), (chained_error, excused_chained) = selections
            excused = max(excused_own, excused_chained)
            note = f"{excused} of {CHUNK_KEY_FRAMES * 2} differ within the score error" if excused else ""
        elif stage == "greedy_ids":
            logits = tolerance("last_logits", target, schemes)
            own_error, excused_own = _greedy_errors(own, reference, logits, logits.own)
            chained_error, excused = _greedy_errors(chained, reference, logits, logits.chained)
            equal = int((chained.values[stage] == reference.stages[stage]).sum())
            note = f"{equal} of {steps} equal, {excused} near ties excepted"
        else:
            own_error, chained_error = (_error(s.values[stage], reference.stages[stage], bounds.metric) for s in (own, chained))
            note = ""
        passed = own_error <= bounds.own and chained_error <= bounds.chained
        note = "; ".join(part for part in (note, notes.get(stage, "")) if part)
        ladder.append(StageParity(stage, own_error, chained_error, bounds.own, bounds.chained, bounds.metric, passed, note))
    return tuple(ladder)


def _error(value: Tensor, reference: Tensor, metric: str) -> float:
    """The relative error of a whole tensor; 1e9 stands for a result that is not finite or of another shape."""
    if value.shape != reference.shape or not torch.isfinite(value).all():
        return 1e9
    difference, reference = (value - reference).double(), reference.double()
    if metric == "max":
        return float(difference.abs().max() / reference.abs().max())
    return float(difference.norm() / reference.norm())


def _selection_errors(stages: Stages, reference: Reference) -> tuple[float, int]:
    """(key frames that differ beyond the score error, key frames that differ within it)."""
    scores, truth = stages.values["frame_scores"], reference.stages["frame_scores"]
    wrong = excused = 0
    pairs = zip(stages.values["selected_frames"].tolist(), reference.stages["selected_frames"].tolist())
    for chunk, (picked, expected) in enumerate(pairs):
        missing = set(expected) - set(picked)
        if not missing:
            continue
        slack = 2 * float((scores[chunk] - truth[chunk]).abs().max())  # each of two scores may be off by it
        taken = set(picked) - set(expected)
        margin = max(float((truth[chunk, i] - truth[chunk, j]).abs()) for i in missing for j in taken)
        if margin <= slack:
            excused += len(missing)
        else:
            wrong += len(missing)
    return float(wrong), excused


def _sample(step_logits: list[Tensor]) -> Tensor:
    """At most SAMPLED_LOGITS of each step's logits [V], the same places of every step."""
    vocabulary = step_logits[0].shape[0]
    places = torch.linspace(0, vocabulary - 1, min(vocabulary, SAMPLED_LOGITS)).long()
    return torch.stack([logits[places] for logits in step_logits])


def _greedy_errors(stages: Stages, reference: Reference, bounds: Tolerance, bound: float) -> tuple[float, int]:
    """(steps whose id differs although the reference was not near a tie, or whose logits leave the bound; others that differ)."""
    if bounds.metric == "max":
        slack = 2 * bound * reference.logit_max
    else:
        slack = LOGIT_DEVIATIONS * bound * reference.logit_rms
    differs = stages.values["greedy_ids"] != reference.stages["greedy_ids"]
    tied = reference.margins <= slack
    logits = _sample(stages.step_logits)
    off = torch.tensor([_error(row, truth, bounds.metric) > bound for row, truth in zip(logits, reference.logits)])  # [steps + 1]
    wrong = torch.cat([(differs & ~tied), torch.tensor([False])]) | off
    return float(wrong.sum()), int((differs & tied).sum())


def table(ladder: Sequence[StageParity]) -> str:
    """The ladder as text, a line per stage."""
    lines = [f"{'stage':<22} {'metric':<6} {'own':>9} {'bound':>9} {'chained':>9} {'bound':>9}"]
    for rung in ladder:
        numbers = (rung.own_error, rung.threshold_own, rung.chained_error, rung.threshold_chained)
        own, own_bound, chained, chained_bound = (f"{x:9.0f}" if rung.metric == "count" else f"{x:9.2e}" for x in numbers)
        verdict = "ok" if rung.passed else "FAILED"
        lines.append(f"{rung.stage:<22} {rung.metric:<6} {own} {own_bound} {chained} {chained_bound}  {verdict}  {rung.note}".rstrip())
    return "\n".join(lines)


def failure(ladder: Sequence[StageParity]) -> str | None:
    """One line on the first stage that fails, and by how much; None where all pass."""
    failed = [rung for rung in ladder if not rung.passed]
    if not failed:
        return None
    first = failed[0]
    which = "own" if first.own_error > first.threshold_own else "chained"
    error, bound = (first.own_error, first.threshold_own) if which == "own" else (first.chained_error, first.threshold_chained)
    others = f" ({len(failed) - 1} later stages fail too)" if len(failed) > 1 else ""
    return f"stage {first.stage} fails parity: its {which} error is {error:.3g} ({first.metric}), the bound is {bound:.3g}{others}"
