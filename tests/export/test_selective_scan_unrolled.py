"""The unrolled scan against the sequential one: values, gradients against the recurrence in float64, and the size of its graph."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from export.ops.selective_scan import selective_scan_sequential
from export.ops.selective_scan.unrolled import block_levels, cache_width, graph_width, selective_scan_unrolled
from tests.export.test_selective_scan import REGIMES, arguments
from tests.numerics import max_error

ARGUMENTS = ("u", "delta", "A", "B", "C", "D")
SAME_SUMS = 1e-5  # relative: float32 rounding over the state's memory, in another order
HALF_STATE = 2e-3  # relative: two units of half precision, of the state's rounding and of the decays'
RELEASED = dict(length=1569, groups=2, channels=1152, states=16)
ENCODER_LAYERS, ENCODER_NODES, OTHER_NODES = 32, 10_000, 35  # what compiles on a phone; a layer beside its scan


class Unrolled(torch.nn.Module):
    def forward(self, u, delta, A, B, C, D):
        return selective_scan_unrolled(u, delta, A, B, C, D)


def double_recurrence(u, delta, A, B, C, D):
    """The definition in float64, differentiable, all channels at once."""
    state, y = torch.zeros_like(A), []
    for u_t, delta_t, B_t, C_t in zip(u, delta, B, C):
        state = torch.exp(delta_t[..., None] * A) * state + (delta_t * u_t)[..., None] * B_t[:, None]
        y.append((state * C_t[:, None]).sum(-1))
    return torch.stack(y) + u * D


def gradients(form, values, dtype) -> tuple[Tensor, ...]:
    """Of a random projection of the result, with respect to u, delta, A, B, C and D."""
    leaves = [value.to(dtype, copy=True).requires_grad_() for value in values]
    y = form(*leaves)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9))
    return torch.autograd.grad((y * weights.to(dtype)).sum(), leaves, materialize_grads=True)  # one step does not depend on A


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 3, 17, 31, 100, 257, 1569, 4096])
def test_it_is_the_sequential_form(length, groups):
    for regime, options in REGIMES.items():
        values = arguments(length, groups, **options)
        error = max_error(selective_scan_unrolled(*values), selective_scan_sequential(*values))
        assert error <= SAME_SUMS, f"{regime}: {error}"


@pytest.mark.parametrize("width", [1, 4, 9, 31, 1000])
def test_the_width_changes_only_rounding(width):
    values = arguments(257, 2, **REGIMES["weak decay"])
    assert max_error(selective_scan_unrolled(*values, width=width), selective_scan_sequential(*values)) <= SAME_SUMS


@pytest.mark.parametrize("length", [1, 17, 257, 1569, 4096])
def test_half_precision_stays_close_to_the_float32_state(length):
    for regime in REGIMES.keys() - {"huge inputs"}:  # beyond half precision's range
        values = [t.half() for t in arguments(length, 2, **REGIMES[regime])]
        error = max_error(selective_scan_unrolled(*values), selective_scan_sequential(*values))
        assert error <= HALF_STATE, f"{regime}: {error}"


def test_what_overflows_late_disturbs_nothing_before():
    u, *others = arguments(257, 1, **REGIMES["usual"])
    u[200] = math.inf
    wanted = selective_scan_sequential(u, *others)
    got = selective_scan_unrolled(u, *others)
    assert torch.isfinite(wanted[:200]).all() and not torch.isfinite(wanted[200:]).all()
    assert max_error(got[:200], wanted[:200]) <= SAME_SUMS


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("length", [1, 5, 37, 130])
def test_gradients_are_those_of_the_recurrence(length, regime):
    values = arguments(length, 2, **REGIMES[regime])
    exact = gradients(double_recurrence, values, torch.float64)
    for name, got, wanted in zip(ARGUMENTS, gradients(selective_scan_unrolled, values, torch.float64), exact):
        assert max_error(got, wanted) <= 1e-9, name
    for name, got, wanted in zip(ARGUMENTS, gradients(selective_scan_unrolled, values, torch.float32), exact):
        assert max_error(got, wanted.float()) <= 1e-4, name


def test_gradients_match_the_sequential_form_at_training_length():
    values = arguments(1569, 2, **REGIMES["usual"])
    values[1][3::50] = 0.0  # steps that only keep the state
    values[1][::125] = 20.0  # and steps that forget everything
    wanted = gradients(selective_scan_sequential, values, torch.float32)
    for name, got, want in zip(ARGUMENTS, gradients(selective_scan_unrolled, values, torch.float32), wanted):
        assert max_error(got, want) <= 1e-4, name


def test_finite_differences_agree_across_block_borders():
    values = [t.double().requires_grad_() for t in arguments(7, 1, **REGIMES["usual"])]
    values[1] = (values[1].detach() + 0.01).requires_grad_()  # room for differences on both sides

    def scan(*inputs):
        return selective_scan_unrolled(*inputs, width=4)

    assert len(block_levels(7, 4)) == 3
    assert torch.autograd.gradcheck(scan, values, fast_mode=True)


def test_levels_hold_every_length_within_the_width():
    for length in [*range(1, 300), 785, 1569, 2353, 4095, 4096]:
        for width in (1, 7, graph_width(length), cache_width(2, 128, 16)):
            levels = block_levels(length, width)
            steps, *outer = levels
            assert math.prod(levels) >= length and 1 <= len(levels) <= 3
            assert math.prod(outer) <= width
            assert not outer or outer[-1] ** 2 <= width


@pytest.fixture(scope="module")
def released():
    """The exported program of one scan; tracing computes nothing."""
    L, G, D, N = RELEASED.values()
    shapes = (L, G, D), (L, G, D), (G, D, N), (L, G, N), (L, G, N), (G, D)
    return torch.export.export(Unrolled(), tuple(torch.zeros(shape) for shape in shapes), strict=False)


@pytest.fixture(scope="module")
def released_graph(released) -> torch.fx.Graph:
    return released.run_decompositions().graph  # to core operators, as most targets ask


def test_the_released_graph_leaves_an_encoder_that_compiles_on_a_phone(released_graph):
    nodes = sum(node.op == "call_function" for node in released_graph.nodes)
    assert nodes <= 255, nodes
    assert ENCODER_LAYERS * (nodes + OTHER_NODES) < ENCODER_NODES


def test_the_released_graph_has_plain_operators_and_small_tensors(released_graph):
    targets = {str(node.target) for node in released_graph.nodes if node.op == "call_function"}
    assert all(target.startswith("aten.") or "getitem" in target for target in targets), targets
    tensors = [node.meta["val"] for node in released_graph.nodes if isinstance(node.meta.get("val"), Tensor)]
    assert max(tensor.dim() for tensor in tensors) <= 5  # Core ML's limit
    step = RELEASED["groups"] * RELEASED["channels"] * RELEASED["states"]
    assert max(tensor.numel() for tensor in tensors) <= graph_width(RELEASED["length"]) * step < RELEASED["length"] * step / 6


def test_the_graph_is_static_in_its_values():
    program = torch.export.export(Unrolled(), arguments(100, 2), strict=False).run_decompositions({}).module()
    for regime, options in REGIMES.items():
        values = arguments(100, 2, seed=1, **options)
        assert max_error(program(*values), selective_scan_sequential(*values)) <= SAME_SUMS, regime


def test_the_released_scan_converts_to_core_ml_in_half_precision(released):
    import coremltools as ct  # comes with executorch

    program = released.run_decompositions({})
    placeholders = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"][-6:]
    model = ct.convert(
        program,
        inputs=[ct.TensorType(name=n, shape=tuple(t.shape), dtype=np.float16) for n, t in zip(ARGUMENTS, placeholders)],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )
    operations = [op for op in model._mil_program.functions["main"].operations if op.op_type != "const"]
    assert not {"while_loop", "cond", "cumsum"} & {op.op_type for op in operations}  # what the Neural Engine does not have
    assert len(operations) <= 175, len(operations)
    assert max(len(out.shape) for op in operations for out in op.outputs) <= 5


@pytest.mark.parametrize("length", [3, 100])
def test_onnx_runtime_computes_the_sequential_form(length, tmp_path):
    import onnxruntime

    path = str(tmp_path / "scan.onnx")
    torch.onnx.export(Unrolled(), arguments(length, 2), path, dynamo=True, verbose=False, optimize=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for regime, options in REGIMES.items():
        values = arguments(length, 2, seed=5, **options)
        got = session.run(None, {entry.name: value.numpy() for entry, value in zip(session.get_inputs(), values)})[0]
        assert max_error(torch.from_numpy(got), selective_scan_sequential(*values)) <= SAME_SUMS, regime
