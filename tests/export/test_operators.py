"""This project's operators in lowered programs: ExecuTorch's runtime with the kernels computes what each operator's eager form does."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.ops import native
from export.ops.attention import cache_shapes, cached_attention
from export.ops.causal_conv import causal_conv
from export.ops.linear_int4 import linear_int4, pack
from export.ops.selective_scan.fused import bidirectional_scan, selective_scan_fused
from export.quiet import quiet
from tests.export.test_kernels import ANOTHER_STEP, BFLOAT, SAME_SUMS
from tests.export.test_selective_scan import REGIMES
from tests.kernels.driver import no_tool
from tests.numerics import load_pte, max_error

NAN = float("nan")
HALF_STEP = 2**-10  # relative to the largest value: both forms compute in float32 and round once
CHANNELS, STATES, UNUSED = 70, 9, 3
INVALID_ARGUMENT = "0x12"


class Operator(torch.nn.Module):
    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def forward(self, *inputs):
        return self.operator(*inputs)


class Convolution(torch.nn.Module):
    def __init__(self, backward: bool):
        super().__init__()
        self.backward = backward

    def forward(self, projected, weight, bias):
        return causal_conv(projected, weight, bias, self.backward)


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    reason = native.unavailable()
    if reason:
        no_tool(f"the operators cannot run in ExecuTorch here: {reason}")
    native.load()


@pytest.fixture
def program(tmp_path):
    """module, example inputs -> the lowered module as a function of tensors."""

    def lower(module: torch.nn.Module, *inputs: Tensor):
        path = tmp_path / "operator.pte"
        with quiet():
            from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

            exported = torch.export.export(module, inputs, strict=False)
            edge = to_edge_transform_and_lower(exported, compile_config=EdgeCompileConfig(_check_ir_validity=False))
            write(edge.to_executorch(), path)
        return load_pte(path)

    return lower


def write(program, path: Path) -> None:
    with open(path, "wb") as file:
        program.write_to_file(file)
    assert b"mobile_videogpt::" in path.read_bytes(), "the operator was replaced by others"


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scan_inputs(length: int, delta=0.1, decay=16.0, scale=1.0, seed=0, groups=2, channels=CHANNELS, states=STATES) -> list[Tensor]:
    """u, delta, A, B, C, D; `delta` and `decay` are the largest step and the strongest decay, and both occur."""
    steps = torch.rand(length, groups, channels, generator=torch.Generator().manual_seed(seed)) * delta
    A = -torch.rand(groups, channels, states, generator=torch.Generator().manual_seed(seed + 1)) * decay
    steps[0, 0, 0], A[0, 0, 0] = delta, -decay
    B, C = normal(2, length, groups, states, seed=seed + 2)
    return [normal(length, groups, channels, seed=seed + 3) * scale, steps, A, B, C, normal(groups, channels, seed=seed + 4)]


def block_inputs(length: int, channels=CHANNELS, states=STATES, delta=0.1, decay=16.0, scale=1.0, seed=0) -> list[Tensor]:
    """`bidirectional_scan`'s; what it must not look at is NaN. Steps before softplus are spread around `delta`."""
    u = normal(2, length, channels, seed=seed) * scale
    steps = delta + 3 * normal(2, length, channels, seed=seed + 1)
    maps = torch.cat([torch.full((2, length, UNUSED), NAN), normal(2, length, 2 * states, seed=seed + 2)], dim=2)
    gate = torch.cat([torch.full((length, channels), NAN), 3 * normal(length, channels, seed=seed + 3)], dim=1)
    A = -torch.rand(2, channels, states, generator=torch.Generator().manual_seed(seed + 4)) * decay
    return [*u, *steps, *maps, gate, A, normal(2, channels, seed=seed + 5)]


def convolution_inputs(length: int, scale=1.0, seed=0) -> list[Tensor]:
    """`causal_conv`'s, without its direction; what it must not look at is NaN."""
    x = normal(length, CHANNELS, seed=seed) * scale
    return [torch.cat([x, torch.full_like(x, NAN)], dim=1), normal(4, CHANNELS, seed=seed + 1), normal(CHANNELS, seed=seed + 2)]


@pytest.mark.parametrize("length", [1, 2, 33, 100, 1569, 4096])
def test_selective_scan(program, length):
    scan = program(Operator(selective_scan_fused), *scan_inputs(length))
    for regime, options in REGIMES.items():
        inputs = scan_inputs(length, seed=10, **options)
        error = max_error(scan(*inputs), selective_scan_fused(*inputs))
        assert error <= SAME_SUMS, f"{regime}: {error}"


@pytest.mark.parametrize("length", [1, 100, 1569, 4096])
def test_selective_scan_in_float16(program, length):
    scan = program(Operator(selective_scan_fused), *(t.half() for t in scan_inputs(length)))
    for regime, options in (REGIMES | {"huge inputs": dict(delta=1.0, decay=4.0, scale=1e3)}).items():
        inputs = [t.half() for t in scan_inputs(length, seed=20, **options)]
        error = max_error(scan(*inputs), selective_scan_fused(*inputs))
        assert error <= HALF_STEP, f"{regime}: {error}"


@pytest.mark.parametrize("length", [1, 33, 257, 4096])
def test_bidirectional_scan(program, length):
    scan = program(Operator(bidirectional_scan), *block_inputs(length))
    for regime, options in REGIMES.items():
        inputs = block_inputs(length, seed=30, **options)
        error = max_error(scan(*inputs), bidirectional_scan(*inputs))
        assert error <= SAME_SUMS, f"{regime}: {error}"


def test_bidirectional_scan_of_the_released_size(program):
    scan = program(Operator(bidirectional_scan), *block_inputs(1569, channels=1152, states=16))
    inputs = block_inputs(1569, channels=1152, states=16, seed=40)
    assert max_error(scan(*inputs), bidirectional_scan(*inputs)) <= SAME_SUMS


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("length", [1, 3, 100])
def test_causal_conv(program, length, backward):
    convolution = program(Convolution(backward), *convolution_inputs(length))
    for scale in (1.0, 30.0, 1e30, 0.0):
        inputs = convolution_inputs(length, scale, seed=50)
        assert max_error(convolution(*inputs), causal_conv(*inputs, backward)) <= SAME_SUMS, scale


class Attends(torch.nn.Module):
    """Over a cache of its own, [groups, CONTEXT, width]; `half`: in half precision."""

    CONTEXT, GROUPS, WIDTH = 256, 2, 32

    def __init__(self, half: bool):
        super().__init__()
        for name, shape in zip(("keys", "values"), cache_shapes(self.GROUPS, self.CONTEXT, self.WIDTH)):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float16 if half else torch.float32), persistent=False)

    def forward(self, qkv, rotation, position):
        start = position.item()
        torch._check(start >= 0)
        return cached_attention(qkv, rotation, self.keys, self.values, start)


def attention_inputs(tokens: int, position: int = 0, seed=0) -> list[Tensor]:
    """Queries of 6 heads, keys and values of 2, side by side; the rotation; the position."""
    angles = torch.arange(Attends.CONTEXT)[:, None] * 100.0 ** (-torch.arange(Attends.WIDTH // 2) / (Attends.WIDTH // 2))
    qkv = normal(tokens, 10 * Attends.WIDTH, seed=seed)
    return [qkv, torch.cat([angles.cos(), angles.sin()], 1), torch.tensor([position])]


@pytest.mark.parametrize("tokens", [1, 100, 256])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "half"])
def test_cached_attention(program, half, tokens):
    """Over the program's own cache, which begins empty."""
    attends = program(Attends(half), *attention_inputs(tokens))
    inputs = attention_inputs(tokens, seed=60)
    assert max_error(attends(*inputs), Attends(half)(*inputs)) <= (BFLOAT if half else SAME_SUMS)


LINEAR = {"inputs": 96, "outputs": 64}


class Multiplies(torch.nn.Module):
    def __init__(self, gated: bool = False):
        super().__init__()
        self.gated = gated

    def forward(self, x, weight, scale, bias, norm, residual):
        return linear_int4(x, weight, scale, bias, norm, residual, [LINEAR["outputs"]], self.gated, 1e-6)


def linear_inputs(rows: int, gated: bool = False, seed=0) -> list[Tensor]:
    """x, weight and scale as the operator reads them, bias, norm, residual."""
    inputs, outputs = LINEAR.values()
    integers = torch.randint(-8, 8, (outputs, inputs), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    weight, scale = pack(integers, normal(outputs, inputs // 32, seed=seed + 1).abs() / 50 + 0.01)
    width = outputs // 2 if gated else outputs
    vectors = normal(outputs, seed=seed + 2), normal(inputs, seed=seed + 3), normal(rows, width, seed=seed + 4)
    return [normal(rows, inputs, seed=seed + 5), weight, scale, *vectors]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_linear_int4(program, rows, gated):
    multiplies = program(Multiplies(gated), *linear_inputs(rows, gated))
    inputs = linear_inputs(rows, gated, seed=70)
    assert max_error(multiplies(*inputs), Multiplies(gated)(*inputs)) <= ANOTHER_STEP


def cut(dim: int, by: int = 1):
    """Leave out the last `by` along an axis."""
    return lambda t: t.narrow(dim, 0, t.shape[dim] - by).clone(memory_format=torch.contiguous_format)


SCAN = (Operator(selective_scan_fused), scan_inputs)
BLOCK = (Operator(bidirectional_scan), block_inputs)
CONVOLUTION = (Convolution(False), convolution_inputs)
ATTENTION = (Attends(True), attention_inputs)
INT4 = (Multiplies(), linear_inputs)
REFUSED = {  # a program that the operator's shape rule lets through: (module, inputs), what is done to which of the inputs
    "scan: steps of fewer channels": (SCAN, {1: cut(2)}),
    "scan: decay of fewer channels": (SCAN, {2: cut(1)}),
    "scan: maps of fewer times": (SCAN, {3: cut(0), 4: cut(0)}),
    "scan: skip weights of fewer channels": (SCAN, {5: cut(1)}),
    "scan: no directions": (SCAN, {0: cut(1, 2), 1: cut(1, 2), 2: cut(0, 2), 3: cut(1, 2), 4: cut(1, 2), 5: cut(0, 2)}),
    "scan: float64": (SCAN, {i: Tensor.double for i in range(6)}),
    "scan: one tensor of float16": (SCAN, {4: Tensor.half}),
    "block: steps of fewer times": (BLOCK, {2: cut(0)}),
    "block: maps narrower than B and C": (BLOCK, {4: cut(1, UNUSED + 1), 5: cut(1, UNUSED + 1)}),
    "block: backward maps of another width": (BLOCK, {5: cut(1)}),
    "block: no gate": (BLOCK, {6: cut(1, CHANNELS)}),
    "block: float16": (BLOCK, {i: Tensor.half for i in range(9)}),
    "convolution: not twice the channels": (CONVOLUTION, {0: cut(1)}),
    "convolution: bias of fewer channels": (CONVOLUTION, {2: cut(0)}),
    "attention: a position beyond the cache": (ATTENTION, {2: lambda t: t + Attends.CONTEXT - 4}),
    "attention: a shorter rotation": (ATTENTION, {1: lambda t: t[:4].clone()}),
    "attention: a rotation of another width": (ATTENTION, {1: cut(1, 2)}),
    "attention: float64": (ATTENTION, {0: Tensor.double, 1: Tensor.double}),
    "linear: fewer inputs": (INT4, {0: cut(1, 32)}),
    "linear: scales of fewer channels": (INT4, {2: cut(0)}),
    "linear: scales of float32": (INT4, {2: Tensor.float}),
    "linear: a shorter bias": (INT4, {3: cut(0)}),
    "linear: a shorter norm": (INT4, {4: cut(0)}),
    "linear: a residual of fewer rows": (INT4, {5: cut(0)}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_an_error(program, case):
    (module, make), changes = REFUSED[case]
    inputs = [changes.get(i, Tensor.clone)(t) for i, t in enumerate(make(5))]
    run = program(module, *inputs)
    with quiet(), pytest.raises(RuntimeError, match=INVALID_ARGUMENT):
        run(*inputs)


@pytest.mark.parametrize("case", ["no time", "no channels", "no states"])
def test_nothing_to_scan_is_no_error(program, case):
    sizes = {"no time": (0, CHANNELS, STATES), "no channels": (5, 0, STATES), "no states": (5, CHANNELS, 0)}
    length, channels, states = sizes[case]
    u, B, A, D = torch.ones(length, 2, channels), torch.ones(length, 2, states), -torch.ones(2, channels, states), torch.ones(2, channels)
    y = program(Operator(selective_scan_fused), u, u, A, B, B, D)(u, u, A, B, B, D)
    assert torch.equal(y, u)  # without a state only the skip term is left
