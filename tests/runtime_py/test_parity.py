"""The ladder passes a good bundle, fails a broken one and says where, and excuses only what its rules excuse."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from export import tolerances
from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from runtime_py.backends.eager import EagerBackend
from runtime_py.ladder import climb, failure
from runtime_py.parity import graph_schemes, main
from runtime_py.probe import make_probe
from runtime_py.reference import Reference
from runtime_py.stages import STAGES

FP32 = dict.fromkeys(tolerances.UPSTREAM["greedy_ids"] + ("frame_scorer",), "fp32")
INT4 = dict.fromkeys(tolerances.UPSTREAM["greedy_ids"], "int8") | {"decoder": "int4", "frame_scorer": "fp32"}


@pytest.fixture(scope="module")
def backend(tiny_checkpoint) -> EagerBackend:
    return EagerBackend(open_checkpoint(str(tiny_checkpoint)))


@pytest.fixture(scope="module")
def reference(backend) -> Reference:
    probe = make_probe(backend.config.decoder.vocab)
    return Reference.compute(backend, probe.frames, probe.ids, steps=6)


class Broken:
    """A backend with one fault: `change(graph, inputs, output)` makes the wrong output of a graph."""

    def __init__(self, backend, change):
        self._backend, self._change = backend, change
        self.config, self.max_context = backend.config, backend.max_context

    def run(self, graph, *inputs):
        return self._change(graph, inputs, self._backend.run(graph, *inputs))

    def decode(self, embeds, position):
        changed = self._change("decoder", (embeds, position), None)
        return self._backend.decode(embeds, position) if changed is None else changed


def errors(ladder) -> dict[str, tuple[float, float]]:
    return {rung.stage: (rung.own_error, rung.chained_error) for rung in ladder}


def failing(ladder) -> list[str]:
    return [rung.stage for rung in ladder if not rung.passed]


def test_the_model_against_itself_has_no_error(backend, reference):
    ladder = climb(backend, reference, "executorch", FP32)
    assert [rung.stage for rung in ladder] == list(STAGES)
    assert failure(ladder) is None
    assert all(own <= 1e-6 and chained <= 1e-6 for own, chained in errors(ladder).values())


def test_a_reference_survives_the_bundle_file(tmp_path, reference, backend):
    np.savez_compressed(tmp_path / "reference.npz", **reference.to_arrays())
    with np.load(tmp_path / "reference.npz") as arrays:
        back = Reference.from_arrays(arrays)
    for name in STAGES:
        torch.testing.assert_close(back.stages[name], reference.stages[name], rtol=0, atol=0)
    assert torch.equal(back.top_ids, reference.top_ids) and torch.equal(back.logits, reference.logits)
    assert back.rounded_logits is None
    rounded = reference.with_rounded(backend)
    np.savez_compressed(tmp_path / "rounded.npz", **rounded.to_arrays())
    with np.load(tmp_path / "rounded.npz") as arrays:
        back = Reference.from_arrays(arrays)
    torch.testing.assert_close(back.rounded_last_logits, reference.stages["last_logits"])  # nothing was rounded here
    torch.testing.assert_close(back.rounded_logits, reference.logits)


def swapped_direction(graph, inputs, output):
    return output.flip(0) if graph == "video_encoder" else output


def one_token_scaled(graph, inputs, output):
    if graph == "image_projector":
        output = output.clone()
        output[700] *= 1.01
    return output


def not_finite(graph, inputs, output):
    return output * float("nan") if graph == "token_embedding" else output


def scores_of_the_mirrored_frames(graph, inputs, output):
    return output.flip(1) if graph == "frame_scorer" else output


@pytest.mark.parametrize(
    "fault, first, own_is_wrong",
    [
        (swapped_direction, "videomamba_tokens", True),
        (one_token_scaled, "image_tokens", True),
        (not_finite, "inputs_embeds", True),
        (scores_of_the_mirrored_frames, "frame_scores", True),
    ],
)
def test_a_broken_graph_fails_at_its_own_stage(backend, reference, fault, first, own_is_wrong):
    ladder = climb(Broken(backend, fault), reference, "executorch", FP32)
    assert failing(ladder)[0] == first
    rung = next(rung for rung in ladder if rung.stage == first)
    assert (rung.own_error > rung.threshold_own) == own_is_wrong
    assert f"stage {first} fails parity: its own error is" in failure(ladder)


def test_own_errors_name_the_broken_graph_and_not_those_behind_it(backend, reference):
    ladder = {rung.stage: rung for rung in climb(Broken(backend, one_token_scaled), reference, "executorch", FP32)}
    assert ladder["last_logits"].own_error <= ladder["last_logits"].threshold_own
    assert ladder["inputs_embeds"].own_error <= 1e-6 < ladder["inputs_embeds"].chained_error


def test_a_wrong_position_in_decoding_is_seen_though_the_ids_are_the_same(backend, reference):
    def late(graph, inputs, output):
        if graph == "decoder" and inputs[1] > 0:
            return backend.decode(inputs[0], inputs[1] - 1)  # overwrites the last cached token
        return output

    rung = climb(Broken(backend, late), reference, "executorch", FP32)[-1]
    assert rung.own_error >= 5 and rung.chained_error >= 5 and not rung.passed


def test_a_second_prefill_at_a_wrong_position_is_seen(backend, reference):
    def wrong_chunk(graph, inputs, output):
        if graph == "decoder" and inputs[1] > 0 and inputs[0].shape[0] > 1:
            return backend.decode(inputs[0], 0)
        return output

    rung = climb(Broken(backend, wrong_chunk), reference, "executorch", FP32)[-1]
    assert rung.own_error == rung.chained_error == 1 and not rung.passed  # every step is right, the tokens at once are not


def swap(logits, first, second):
    swapped = logits.clone()
    swapped[first], swapped[second] = logits[second], logits[first]
    return swapped


def test_a_step_near_a_tie_is_excepted_and_said(backend, reference):
    """The two best ids change places, and the sampled logits say that each step's logits are off by more than their distance."""

    def near(graph, inputs, output):
        if graph != "decoder":
            return output
        logits = backend.decode(*inputs)
        return swap(logits, *logits.topk(2).indices)

    ladder = climb(Broken(backend, near), reference, "executorch", INT4)  # its bound lets logits be off by that much
    assert ladder[-1].chained_error == 0 and "0 of 6 equal, 6 near ties excepted" in ladder[-1].note
    ladder = climb(Broken(backend, near), reference, "executorch", FP32)
    assert ladder[-1].chained_error >= 6 and not ladder[-1].passed


def test_an_id_that_the_reference_ranks_low_is_no_tie(backend, reference):
    worst = int(reference.stages["last_logits"].argmin())

    def absurd(graph, inputs, output):
        if graph != "decoder":
            return output
        logits = backend.decode(*inputs)
        logits = logits.clone()
        logits[worst] = logits.max() + 1e-6
        return logits

    rung = climb(Broken(backend, absurd), reference, "executorch", INT4)[-1]
    assert rung.chained_error >= 6 and not rung.passed


def one_token_zeroed(graph, inputs, output):
    if graph == "image_projector":
        output = output.clone()
        output[700] = 0
    return output


def one_video_token_zeroed(graph, inputs, output):
    if graph == "video_projector":
        output = output.clone()
        output[97] = 0
    return output


def no_embedding(graph, inputs, output):
    return output * 0 if graph == "token_embedding" else output


def embedding_flipped(graph, inputs, output):
    return output.flip(-1) if graph == "token_embedding" else output


def features_not_finite(graph, inputs, output):
    return output * float("nan") if graph == "image_encoder" else output


@pytest.mark.parametrize(
    "fault, first",
    [
        (one_token_zeroed, "image_tokens"),
        (one_video_token_zeroed, "video_tokens"),
        (no_embedding, "inputs_embeds"),
        (embedding_flipped, "inputs_embeds"),
        (swapped_direction, "videomamba_tokens"),
        (features_not_finite, "clip_patch_features"),
    ],
)
def test_the_bounds_of_a_quantized_bundle_are_narrow_enough_to_see_a_lost_token(backend, reference, fault, first):
    ladder = climb(Broken(backend, fault), reference.with_rounded(backend), "executorch", INT4)
    assert failing(ladder)[0] == first
    assert "its own error is" in failure(ladder)


def test_a_decoder_that_lost_a_part_is_seen_through_int4(tiny_checkpoint, backend, reference):
    """The own logits of a quantized decoder are held against the same rounded weights, so a lost feed-forward does not hide."""
    lame = EagerBackend(open_checkpoint(str(tiny_checkpoint)))
    lame.model.decoder.layers[-1].ffn.down_proj.weight.zero_()
    ladder = {rung.stage: rung for rung in climb(lame, reference.with_rounded(backend), "executorch", INT4)}
    assert ladder["last_logits"].own_error > ladder["last_logits"].threshold_own


def test_nothing_against_nothing_is_no_error():
    from runtime_py.ladder import error

    zeros = torch.zeros(2, 3)
    assert error(zeros, zeros, "max") == error(zeros, zeros, "row") == 0
    assert error(zeros + 1, zeros, "row") == 1e9


def test_another_selection_is_excused_only_within_the_score_error(backend, reference):
    scores = reference.stages["frame_scores"]
    chosen = reference.stages["selected_frames"][0].tolist()
    left_out = next(i for i in range(8) if i not in chosen)
    weakest = min(chosen, key=lambda i: float(scores[0, i]))

    def swap(graph, inputs, output):
        if graph == "frame_scorer":
            output = output.clone()
            output[0, [weakest, left_out]] = output[0, [left_out, weakest]]
        return output

    ladder = {rung.stage: rung for rung in climb(Broken(backend, swap), reference, "executorch", FP32)}
    rung = ladder["selected_frames"]
    assert "later stages ran with the reference's selection" in rung.note
    assert ladder["video_tokens"].passed  # because they did
    assert not ladder["frame_scores"].passed


def test_a_bundle_passes_and_tolerances_a_hundred_times_tighter_fail_it(tiny_bundle, monkeypatch, capsys, tmp_path):
    assert main(["--bundle", str(tiny_bundle), "--json", str(tmp_path / "p.json")]) == 0
    rungs = json.loads((tmp_path / "p.json").read_text())
    assert [rung["stage"] for rung in rungs] == list(STAGES) and all(rung["passed"] for rung in rungs)
    real = tolerances.tolerance

    def tighter(stage, target, schemes):
        bounds = real(stage, target, schemes)
        return dataclasses.replace(bounds, own=bounds.own / 100, chained=bounds.chained / 100)

    monkeypatch.setattr("runtime_py.ladder.tolerance", tighter)
    capsys.readouterr()
    assert main(["--bundle", str(tiny_bundle)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and "fails parity" in captured.err and captured.err.count("\n") == 1
    assert "FAILED" in captured.out


def test_parity_against_a_checkpoint_computes_the_reference_anew(tiny_bundle, tiny_checkpoint, tmp_path, capsys):
    np.save(tmp_path / "f.npy", np.random.default_rng(3).integers(0, 255, (7, 40, 60, 3), dtype=np.uint8))
    np.save(tmp_path / "i.npy", np.array([5, -200, -200, 9, 11]))
    arguments = ["--bundle", str(tiny_bundle), "--checkpoint", str(tiny_checkpoint)]
    assert main([*arguments, "--frames", str(tmp_path / "f.npy"), "--ids", str(tmp_path / "i.npy")]) == 0
    assert "greedy_ids" in capsys.readouterr().out


def test_the_demo_bundle_is_int4_where_the_recipe_says_so(demo_bundle):
    assert graph_schemes(open_bundle(demo_bundle).manifest) == {
        "image_encoder": "int8",
        "frame_scorer": "fp32",
        "video_encoder": "int8",
        "image_projector": "int8",
        "video_projector": "int8",
        "token_embedding": "int8",
        "decoder": "int4",
    }


def one_line(capsys) -> str:
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_bad_arguments_meet_one_line(tiny_bundle, demo_bundle, tiny_checkpoint, tmp_path, capsys):
    assert main(["--bundle", str(tiny_bundle), "--frames", "f.npy"]) == 2
    assert "--checkpoint" in one_line(capsys)
    assert main(["--bundle", str(demo_bundle), "--checkpoint", str(tiny_checkpoint)]) == 2
    assert "was not built from" in one_line(capsys)
    assert main(["--bundle", str(tmp_path)]) == 2
    assert "manifest.json" in one_line(capsys)
    assert main(["--bundle", str(tiny_bundle), "--threads", "0"]) == 2
    one_line(capsys)


@pytest.mark.parametrize("damage", ["flipped byte", "missing file", "newer schema"])
def test_a_damaged_bundle_is_refused(demo_bundle, tmp_path, capsys, damage):
    copy = Path(shutil.copytree(demo_bundle, tmp_path / "copy"))
    if damage == "flipped byte":
        content = bytearray((copy / "decoder.pte").read_bytes())
        content[len(content) // 2] ^= 1
        (copy / "decoder.pte").write_bytes(content)
    elif damage == "missing file":
        (copy / "video_encoder.pte").unlink()
    else:
        manifest = json.loads((copy / "manifest.json").read_text())
        (copy / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 999}))
    assert main(["--bundle", str(copy)]) == 2
    line = one_line(capsys)
    assert {"flipped byte": "decoder.pte", "missing file": "video_encoder.pte", "newer schema": "newer"}[damage] in line
