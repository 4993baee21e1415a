"""The tolerance table: which bound a stage gets, how a chain is judged, and what has none."""

import pytest

from export.components import COMPONENTS
from export.errors import BackendError
from export.tolerances import COARSENESS, UPSTREAM, tolerance

STAGES = (  # the parity ladder's, docs/design.md
    "pixel_clip pixel_video clip_patch_features frame_scores selected_frames videomamba_tokens pooled_video_features "
    "image_tokens video_tokens inputs_embeds last_logits greedy_ids"
).split()
BUNDLES = {
    "fp32": dict.fromkeys(COMPONENTS, "fp32"),
    "int8": dict.fromkeys(COMPONENTS, "int8") | {"frame_scorer": "fp32"},
    "int4": dict.fromkeys(COMPONENTS, "int8") | {"frame_scorer": "fp32", "decoder": "int4"},
}


def test_the_table_covers_the_ladder_and_names_real_graphs():
    assert list(UPSTREAM) == STAGES
    assert {graph for chain in UPSTREAM.values() for graph in chain} == set(COMPONENTS)


COREML = BUNDLES | {"fp16": dict.fromkeys(COMPONENTS, "fp16") | {"frame_scorer": "fp32"}}


@pytest.mark.parametrize("target, recipe", [*(("executorch", name) for name in BUNDLES), *(("coreml", name) for name in COREML)])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_every_recipe_has_a_bound_with_its_reason(stage, target, recipe):
    found = tolerance(stage, target, COREML[recipe])
    assert found.metric in ("max", "row", "count")
    assert 0 <= found.own <= found.chained < 1  # an error of 1 is a stage that has nothing to do with the reference
    assert len(found.why) > 20


@pytest.mark.parametrize("stage", STAGES)
def test_float32_is_held_to_the_release_s_own_tolerance(stage):
    found = tolerance(stage, "executorch", BUNDLES["fp32"])
    assert found.metric in ("max", "count") and found.own <= 1e-4 and found.chained <= 2e-4


@pytest.mark.parametrize("target, recipes", [("executorch", ("fp32", "int8", "int4")), ("coreml", ("fp32", "fp16", "int8", "int4"))])
def test_a_coarser_scheme_never_gets_a_narrower_bound(target, recipes):
    for stage in STAGES:
        bounds = [tolerance(stage, target, COREML[recipe]) for recipe in recipes]
        assert [b.own for b in bounds] == sorted(b.own for b in bounds), stage
        assert [b.chained for b in bounds] == sorted(b.chained for b in bounds), stage


def test_pixels_selection_and_ids_do_not_depend_on_the_recipe():
    for stage in ("pixel_clip", "pixel_video", "selected_frames", "greedy_ids"):
        assert len({tolerance(stage, "executorch", schemes) for schemes in BUNDLES.values()}) == 1
    assert tolerance("greedy_ids", "executorch", BUNDLES["int4"]).own == 0
    assert tolerance("selected_frames", "executorch", BUNDLES["int4"]).chained == 0


def test_own_is_judged_by_the_stage_s_graph_and_the_chain_by_its_coarsest():
    fp32, int8 = BUNDLES["fp32"], BUNDLES["int8"]
    logits = tolerance("last_logits", "executorch", fp32 | {"image_encoder": "int8"})
    assert logits.own == tolerance("last_logits", "executorch", fp32).own
    assert logits.chained == tolerance("last_logits", "executorch", int8).chained
    assert logits.metric == "row"  # one metric for both: the coarser graph's
    scorer = tolerance("frame_scores", "executorch", fp32 | {"image_encoder": "int8"})
    assert scorer.own == 1e-5 and scorer.chained == tolerance("frame_scores", "executorch", int8).chained > scorer.own


def test_graphs_that_a_stage_does_not_pass_through_do_not_widen_it():
    elsewhere = BUNDLES["fp32"] | {"decoder": "int4", "image_encoder": "int4", "image_projector": "int8"}
    for stage in ("videomamba_tokens", "pooled_video_features", "video_tokens"):
        assert tolerance(stage, "executorch", elsewhere) == tolerance(stage, "executorch", BUNDLES["fp32"])
    assert tolerance("image_tokens", "executorch", elsewhere).chained > tolerance("image_tokens", "executorch", BUNDLES["fp32"]).chained


def test_the_chain_s_order_of_coarseness_is_that_of_bits():
    assert COARSENESS == ("fp32", "fp16", "int8", "int4")


def test_core_ml_s_float16_decoder_is_held_tighter_than_integer_activations():
    for recipe in ("int8", "int4"):
        ours, theirs = (tolerance("last_logits", target, BUNDLES[recipe]).own for target in ("coreml", "executorch"))
        assert ours < theirs / 4


@pytest.mark.parametrize("target, schemes", [("abacus", BUNDLES["fp32"]), ("executorch", dict.fromkeys(COMPONENTS, "fp16"))])
def test_without_bounds_nothing_is_verified(target, schemes):
    with pytest.raises(BackendError, match=f"no tolerances for stage last_logits .* on {target}"):
        tolerance("last_logits", target, schemes)
