"""From a recipe to the layers of a component: which weight gets which scheme, before any backend touches it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from export.errors import RecipeError
from export.quant.recipe import EMBEDDING, LINEAR, NEAREST, Recipe, Scheme
from export.quant.rounding import Grid, quantize

# What encoders add to their patches, by its names in the twins.
EMBEDDED = (
    "class_embedding", "class_token", "position_embedding", "temporal_position_embedding",
    "first", "positions", "times",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One layer's scheme. `shape` is the weight's [out, in]; `reason` says why an exclusion rule took the layer.

    `rounding` is the rule's. A calibrated one's result is `grid`: the integers and scales that every target stores as they are.
    """

    layer: str
    kind: str
    scheme: Scheme
    shape: tuple[int, int]
    reason: str = ""
    rounding: str = NEAREST
    grid: Grid | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def weights(self) -> int:
        return self.shape[0] * self.shape[1]

    def quantize(self, weight: Tensor, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The layer's integers [O, I] and scales [O, I / group]: the calibrated ones, or `weight` rounded to nearest."""
        if self.grid is not None:
            return self.grid.integers, self.grid.scale.to(scale_dtype)
        return quantize(weight, self.scheme, scale_dtype)


def assign(recipe: Recipe, component: str, layers: Iterable[tuple[str, str, tuple[int, int]]]) -> list[Assignment]:
    """Match (name, kind, shape) triples of one component against the recipe's rules, first match wins."""
    assignments = []
    for layer, kind, shape in layers:
        rule = recipe.rule_for(component, kind, layer, in_width=shape[1])
        scheme = recipe.scheme_for(component, kind, layer, in_width=shape[1])
        rounding = rule.rounding if rule and scheme.quantized else NEAREST
        assignments.append(Assignment(layer, kind, scheme, shape, rule.reason if rule else "", rounding))
    return assignments


def quantizable_layers(twin: nn.Module) -> list[tuple[str, str, tuple[int, int]]]:
    """(name, kind, weight shape) of every layer of a twin that a rule can name."""
    kinds = {nn.Linear: LINEAR, nn.Embedding: EMBEDDING}
    return [(name, kinds[type(m)], tuple(m.weight.shape)) for name, m in twin.named_modules() if type(m) in kinds]


def left_in_float(twin: nn.Module) -> dict[str, int]:
    """Weights of a twin that no rule can name, which stay float under every recipe: how many by what they are, most first."""
    counts: collections.Counter[str] = collections.Counter()
    for owner in twin.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if type(owner) not in (nn.Linear, nn.Embedding) or name != "weight":
                counts[_kind(owner, name)] += parameter.numel()
    return dict(counts.most_common())


def _kind(owner: nn.Module, parameter: str) -> str:
    if "Norm" in type(owner).__name__:
        return "norms"
    if parameter == "bias":
        return "biases"
    if isinstance(owner, nn.Conv2d):
        return "convolutions"
    if parameter in ("A", "D"):
        return "A and D of the scan"
    return "class and position embeddings" if parameter in EMBEDDED else "others"


def derived_constants(twin: nn.Module) -> list[tuple[int, ...]]:
    """Shapes of a twin's constants that are computed from sizes alone (non-persistent buffers): they count as no weights."""
    kept = set(twin.state_dict())
    return [tuple(buffer.shape) for name, buffer in twin.named_buffers() if name not in kept and buffer.is_floating_point()]


def check_rules(recipe: Recipe, layers: dict[str, list[tuple[str, str, tuple[int, int]]]]) -> None:
    """Every rule that is not optional must decide at least one layer of the model (`layers` by component).

    Raises:
        RecipeError: names the rule that matches nothing.
    """
    used = {recipe.rule_for(component, kind, name, shape[1]) for component, triples in layers.items() for name, kind, shape in triples}
    for rule in recipe.rules:
        if not rule.optional and rule not in used:
            named = f"{rule.component}/{rule.layers} -> {rule.scheme}"
            raise RecipeError(f"recipe {recipe.name}: the rule {named} matches no {rule.kind} layer")


def computes_half(assignments: list[Assignment]) -> bool:
    """Whether a target that has float16 arithmetic uses it in a graph: not with a weight in float32, nor without any (scores)."""
    return bool(assignments) and all(assignment.scheme.name != "fp32" for assignment in assignments)
