"""The next token: greedy, or drawn from exactly the distribution that the options say."""

import pytest
import torch

from export.errors import BundleError, PromptError
from runtime_py.sampling import Sampler

LOGITS = torch.tensor([2.0, 0.0, 1.0, -1.0, 1.5])


def draw_counts(sampler: Sampler, logits: torch.Tensor, draws: int) -> torch.Tensor:
    return torch.bincount(torch.tensor([sampler(logits) for _ in range(draws)]), minlength=len(logits))


def test_greedy_takes_the_best_and_the_lowest_of_equals():
    assert Sampler()(LOGITS) == 0
    assert Sampler()(torch.tensor([1.0, 3.0, 3.0, 3.0])) == 1
    wide = torch.zeros(151_936)
    wide[[70_001, 70_000, 151_935]] = 1.0
    assert Sampler()(wide) == 70_000
    assert Sampler()(wide.half()) == 70_000


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature):
    expected = torch.softmax(LOGITS / temperature, -1) * 20_000
    counts = draw_counts(Sampler(temperature, seed=1), LOGITS, 20_000)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 18.5  # 4 degrees of freedom: exceeded once in a thousand seeds


@pytest.mark.parametrize(("top_p", "count"), [(0.05, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.875, 3), (0.9, 4), (1.0, 5)])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, count):
    kept = [2, 0, 4, 1, 3][:count]  # by probability, equals by id
    probabilities = torch.tensor([0.25, 0.0625, 0.5, 0.0625, 0.125])  # powers of two: their sums are exact
    counts = draw_counts(Sampler(1.0, top_p, seed=3), probabilities.log(), 2_000)
    assert counts.nonzero().flatten().tolist() == sorted(kept)
    shares = torch.zeros(5)
    shares[kept] = probabilities[kept] / probabilities[kept].sum()
    assert (counts / 2_000 - shares).abs().max() < 0.04  # 3.5 standard deviations at most


def test_a_seed_repeats_the_draws_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    untouched = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = Sampler(1.0, seed=11), Sampler(1.0, seed=11), Sampler(1.0, seed=12)
    draws = [[sampler(LOGITS) for _ in range(50)] for sampler in (first, second, other)]
    assert draws[0] == draws[1] != draws[2]
    assert torch.rand(1) == untouched
    unseeded = [[sampler(LOGITS) for _ in range(50)] for sampler in (Sampler(1.0), Sampler(1.0))]
    assert unseeded[0] != unseeded[1]


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-6])
def test_a_tiny_temperature_is_greedy(temperature):
    assert draw_counts(Sampler(temperature, 0.9, seed=0), LOGITS * 1e4, 20).tolist() == [20, 0, 0, 0, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_the_bundle_s_fault(value, temperature):
    with pytest.raises(BundleError, match="not finite"):
        Sampler(temperature)(torch.tensor([0.0, value, 1.0]))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"seed": -1},
        {"seed": 2**64},
    ],
)
def test_options_out_of_range_are_explained(options):
    with pytest.raises(PromptError, match="give a"):
        Sampler(**options)
