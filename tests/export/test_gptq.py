"""GPTQ: closer outputs at the same size, and nothing lost where nothing has to be."""

import pytest
import torch

from export.quant.gptq import gptq, search_scales
from export.quant.recipe import SCHEMES
from export.quant.rounding import Grid, dequantize, quantize

INT4 = SCHEMES["int4"]


def problem(rows: int = 48, columns: int = 128, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and the Gram matrix of inputs that are correlated and of very different sizes, as those of a decoder are."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5
    sizes = torch.exp(torch.randn(columns, generator=generator))
    inputs = (torch.randn(2000, columns, generator=generator) @ mix + 0.1 * torch.randn(2000, columns, generator=generator)) * sizes
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs / 2000


def output_error(weight: torch.Tensor, rounded: torch.Tensor, gram: torch.Tensor) -> float:
    return float((((rounded - weight) @ gram) * (rounded - weight)).sum())


@pytest.mark.parametrize("seed", range(3))
def test_outputs_are_less_than_half_as_wrong_as_rounded_to_nearest(seed):
    weight, gram = problem(seed=seed)
    nearest = output_error(weight, dequantize(*quantize(weight, INT4, torch.bfloat16)), gram)
    scale = search_scales(weight, gram.diagonal(), INT4, torch.bfloat16)
    steps = scale.float().repeat_interleave(32, 1)
    scaled = output_error(weight, torch.clamp(torch.round(weight / steps), -8, 7) * steps, gram)
    calibrated = output_error(weight, dequantize(*gptq(weight, gram, INT4, torch.bfloat16)), gram)
    assert calibrated < 0.5 * nearest and calibrated < scaled < nearest


def test_the_form_is_that_of_the_scheme():
    weight, gram = problem()
    integers, scale = gptq(weight, gram, INT4, torch.bfloat16)
    assert integers.dtype == torch.int8 and integers.shape == weight.shape and scale.shape == (48, 4) and scale.dtype == torch.bfloat16
    assert int(integers.min()) >= -8 and int(integers.max()) <= 7
    grid = Grid(integers, scale)
    assert torch.equal(scale.float(), scale.to(torch.float16).float())  # exact on the targets that store float16
    assert torch.equal(grid.weight(), dequantize(integers, scale))


def test_uncorrelated_inputs_of_one_size_leave_each_weight_alone():
    """With H = I no error can be made up for: every weight goes to its nearest step of the scale that loses least."""
    weight, _ = problem()
    integers, scale = gptq(weight, torch.eye(128), INT4, torch.bfloat16)
    steps = scale.float().repeat_interleave(32, 1)
    assert torch.equal(integers.float(), torch.clamp(torch.round(weight / steps), -8, 7))


def test_a_weight_on_a_grid_stays_as_it_is():
    generator = torch.Generator().manual_seed(1)
    integers = torch.randint(-8, 8, (16, 64), generator=generator)
    integers[:, ::32] = -8  # the whole span in every group
    integers[:, 1::32] = 7
    weight = integers.float() * 0.0625
    _, gram = problem(16, 64)
    assert torch.allclose(dequantize(*gptq(weight, gram, INT4, torch.bfloat16)), weight, atol=0.0625 * 0.51)


@pytest.mark.parametrize("gram", [torch.zeros(64, 64), torch.ones(64, 64)], ids=["inputs that were zero", "inputs all alike"])
def test_degenerate_statistics_give_finite_weights(gram):
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    rounded = dequantize(*gptq(weight, gram, INT4, torch.bfloat16))
    assert torch.isfinite(rounded).all() and (rounded - weight).abs().max() < 2.5


def test_a_row_of_zeros_and_a_dead_input():
    weight, gram = problem(8, 64)
    weight[3] = 0
    gram[5], gram[:, 5] = 0, 0
    rounded = dequantize(*gptq(weight, gram, INT4, torch.bfloat16))
    assert not rounded[3].any() and torch.isfinite(rounded).all()


def test_int8_per_channel_too():
    weight, gram = problem()
    integers, scale = gptq(weight, gram, SCHEMES["int8"], torch.bfloat16)
    assert scale.shape == (48, 1)
    nearest = output_error(weight, dequantize(*quantize(weight, SCHEMES["int8"], torch.bfloat16)), gram)
    assert output_error(weight, dequantize(integers, scale), gram) < nearest
