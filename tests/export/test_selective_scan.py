"""The scan in each of its forms: the sequential one against the recurrence in float64 loops, the loop against the sequential."""

import math

import numpy as np
import pytest
import torch

from export.backends.executorch import ExecutorchBackend
from export.components import Signature
from export.manifest import TensorSpec
from export.ops.selective_scan import selective_scan_looped, selective_scan_sequential
from tests.numerics import load_pte, max_error

CHANNELS, STATES = 6, 4
SAME_SUMS = 1e-5  # relative: float32 rounding over the state's memory; the two forms may add in another order


class Looped(torch.nn.Module):
    def forward(self, u, delta, A, B, C, D):
        return selective_scan_looped(u, delta, A, B, C, D)


def arguments(length, groups, delta=0.1, decay=1.0, scale=1.0, seed=0):
    """Random u, delta, A, B, C, D; `delta` and `decay` are the largest step and the strongest decay, `scale` that of u."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    u = normal(length, groups, CHANNELS) * scale
    steps = torch.rand(length, groups, CHANNELS, generator=generator) * delta
    A = -torch.rand(groups, CHANNELS, STATES, generator=generator) * decay
    steps[0, 0, 0], A[0, 0, 0] = delta, -decay  # the extremes themselves are among them
    return u, steps, A, normal(length, groups, STATES), normal(length, groups, STATES), normal(groups, CHANNELS)


REGIMES = {
    "weak decay": dict(delta=0.01, decay=0.1),  # a state remembers hundreds of steps
    "usual": dict(delta=0.1, decay=16.0),
    "strong decay": dict(delta=20.0, decay=64.0),  # exp(delta A) underflows to 0
    "huge inputs": dict(delta=1.0, decay=4.0, scale=1e30),
    "no step": dict(delta=0.0, decay=64.0),
    "zero inputs": dict(scale=0.0),
}


def recurrence(u, delta, A, B, C, D):
    """The definition, one scalar at a time, in float64."""
    u, delta, A, B, C, D = (t.double().numpy() for t in (u, delta, A, B, C, D))
    y = np.zeros_like(u)
    for g in range(u.shape[1]):
        for d in range(u.shape[2]):
            for n in range(A.shape[2]):
                h = 0.0
                for t in range(u.shape[0]):
                    h = math.exp(delta[t, g, d] * A[g, d, n]) * h + delta[t, g, d] * B[t, g, n] * u[t, g, d]
                    y[t, g, d] += C[t, g, n] * h
            y[:, g, d] += D[g, d] * u[:, g, d]
    return torch.from_numpy(y)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("regime", REGIMES)
def test_the_sequential_form_is_the_recurrence(regime, groups):
    values = arguments(23, groups, **REGIMES[regime])
    assert max_error(selective_scan_sequential(*values).double(), recurrence(*values)) <= SAME_SUMS


def test_half_precision_inputs_keep_a_float32_state():
    values = [t.half() for t in arguments(300, 2, **REGIMES["weak decay"])]
    y = selective_scan_sequential(*values)
    assert y.dtype == torch.float16
    once_rounded = recurrence(*values).half()  # a half precision state would lose steps of 1e-3 and below
    assert max_error(y, once_rounded) <= 2**-10  # one unit in the last place of the largest: both round to half at the end


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 3, 17, 64, 100, 257])
def test_the_traced_loop_is_the_sequential_form(length, groups):
    program = torch.export.export(Looped(), arguments(length, groups), strict=False).module()
    for regime, options in REGIMES.items():
        values = arguments(length, groups, seed=1, **options)
        error = max_error(program(*values), selective_scan_sequential(*values))
        assert error <= SAME_SUMS, f"{regime}: {error}"


@pytest.mark.parametrize("regime", ["weak decay", "usual", "strong decay", "no step", "zero inputs"])  # huge inputs are no half numbers
@pytest.mark.parametrize("length", [1, 100, 1569])
def test_the_traced_loop_takes_half_precision(regime, length):
    values = [t.half() for t in arguments(length, 2, seed=3, **REGIMES[regime])]
    program = torch.export.export(Looped(), tuple(values), strict=False).module()
    assert max_error(program(*values), selective_scan_sequential(*values)) <= 2**-10  # both keep a float32 state and round once


def test_the_loop_is_traced_once_whatever_the_length():
    def nodes(length):
        program = torch.export.export(Looped(), arguments(length, 2), strict=False)
        return sum(len(module.graph.nodes) for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule))

    assert nodes(100) == nodes(17) < 60  # unrolled, 100 steps would be over 600


@pytest.mark.parametrize("length", [1569, 4096])
def test_the_lowered_loop_runs_a_whole_sequence(length, tmp_path):
    """As long as a released video, and as the longest that the forms are made for."""
    scan = lowered_loop(arguments(length, 2), tmp_path / "scan.pte")
    for regime, options in REGIMES.items():
        values = arguments(length, 2, seed=4, **options)
        error = max_error(scan(*values), selective_scan_sequential(*values))
        assert error <= SAME_SUMS, f"{regime}: {error}"


def test_directions_do_not_see_each_other():
    values = arguments(17, 2)
    both = selective_scan_sequential(*values)
    for g in (0, 1):
        u, delta, A, B, C, D = values
        alone = selective_scan_sequential(u[:, [g]], delta[:, [g]], A[[g]], B[:, [g]], C[:, [g]], D[[g]])
        assert torch.equal(both[:, [g]], alone)


def lowered_loop(example, path):
    names = ("u", "delta", "A", "B", "C", "D")
    inputs = tuple(TensorSpec(name, tuple(t.shape), "float32", name) for name, t in zip(names, example))
    signature = Signature(inputs, (TensorSpec("y", tuple(example[0].shape), "float32", "y"),))
    ExecutorchBackend().lower(Looped(), signature, [], path)
    return load_pte(path)


def test_the_lowered_loop_computes_the_sequential_form(tmp_path):
    path = tmp_path / "scan.pte"
    scan = lowered_loop(arguments(64, 2), path)
    for regime, options in REGIMES.items():
        values = arguments(64, 2, seed=2, **options)
        error = max_error(scan(*values), selective_scan_sequential(*values))
        assert error <= SAME_SUMS, f"{regime}: {error}"  # the second run finds a state of zeros as the first did
    outside = {name.split(".")[0] for name in ExecutorchBackend().read(path).operators}
    assert not outside & {"aten::exp", "aten::mul", "aten::bmm", "aten::add"}, outside  # the body runs in the delegate
