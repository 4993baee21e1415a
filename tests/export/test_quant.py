"""Recipes: the documented table layer by layer, the order of rules and overrides, and every refusal."""

import dataclasses
import json
import sys

import pytest

from export.backends.executorch import ExecutorchBackend
from export.checkpoint import open_checkpoint
from export.components import COMPONENTS, Form
from export.errors import BackendError, RecipeError
from export.plan import meta_twins
from export.quant.apply import assign, check_rules, quantizable_layers
from export.quant.presets import DEFAULT, PRESETS, parse
from export.quant.recipe import EMBEDDING, LINEAR, Recipe, Rule
from tests.numerics import DEMO

ENCODERS_AND_PROJECTORS = ("image_encoder", "video_encoder", "image_projector", "video_projector")
TABLE = {  # recipe -> component -> scheme of its linears or its table; docs/design.md
    "fp32": dict.fromkeys((*ENCODERS_AND_PROJECTORS, "token_embedding", "decoder"), "fp32"),
    "fp16": dict.fromkeys((*ENCODERS_AND_PROJECTORS, "token_embedding", "decoder"), "fp16"),
    "int8": dict.fromkeys((*ENCODERS_AND_PROJECTORS, "token_embedding", "decoder"), "int8"),
    "int4": dict.fromkeys((*ENCODERS_AND_PROJECTORS, "token_embedding"), "int8") | {"decoder": "int4"},
    "int4-gptq": dict.fromkeys((*ENCODERS_AND_PROJECTORS, "token_embedding"), "int8") | {"decoder": "int4"},
}


@pytest.fixture(scope="module")
def config():
    return open_checkpoint(DEMO).config


@pytest.fixture(scope="module")
def layers():
    return {name: quantizable_layers(twin) for name, twin in meta_twins(open_checkpoint(DEMO), Form(64)).items()}


def schemes(recipe, layers):
    """component -> {layer: scheme}"""
    return {c: {a.layer: a.scheme.name for a in assign(recipe, c, triples)} for c, triples in layers.items()}


def test_the_layers_a_recipe_can_name_are_all_linears_and_the_table(layers, config):
    mixers = 1 + 2 * 2 + 1  # in_proj, x_proj and dt_proj in both directions, out_proj
    assert {name: len(triples) for name, triples in layers.items()} == {
        "image_encoder": 6 * config.clip.depth,
        "frame_scorer": 0,
        "video_encoder": mixers * config.videomamba.depth,
        "image_projector": config.image_projector.depth,
        "video_projector": config.video_projector.depth,
        "token_embedding": 1,
        "decoder": 7 * config.decoder.layers + 1,  # and the head
    }
    kinds = {name: {kind for _, kind, _ in triples} for name, triples in layers.items() if triples}
    assert kinds == dict.fromkeys(kinds, {LINEAR}) | {"token_embedding": {EMBEDDING}}
    assert ("head", LINEAR, (config.decoder.vocab, config.decoder.width)) in layers["decoder"]


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_the_documented_table(name, layers):
    recipe = parse(name, [], COMPONENTS)
    check_rules(recipe, layers)
    for component, found in schemes(recipe, layers).items():
        assert set(found.values()) <= {TABLE[name].get(component)}, component
        assert len(found) == len(layers[component])
    assert recipe.rest == ("fp16" if name == "fp16" else "fp32")
    assert not any(a.reason for c, triples in layers.items() for a in assign(recipe, c, triples))


def test_int4_is_the_default_in_groups_of_32(layers):
    assert DEFAULT == "int4"
    assignments = assign(PRESETS["int4"], "decoder", layers["decoder"])
    assert {(a.scheme.bits, a.scheme.group_size) for a in assignments} == {(4, 32)}
    assert {(a.scheme.bits, a.scheme.group_size) for a in assign(PRESETS["int4"], "image_encoder", layers["image_encoder"])} == {(8, 0)}


def test_the_first_rule_that_matches_decides():
    rules = Rule("decoder", LINEAR, "fp32", layers="head"), Rule("dec*", LINEAR, "int4", divides=32), Rule("*", LINEAR, "int8")
    recipe = Recipe("mine", rules)
    triples = [("head", LINEAR, (64, 32)), ("layers.q", LINEAR, (64, 64)), ("layers.k", LINEAR, (64, 48)), ("table", EMBEDDING, (8, 32))]
    assert [a.scheme.name for a in assign(recipe, "decoder", triples)] == ["fp32", "int4", "int8", "fp32"]
    assert [a.scheme.name for a in assign(recipe, "image_encoder", triples)] == ["int8", "int8", "int8", "fp32"]
    turned = dataclasses.replace(recipe, rules=recipe.rules[::-1])
    assert {a.scheme.name for a in assign(turned, "decoder", triples[:3])} == {"int8"}


@pytest.mark.parametrize("component", [*ENCODERS_AND_PROJECTORS, "decoder"])
@pytest.mark.parametrize("scheme", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("base", ["fp32", "int4"])
def test_an_override_changes_its_component_and_no_other(base, scheme, component, layers):
    recipe = parse(base, [f"{component}={scheme}"], COMPONENTS)
    check_rules(recipe, layers)
    found, before = schemes(recipe, layers), schemes(PRESETS[base], layers)
    assert set(found.pop(component).values()) == {scheme}
    before.pop(component)
    assert found == before
    assert recipe.overrides == ((component, scheme),)


@pytest.mark.parametrize("scheme", ["fp32", "fp16", "int8"])
def test_the_embedding_table_can_be_overridden(scheme, layers):
    recipe = parse("int4", [f"token_embedding={scheme}"], COMPONENTS)
    check_rules(recipe, layers)
    assert schemes(recipe, layers)["token_embedding"] == {"table": scheme}


def test_the_last_override_of_a_component_counts(layers):
    recipe = parse("int4", ["decoder=int8", "image_encoder=fp32", "decoder=fp32"], COMPONENTS)
    found = schemes(recipe, layers)
    assert set(found["decoder"].values()) == {"fp32"} and set(found["image_encoder"].values()) == {"fp32"}
    assert dict(recipe.overrides) == {"decoder": "fp32", "image_encoder": "fp32"}
    check_rules(recipe, layers)


@pytest.mark.parametrize("component", ["decoder", "token_embedding"])
def test_an_override_that_was_overridden_leaves_nothing_behind(component):
    recipe = parse("int4", [f"{component}=fp16", f"{component}=int8"], COMPONENTS)
    assert recipe == parse("int4", [f"{component}=int8"], COMPONENTS)
    ExecutorchBackend().check(recipe, verify=True)  # the fp16 that it would refuse is asked for no more


def test_widths_that_no_group_divides_go_to_int8_and_say_why(layers):
    recipe = parse("int4", ["video_encoder=int4"], COMPONENTS)
    check_rules(recipe, layers)
    assignments = assign(recipe, "video_encoder", layers["video_encoder"])
    excluded = [a for a in assignments if a.shape[1] % 32]
    assert excluded and all(a.layer.endswith("dt_proj") for a in excluded)
    for a in assignments:
        assert a.scheme.name == ("int8" if a in excluded else "int4")
        assert ("no multiple of the group size 32" in a.reason) == (a in excluded)


@pytest.mark.parametrize(
    "rule", [Rule("decoder", LINEAR, "int8", layers="*.query"), Rule("encoder", LINEAR, "int4"), Rule("decoder", EMBEDDING, "int8")]
)
def test_a_rule_that_matches_nothing_is_an_error_that_names_it(rule, layers):
    with pytest.raises(RecipeError) as caught:
        check_rules(Recipe("mine", (*PRESETS["int8"].rules, rule)), layers)
    for word in ("mine", f"{rule.component}/{rule.layers}", rule.scheme, rule.kind):
        assert word in str(caught.value)
    check_rules(Recipe("mine", (*PRESETS["int8"].rules, dataclasses.replace(rule, optional=True))), layers)


def test_a_rule_that_only_repeats_an_earlier_one_is_an_error_too(layers):
    shadowed = Rule("image_*", LINEAR, "int4", divides=32)
    with pytest.raises(RecipeError, match="image_"):
        check_rules(Recipe("mine", (*PRESETS["int8"].rules, shadowed)), layers)


@pytest.mark.parametrize(
    "name, overrides, words",
    [
        ("int3", [], ["int3", *PRESETS]),
        ("int4", ["decoder"], ["--quant decoder", "COMPONENT=SCHEME", "decoder=int8"]),
        ("int4", ["encoder=int8"], ["--quant encoder=int8", *COMPONENTS]),
        ("int4", ["=int8"], ["--quant =int8", *COMPONENTS]),
        ("int4", ["decoder=int2"], ["--quant decoder=int2", "fp32", "fp16", "int8", "int4"]),
        ("int4", ["decoder=int8=int4"], ["int8=int4", "choose one of fp32"]),
        ("int4", ["decoder="], ["--quant decoder=", "choose one of fp32"]),
        ("int4", ["decoder=int8", "frame_scorer=fp32"], ["frame_scorer", "no weights", "float32"]),
        ("int4", ["token_embedding=int4"], ["token_embedding=int4", "fp32, fp16 or int8"]),
    ],
)
def test_what_cannot_be_is_refused_with_the_choices(name, overrides, words):
    with pytest.raises(RecipeError) as caught:
        parse(name, overrides, COMPONENTS)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("overrides", [[], ["decoder=int8", "video_encoder=int4", "token_embedding=fp32"]])
@pytest.mark.parametrize("name", PRESETS)
def test_a_recipe_is_plain_data_that_comes_back_whole(name, overrides):
    recipe = parse(name, overrides, COMPONENTS)
    data = json.loads(json.dumps(recipe.to_json()))
    again = Recipe(
        **data | {"rules": tuple(Rule(**rule) for rule in data["rules"]), "overrides": tuple(tuple(pair) for pair in data["overrides"])}
    )
    assert again == recipe


@pytest.mark.parametrize("name, overrides", [("fp16", []), ("int4", ["decoder=fp16"]), ("fp16", ["decoder=int8"])])
def test_executorch_refuses_fp16_and_says_what_it_can(name, overrides):
    with pytest.raises(RecipeError, match="executorch.*int8.*fp32"):
        ExecutorchBackend().check(parse(name, overrides, COMPONENTS), verify=True)


@pytest.mark.parametrize("kernels", ["stock", "fused"])
@pytest.mark.parametrize("name", ["fp32", "int8", "int4"])
def test_executorch_takes_the_other_recipes_and_says_how_it_computes(name, kernels, layers):
    backend, recipe = ExecutorchBackend(kernels), parse(name, ["video_encoder=fp32"], COMPONENTS)
    backend.check(recipe, verify=False)
    said = {component: backend.activations(assign(recipe, component, found)) for component, found in layers.items()}
    assert said["video_encoder"] == said["frame_scorer"] == "float32"
    integers = {"fp32": "float32", "int8": "int8 per token, dynamic", "int4": "int8 per token, dynamic"}[name]
    assert said["image_encoder"] == ("float32" if name == "fp32" else "int8 per token, dynamic")
    assert said["decoder"] == ("int8 per 32 inputs, dynamic" if (name, kernels) == ("int4", "fused") else integers)


def test_executorch_asks_for_its_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)  # as where it is not installed
    with pytest.raises(BackendError, match="needs the package torchao: pip install"):
        ExecutorchBackend().check(PRESETS["int4"], verify=True)
