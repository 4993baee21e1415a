"""The scan that trains: the sequential form's results and gradients."""

import pytest
import torch

from export.ops.selective_scan import selective_scan_sequential, training_scan
from export.ops.selective_scan import training as module

NAMES = ("u", "delta", "A", "B", "C", "D")


def arguments(length: int, channels: int, states: int = 16, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    delta = torch.nn.functional.softplus(normal(length, 2, channels) - 3)
    values = [
        normal(length, 2, channels), delta, -torch.exp(normal(2, channels, states)), normal(length, 2, states), normal(length, 2, states),
        normal(2, channels),
    ]  # fmt: skip
    return [value.requires_grad_() for value in values]


def gradients(scan, given: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    inputs = [value.detach().clone().requires_grad_() for value in given]
    y = scan(*inputs)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9))
    (y * weights).sum().backward()
    return y.detach(), [torch.zeros_like(value) if value.grad is None else value.grad for value in inputs]  # one step has no use for A


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "graph"])
@pytest.mark.parametrize("length, channels, states", [(1, 8, 16), (37, 24, 16), (300, 40, 4), (65, 7, 1)])
def test_results_and_gradients_are_the_sequential_forms(kernel, length, channels, states, monkeypatch):
    if kernel and module._kernel() is None:
        pytest.skip("no C++ compiler here: the graph form trains")
    if not kernel:
        monkeypatch.setattr(module, "_kernel", lambda: None)
    given = arguments(length, channels, states)
    y, found = gradients(training_scan, given)
    expected_y, expected = gradients(selective_scan_sequential, given)
    assert torch.allclose(y, expected_y, atol=1e-5 * float(expected_y.abs().max()))
    for name, one, other in zip(NAMES, found, expected):
        assert torch.allclose(one, other, atol=2e-5 * float(other.abs().max())), name


def test_other_dtypes_take_the_graph_form():
    given = [value.detach().double() for value in arguments(20, 8)]
    assert torch.allclose(training_scan(*given), selective_scan_sequential(*given).double(), atol=1e-5)


def test_a_compiler_that_fails_leaves_the_graph_form(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "false")
    module._kernel.cache_clear()
    try:
        given = arguments(20, 8)
        assert module._kernel() is None
        assert torch.allclose(training_scan(*given), selective_scan_sequential(*given), atol=1e-4)
    finally:
        monkeypatch.undo()
        module._kernel.cache_clear()
