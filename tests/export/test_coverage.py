"""Coverage: what the written file holds against what the recipe asked for, on paper and with real `.pte` files."""

import pytest
import torch
from torch import nn

from export.backends import executorch
from export.backends.executorch import ExecutorchBackend
from export.components import Component, Signature
from export.errors import RecipeError
from export.manifest import SchemeShare, TensorSpec
from export.quant.apply import Assignment, derived_constants
from export.quant.coverage import StoredWeight, check, shares, without_derived
from export.quant.recipe import LINEAR, SCHEMES


def assigned(**layers):
    """name -> (scheme, out, in)"""
    return [Assignment(name, LINEAR, SCHEMES[scheme], (out, into)) for name, (scheme, out, into) in layers.items()]


def stored(scheme, *shape, size=1):
    return StoredWeight(scheme, shape, size)


ASSIGNED = assigned(q=("int4", 64, 32), k=("int4", 64, 32), up=("int8", 96, 32), norm=("fp32", 8, 8))
STORED = [stored("int4", 64, 32), stored("int4", 64, 32), stored("int8", 96, 32), stored("fp32", 64)]


def test_a_file_that_holds_every_layer_passes():
    check("decoder", ASSIGNED, STORED)
    check("decoder", ASSIGNED, [*STORED, stored("int8", 5, 5)])  # more than was asked for is none of its business


@pytest.mark.parametrize("left_out, names", [(2, "up (int8, 96x32)"), (0, "k (int4, 64x32)")])
def test_a_missing_layer_is_named(left_out, names):
    """Of two layers of one shape the file cannot tell which is missing: the count decides."""
    with pytest.raises(RecipeError) as caught:
        check("decoder", ASSIGNED, [weight for i, weight in enumerate(STORED) if i != left_out])
    message = str(caught.value)
    assert message.startswith("decoder: ") and names in message and "--quant decoder=fp32" in message
    assert sum(layer in message for layer in ("q (", "k (", "up (", "norm (")) == 1


@pytest.mark.parametrize("instead", [stored("fp32", 96, 32), stored("int4", 96, 32), stored("int8", 32, 96), stored("int8", 96, 16)])
def test_another_scheme_or_shape_in_its_place_does_not_count(instead):
    with pytest.raises(RecipeError, match=r"up \(int8, 96x32\)"):
        check("decoder", ASSIGNED, [*STORED[:2], instead])


def test_many_missing_layers_are_counted_after_the_third():
    layers = assigned(**{f"layer{i}": ("int8", 8, 8 + i) for i in range(5)})
    with pytest.raises(RecipeError, match="layer0.*layer1.*layer2.* and 2 more"):
        check("decoder", layers, [])


def test_shares_count_weights_and_bytes_by_scheme():
    weights = [stored("int8", 4, 8, size=48), stored("fp32", 5, size=20), stored("int8", 2, 2, size=12)]
    assert shares(weights) == (SchemeShare("int8", 36, 60), SchemeShare("fp32", 5, 20))
    assert shares([]) == ()


def test_derived_constants_go_in_whatever_layout_they_are_stored():
    weights = [stored("fp32", 9, 4), stored("fp32", 1, 7, 1), stored("fp32", 7), stored("int8", 4, 9), stored("fp32", 4, 4)]
    left = without_derived(weights, [(4, 9), (7,)])
    assert left == [stored("fp32", 7), stored("int8", 4, 9), stored("fp32", 4, 4)]  # one of the two sevens; nothing quantized
    assert without_derived(weights, []) == weights


class Small(nn.Module):
    """Three linears of distinct shapes, a weight-free table of its own and a parameter beside them."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(32, 48), nn.Linear(48, 64, bias=False), nn.Linear(64, 16, bias=False)
        self.shift = nn.Parameter(torch.arange(16.0))
        self.register_buffer("table", torch.linspace(1, 2, 64).reshape(1, 64), persistent=False)

    def forward(self, x):
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))) * self.table) + self.shift


SIGNATURE = Signature((TensorSpec("x", (5, 32), "float32", "x"),), (TensorSpec("y", (5, 16), "float32", "y"),))
COMPONENT = Component("small", (), lambda config, context: SIGNATURE, lambda model, context: Small())
SMALL = assigned(first=("int8", 48, 32), second=("int8", 64, 48), third=("int4", 16, 64))


def read_back(path):
    torch.manual_seed(0)
    backend = ExecutorchBackend()
    backend.lower(Small(), SIGNATURE, SMALL, path)
    return backend.read(path)


def test_a_real_file_holds_its_schemes_and_bytes_and_no_derived_table(tmp_path):
    artifact = read_back(tmp_path / "small.pte")
    check("small", SMALL, artifact.stored)
    assert derived_constants(Small()) == [(1, 64)]
    found = {share.scheme: (share.weights, share.bytes) for share in shares(without_derived(artifact.stored, derived_constants(Small())))}
    assert found == {
        "int8": (48 * 32 + 64 * 48, 48 * 32 + 64 * 48 + 4 * (48 + 64)),  # a float32 scale per output channel
        "int4": (16 * 64, 16 * 64 // 2 + 2 * 16 * 64 // 32),  # a bfloat16 scale per group of 32
        "fp32": (48 + 16, 4 * (48 + 16)),  # bias and shift
    }
    assert artifact.delegate == "xnnpack" and artifact.delegated == 1.0


@pytest.mark.parametrize("skipped", ["first", "second", "third"])
def test_a_layer_that_the_backend_skipped_in_silence_is_found_in_the_file(skipped, tmp_path, monkeypatch):
    quantize = executorch.quantize
    monkeypatch.setattr(executorch, "quantize", lambda twin, layers: quantize(twin, [a for a in layers if a.layer != skipped]))
    artifact = read_back(tmp_path / "small.pte")
    with pytest.raises(RecipeError) as caught:
        check("small", SMALL, artifact.stored)
    assert [layer for layer in ("first", "second", "third") if f"{layer} (" in str(caught.value)] == [skipped]
