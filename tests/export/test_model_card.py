import dataclasses

import pytest

from export import manifest as m
from export.model_card import render_model_card
from tests.export.test_manifest import sample_manifest


def card(**changes) -> str:
    return render_model_card(dataclasses.replace(sample_manifest(), **changes))


def with_decoder(**changes) -> str:
    graphs = sample_manifest().graphs
    return card(graphs=graphs | {"decoder": dataclasses.replace(graphs["decoder"], **changes)})


def test_the_card_tells_what_the_manifest_holds():
    text = card(files={"tokenizer.json": m.FileEntry("0" * 64, 1)})
    for says in (
        "# Mobile-VideoGPT-0.5B for executorch",
        "Recipe: `int4`, with decoder as int8; 4.60 bits per weight",
        "expected peak memory: 600.0 MB",
        "up to 4,096 tokens, of which a video takes 2,402",
        "python -m runtime_py.chat --bundle DIR --video FILE",
        "`pixels` float32 [16, 3, 224, 224], `ids` int64 [1, tokens] → `pixels` float32 [16, 3, 224, 224]",
        "int4 90.0 %, fp32 10.0 %",
        "97.0 % (xnnpack)",
        "`tokens` from 1 to 512",
        "| `image_tokens` | relative error | 0.001 (at most 0.01) | 0.002 (at most 0.02) | yes |",
        "need: `aten::topk`. The stock runtime has all of them",
        "Of 6 questions the bundle answers 5 right, the model 6.",
        "| decoder | CC BY-NC-SA 4.0 |",
        "Built 2026-01-31T12:00:00Z with torch 2.13.0.",
    ):
        assert says in text, says
    for graph in m.GRAPHS:
        assert f"| `{graph}` |" in text
    assert "not verified" not in text and "/" + "work" not in text


def test_an_unverified_bundle_says_so():
    assert "**This bundle is not verified**" in card(verified=False, parity=())
    assert "## Parity" not in card(verified=False, parity=())


def test_a_failed_stage_stands_out():
    stage = dataclasses.replace(sample_manifest().parity[0], passed=False)
    assert "| **no** |" in card(parity=(stage,))


def test_without_a_tokenizer_the_card_names_the_commands_that_work():
    text = card(files={})
    assert "runtime_py.chat" not in text and "runtime_py.parity --bundle DIR" in text


def test_many_layers_with_one_reason_are_one_line():
    excluded = {f"layers.{i}.mixer.dt_proj": "36 has no group of 32" for i in range(32)} | {"layers.3.head": "kept for accuracy"}
    lines = [line for line in with_decoder(excluded=excluded).splitlines() if line.startswith("- `decoder`")]
    assert lines == [
        "- `decoder`: `layers.*.mixer.dt_proj` (32 layers): 36 has no group of 32",
        "- `decoder`: `layers.*.head` (1 layer): kept for accuracy",
    ]


def test_many_patterns_are_cut_short():
    text = with_decoder(excluded={f"part_{chr(97 + i)}": "why" for i in range(20)})
    assert "`part_h`, ... (20 layers)" in text and "part_i" not in text


def test_nothing_left_out_has_no_section():
    graphs = {name: dataclasses.replace(graph, excluded={}) for name, graph in sample_manifest().graphs.items()}
    assert "leaves out" not in card(graphs=graphs)


def test_operators_a_host_must_link_are_named():
    text = card(kernels="fused", custom_operators=("mvg::selective_scan",))
    assert "A host must also link operators that the stock runtime has not: `mvg::selective_scan`." in text


@pytest.mark.parametrize(("share", "shown"), [(0.99999, "99.9 %"), (1.0, "100 %"), (0.0, "0 %"), (0.00001, "0.1 %")])
def test_nearly_all_is_not_shown_as_all(share, shown):
    assert f"| {shown} (xnnpack) |" in with_decoder(delegated=share)


def test_a_graph_without_weights_has_no_share():
    text = with_decoder(schemes=())
    assert "| none | int8 dynamic |" in text


def test_text_with_bars_and_line_breaks_keeps_the_tables_whole():
    stage = dataclasses.replace(sample_manifest().parity[0], note="one | two\nthree")
    (row,) = [line for line in card(parity=(stage,)).splitlines() if line.startswith("| `image_tokens`")]
    assert row.endswith("one \\| two three |")


def test_what_the_gates_measured_stands_there_and_nothing_without_them():
    assert "## Answers" not in card(accuracy={})
    text = card(accuracy={"questions": 8.0, "kl": 0.01234, "top1_agreement": 0.987, "answer_tokens": 40.0})
    assert "Over 40 answer tokens its distributions are 0.0123 nats" in text and "98.70 %" in text.replace("98.70%", "98.70 %")
