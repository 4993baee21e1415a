"""Recipes: which layers get which weight scheme, as ordered rules. Pure data that knows no backend.

A rule names layers by glob; the first rule that matches a layer decides. A rule that matches nothing is an error unless it is
marked optional (an exclusion that a checkpoint may not need). A recipe is serialized into the bundle as it was applied.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from pathlib import Path

from export.errors import RecipeError

LINEAR, EMBEDDING = KINDS = ("linear", "embedding")  # kinds of layer a rule can name; everything else stays float

NEAREST, GPTQ = "nearest", "gptq"
ROUNDINGS = (NEAREST, GPTQ)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How a weight is stored. `group_size` 0 means one scale per output channel (or per row of an embedding)."""

    name: str
    bits: int
    group_size: int = 0  # input values that share a scale

    @property
    def quantized(self) -> bool:
        return self.bits < 16


SCHEMES: dict[str, Scheme] = {
    "fp32": Scheme("fp32", 32),
    "fp16": Scheme("fp16", 16),
    "int8": Scheme("int8", 8),
    "int4": Scheme("int4", 4, group_size=32),
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """Layers of `kind` in components matching `component` whose name matches `layers` get `scheme`.

    `rounding` says how the integers are chosen: "nearest", or by an algorithm that reads calibration statistics.
    `divides`: the rule takes only layers whose input width is a multiple of it. `reason` says why an exclusion exists; a
    layer that falls to a rule with a reason is listed in the manifest.
    """

    component: str
    kind: str
    scheme: str
    layers: str = "*"
    divides: int = 1
    optional: bool = False
    reason: str = ""
    rounding: str = NEAREST

    def matches(self, component: str, kind: str, layer: str, in_width: int) -> bool:
        return (
            kind == self.kind
            and fnmatch.fnmatchcase(component, self.component)
            and fnmatch.fnmatchcase(layer, self.layers)
            and in_width % self.divides == 0
        )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An ordered list of rules, and the dtype of all weights that no rule names."""

    name: str
    rules: tuple[Rule, ...]
    rest: str = "fp32"
    overrides: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict:
        return dataclasses.asdict(self)

    @property
    def calibrated(self) -> bool:
        """Whether a rule reads calibration statistics."""
        return any(rule.rounding != NEAREST for rule in self.rules)

    def rule_for(self, component: str, kind: str, layer: str, in_width: int) -> Rule | None:
        return next((rule for rule in self.rules if rule.matches(component, kind, layer, in_width)), None)

    def scheme_for(self, component: str, kind: str, layer: str, in_width: int) -> Scheme:
        rule = self.rule_for(component, kind, layer, in_width)
        return SCHEMES[rule.scheme if rule else self.rest]


def component_rules(component: str, scheme: str, optional: bool = False, rounding: str = NEAREST) -> tuple[Rule, ...]:
    """The rules that put one scheme on all linears (and embeddings) of a component; `component` may be a glob."""
    if not SCHEMES[scheme].quantized:
        return (Rule(component, LINEAR, scheme, optional=True), Rule(component, EMBEDDING, scheme, optional=True))
    group = SCHEMES[scheme].group_size
    rules = (Rule(component, LINEAR, scheme, divides=group or 1, optional=optional, rounding=rounding),)
    if group:
        reason = f"input width is no multiple of the group size {group}: int8 per channel instead"
        rules += (Rule(component, LINEAR, "int8", optional=True, reason=reason),)
    return rules


def override(recipe: Recipe, component: str, scheme: str) -> Recipe:
    """The recipe with one component put under another scheme, as `--quant COMPONENT=SCHEME` asks."""
    if component == "frame_scorer":
        raise RecipeError("--quant frame_scorer: it has no weights and always computes in float32; leave it out")
    if component == "token_embedding":
        if scheme == "int4":
            raise RecipeError("--quant token_embedding=int4: the embedding table can be fp32, fp16 or int8")
        rules: tuple[Rule, ...] = (Rule(component, EMBEDDING, scheme),)
    else:
        rules = component_rules(component, scheme)
    # What was asked for this component before is void. Globs may now match nothing else: they become optional.
    rest = tuple(dataclasses.replace(rule, optional=True) for rule in recipe.rules if rule.component != component)
    overrides = tuple(pair for pair in recipe.overrides if pair[0] != component)
    return dataclasses.replace(recipe, rules=rules + rest, overrides=overrides + ((component, scheme),))


def read_recipe(path: Path) -> Recipe:
    """A recipe from the JSON that `Recipe.to_json` gives, as a bundle's manifest and `calibration.sensitivity` have it.

    Raises:
        RecipeError: the file cannot be read, or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        rules = tuple(Rule(**rule) for rule in data.pop("rules"))
        overrides = tuple(tuple(pair) for pair in data.pop("overrides", ()))
        recipe = Recipe(rules=rules, overrides=overrides, **data)
        texts = [recipe.name, recipe.rest]
        texts += [text for r in rules for text in (r.component, r.kind, r.scheme, r.layers, r.reason, r.rounding)]
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(r.divides, int) and r.divides > 0 for r in rules):
            raise TypeError("a field has a wrong type")
    except OSError as error:
        raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        remedy = "write one with calibration.sensitivity, or copy a manifest's recipe_rules"
        raise RecipeError(f"{path} is no recipe ({error}): {remedy}") from error
    for field, value, choices in (
        *(("scheme", rule.scheme, SCHEMES) for rule in rules), ("rest", recipe.rest, SCHEMES), *(("kind", r.kind, KINDS) for r in rules),
        *(("rounding", rule.rounding, ROUNDINGS) for rule in rules),
    ):  # fmt: skip
        if value not in choices:
            raise RecipeError(f"{path}: unknown {field} '{value}': choose one of {', '.join(choices)}")
    for number, rule in enumerate(recipe.rules):
        group = SCHEMES[rule.scheme].group_size
        if group and rule.kind == EMBEDDING:
            raise RecipeError(f"{path}: rule {number} puts {rule.scheme} on an embedding, which can be fp32, fp16 or int8")
        if group and rule.divides % group:
            what = f'it has groups of {group}, so write "divides": {group}'
            raise RecipeError(f"{path}: rule {number} puts {rule.scheme} on linears of any width: {what}, and another rule for the others")
    return recipe
