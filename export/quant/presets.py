"""The recipes a user can name, and the reading of `--recipe` and `--quant`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from export.errors import RecipeError
from export.quant.recipe import EMBEDDING, GPTQ, SCHEMES, Recipe, Rule, component_rules, override, read_recipe

_INT8 = (*component_rules("*", "int8"), Rule("token_embedding", EMBEDDING, "int8"))

PRESETS: dict[str, Recipe] = {
    "fp32": Recipe("fp32", rules=()),
    "fp16": Recipe("fp16", rules=(), rest="fp16"),
    "int8": Recipe("int8", _INT8),
    "int4": Recipe("int4", component_rules("decoder", "int4") + _INT8),
    "int4-gptq": Recipe("int4-gptq", component_rules("decoder", "int4", rounding=GPTQ) + _INT8),
}
DEFAULT = "int4"


def parse(name: str, overrides: Sequence[str], components: Collection[str]) -> Recipe:
    """The recipe called `name`, or read from the file `name`, with `COMPONENT=SCHEME` overrides applied, the last one first in effect.

    Raises:
        RecipeError: an unknown recipe, component or scheme; the message lists the choices.
    """
    recipe = read_recipe(Path(name)) if name.endswith(".json") else PRESETS.get(name)
    if recipe is None:
        raise RecipeError(f"unknown recipe '{name}': choose one of {', '.join(PRESETS)}, or give a recipe's .json file")
    for text in overrides:
        component, equals, scheme = text.partition("=")
        if not equals:
            raise RecipeError(f"--quant {text}: write COMPONENT=SCHEME, for example decoder=int8")
        if component not in components:
            raise RecipeError(f"--quant {text}: unknown component '{component}'; choose one of {', '.join(components)}")
        if scheme not in SCHEMES:
            raise RecipeError(f"--quant {text}: unknown scheme '{scheme}'; choose one of {', '.join(SCHEMES)}")
        recipe = override(recipe, component, scheme)
    return recipe
