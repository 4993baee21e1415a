"""The parity ladder: each stage of a bundle against the reference's, on its own and chained.

Selected frames must be equal unless the reference's margin is under the measured score error. A greedy step must give the
reference's id, or one whose reference logit is no further from the best than the step's measured logit error allows, and logits
within the bound; so must the same tokens fed at once behind the prompt. What was excused is said in the stage's note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from export.config import CHUNK_KEY_FRAMES, CHUNKS
from export.manifest import StageParity
from export.model.frame_scorer import TIE
from export.tolerances import tolerance
from runtime_py.backends.base import GraphBackend
from runtime_py.reference import Reference, sample
from runtime_py.stages import STAGES, Pixels, Stages, compute_stages

WRONG = 1e9  # the error of a result that is not finite or of another shape


def climb(backend: GraphBackend, reference: Reference, target: str, schemes: Mapping[str, str]) -> tuple[StageParity, ...]:
    """Every stage's errors against its bounds. `schemes` holds each component's weight scheme."""
    pixels, ids = Pixels.of(list(reference.frames)), reference.ids.tolist()
    steps = len(reference.top_ids)
    own = compute_stages(backend, pixels, ids, steps, feed=reference.stages)
    chained, note = _chained(backend, reference, pixels, ids, steps)
    unrounded = schemes["decoder"] in ("int8", "int4") and reference.rounded_logits is None  # own logits then cost rounding too
    ladder = []
    for stage in STAGES:
        bounds = tolerance(stage, target, schemes)
        own_bound, notes = bounds.own, []
        if stage == "selected_frames":
            pairs = [_selection_errors(stages, reference) for stages in (own, chained)]
            (own_error, _), (chained_error, excused) = pairs
            notes = [f"{excused} of {CHUNKS * CHUNK_KEY_FRAMES} differ within the score error"] * bool(excused) + [note] * bool(note)
        elif stage == "greedy_ids":
            logits = tolerance("last_logits", target, schemes)
            of_own = logits.chained if unrounded else logits.own
            own_error, _ = _greedy_errors(own, reference, reference.truth_of_own(), logits.metric, of_own)
            chained_error, excused = _greedy_errors(chained, reference, reference.logits, logits.metric, logits.chained)
            equal = int((chained.values[stage] == reference.stages[stage]).sum())
            notes = [f"{equal} of {steps} equal, {excused} near ties excepted"]  # `equal_ids` reads it
        else:
            own_value, truth = own.values[stage], reference.stages[stage]
            if stage == "inputs_embeds":  # fed, all but the text is the reference's own and would hide it
                own_value, own_truth = (reference.text_rows(x) for x in (own_value, truth))
            elif stage == "last_logits" and reference.rounded_last_logits is not None:
                own_truth, notes = reference.rounded_last_logits, ["own: against the same rounded weights"]
            else:
                own_truth = truth
            if stage == "last_logits" and unrounded:
                own_bound, notes = bounds.chained, ["own: against weights that are not rounded"]
            own_error = error(own_value, own_truth, bounds.metric)
            chained_error = error(chained.values[stage], truth, bounds.metric)
        passed = own_error <= own_bound and chained_error <= bounds.chained
        rung = (own_error, chained_error, own_bound, bounds.chained, bounds.metric, passed, "; ".join(notes))
        ladder.append(StageParity(stage, *rung))
    return tuple(ladder)


def _chained(backend: GraphBackend, reference: Reference, pixels: Pixels, ids: list[int], steps: int) -> tuple[Stages, str]:
    """The stages as a user gets them, teacher-forced in decoding. Where the selection differs from the reference's, what follows
    is computed with the reference's, and the note says so."""
    forced = {"greedy_ids": reference.stages["greedy_ids"]}
    chained = compute_stages(backend, pixels, ids, steps, feed=forced)
    selected = reference.stages["selected_frames"]
    if torch.equal(chained.values["selected_frames"], selected):
        return chained, ""
    rest = compute_stages(backend, pixels, ids, steps, feed=forced | {"selected_frames": selected})
    kept = {name: chained.values[name] for name in ("frame_scores", "selected_frames")}
    return Stages(rest.values | kept, rest.step_logits), "later stages ran with the reference's selection"


def error(value: Tensor, reference: Tensor, metric: str) -> float:
    """The relative error of a whole tensor, by a metric of `export.tolerances`."""
    if value.shape != reference.shape or not torch.isfinite(value).all():
        return WRONG
    difference, reference = (value - reference).double(), reference.double()
    if not difference.any():
        return 0.0
    if not reference.any():
        return WRONG
    if metric == "max":
        return float(difference.abs().max() / reference.abs().max())
    row = difference.reshape(-1, difference.shape[-1]).pow(2).mean(-1).sqrt().max()
    return float(row / reference.pow(2).mean().sqrt())


def _selection_errors(stages: Stages, reference: Reference) -> tuple[float, int]:
    """(key frames that differ beyond the score error, key frames that differ within it)."""
    scores, truth = stages.values["frame_scores"], reference.stages["frame_scores"]
    wrong = excused = 0
    pairs = zip(stages.values["selected_frames"].tolist(), reference.stages["selected_frames"].tolist())
    for chunk, (picked, expected) in enumerate(pairs):
        missing = set(expected) - set(picked)
        if not missing:
            continue
        measured = float((scores[chunk] - truth[chunk]).abs().max())
        slack = 2 * measured + TIE * float(truth[chunk].abs().max())  # each of two scores may be off by it, and near ties tie
        margin = max(float((truth[chunk, i] - truth[chunk, j]).abs()) for i in missing for j in set(picked) - set(expected))
        if margin <= slack:
            excused += len(missing)
        else:
            wrong += len(missing)
    return float(wrong), excused


def _greedy_errors(stages: Stages, reference: Reference, truth: Tensor, metric: str, bound: float) -> tuple[float, int]:
    """(steps with another id than the reference's that no tie excuses, or with logits off their bound; steps that a tie excuses).

    `truth` [rows, samples] are the logits to hold the steps' and what follows them against, as in `Stages.step_logits`.
    """
    logits = sample(stages.step_logits)
    wrong = [error(row, expected, metric) > bound for row, expected in zip(logits, truth)]
    excused = 0
    for step, token in enumerate(stages.values["greedy_ids"].tolist()):
        if token == int(reference.stages["greedy_ids"][step]):
            continue
        slack = 2 * float((logits[step] - reference.logits[step]).abs().max())  # each of two logits may be off by the step's error
        if reference.distance_from_best(step, token) <= slack:
            excused += 1
        else:
            wrong[step] = True
    return float(sum(wrong)), excused


def equal_ids(ladder: Sequence[StageParity]) -> int:
    """Greedy steps that gave the reference's own id, near ties not counted."""
    return int(next(rung.note for rung in ladder if rung.stage == "greedy_ids").split()[0])


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
    size, bound = (first.own_error, first.threshold_own) if which == "own" else (first.chained_error, first.threshold_chained)
    measured = "not finite, or of another shape" if size == WRONG else f"{size:.3g} ({first.metric})"
    others = f" ({len(failed) - 1} later stages fail too)" if len(failed) > 1 else ""
    return f"stage {first.stage} fails parity: its {which} error is {measured}, the bound is {bound:.3g}{others}"
