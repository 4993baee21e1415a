"""The kernels' headers, alone: their functions against float64, the scan and the convolution against what they are defined by.

One small program (`tests/kernels/driver.cpp`) is compiled for every width of vectors that this machine runs, once more with address
and undefined behaviour checks, and, in the tests marked `full`, for Arm, where an emulator runs it.
"""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from export.ops.attention import cache_shapes, cached_attention
from export.ops.causal_conv import causal_conv
from export.ops.linear_int4 import linear_int4, pack
from export.ops.selective_scan import selective_scan_sequential
from tests.export.test_selective_scan import REGIMES
from tests.kernels.driver import ARM_VARIANTS, Driver, build, host_variants
from tests.numerics import max_error

NAN = float("nan")
SAME_SUMS = 1e-5  # relative: float32 rounding over the state's memory, and another exp
OTHER_HALF = 5e-4  # a key between two half precision numbers goes to the other one after another rounding
ANOTHER_STEP = 2e-3  # an activation between two of its 255 steps goes to the other one after another rounding
BFLOAT = 1e-2  # queries, keys, shares and values rounded to 8 bits each, errors of many terms
CHANNELS = (1, 15, 16, 17, 70, 1152)  # around the widths of vectors and of a thread's share
LENGTHS = (1, 2, 5, 31, 32, 33, 70)  # around a tile's steps
ON_ARM = [pytest.param(variant, marks=pytest.mark.full) for variant in ARM_VARIANTS]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """variant -> Driver, compiled at the first use."""
    folder = tmp_path_factory.mktemp("drivers")
    return functools.cache(lambda variant: build(variant, folder))


@pytest.fixture(params=[*host_variants(), *ON_ARM])
def driver(request, built) -> Driver:
    return built(request.param)


def grid(low: float, high: float, count: int) -> torch.Tensor:
    """Evenly and randomly spread values in [low, high), and the powers of two among them."""
    generator = torch.Generator().manual_seed(0)
    even = torch.linspace(low, high, count, dtype=torch.float64)[:-1]
    spread = low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
    powers = 2.0 ** torch.arange(-149, 7, dtype=torch.float64)  # down to the smallest subnormal number
    values = torch.cat([even, spread, powers, -powers]).float()
    return values[(values >= low) & (values < high)]


def apply(driver: Driver, function: str, x: torch.Tensor) -> torch.Tensor:
    return driver.run(function, tensors=[x], shape=tuple(x.shape))


def relative(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of each value; both zero is no error."""
    return torch.where(got == wanted, 0.0, (got.double() - wanted).abs() / wanted.abs())


def points(driver: Driver) -> int:
    return 50_000 if driver.slow else 1_000_000


class TestFunctions:
    """The bounds are those that `vectors.h` states."""

    def test_exp2(self, driver):
        x = grid(-126, 128, points(driver))
        assert float(relative(apply(driver, "exp2", x), torch.exp2(x.double())).max()) <= 1.8e-7

    def test_exp2_of_almost_nothing_is_almost_one_to_the_last_bit(self, driver):
        x = grid(-1e-3, 0, points(driver))
        error = (apply(driver, "exp2", x).double() - torch.exp2(x.double())).abs().max()
        assert float(error) <= 1.1 * 2**-25  # half a unit in the last place below 1: a decay loses nothing step by step
        assert torch.equal(apply(driver, "exp2", torch.tensor([0.0, -0.0, -1e-45, 1e-45])), torch.ones(4))

    def test_exp2_stops_at_the_smallest_normal_number(self, driver):
        x = torch.cat([grid(-140, -126, 20_000), torch.tensor([-126.0, -150.0, -1e30, -3.4e38, -torch.inf])])
        assert torch.equal(apply(driver, "exp2", x), torch.full_like(x, 2.0**-126))

    @pytest.mark.parametrize("function", ["softplus", "silu"])
    def test_softplus_and_silu(self, driver, function):
        x = grid(-87, 110, points(driver))
        exact = x.double()
        wanted = torch.logaddexp(exact, torch.zeros(())) if function == "softplus" else exact * torch.sigmoid(exact)
        got = apply(driver, function, x)
        bound = 3e-7 + 7e-8 * (-exact - 1).clamp(min=0)
        normal = wanted.abs() >= 2.0**-126  # silu of a subnormal number loses the digits that such a number has not
        difference = (got.double() - wanted).abs()
        assert float((relative(got, wanted) / bound)[normal].max()) <= 1
        assert torch.all(difference[~normal] <= 2.0**-149)
        if function == "silu":
            assert float((difference / wanted.abs().clamp(min=1)).max()) <= 1.4e-7

    def test_softplus_and_silu_far_below_zero_are_nearly_nothing(self, driver):
        x = torch.cat([grid(-110, -87.4, 20_000), torch.tensor([-1e30])])
        assert torch.equal(apply(driver, "softplus", x), torch.full_like(x, 2.0**-126))
        assert float((apply(driver, "silu", x) / x - 2.0**-126).abs().max()) <= 1e-44

    def test_softplus_and_silu_far_above_zero_are_their_input(self, driver):
        x = torch.cat([grid(20, 110, 20_000), torch.tensor([1e30, 3e38, torch.inf])])
        assert torch.equal(apply(driver, "softplus", x), x)
        assert torch.equal(apply(driver, "silu", x), x)

    @pytest.mark.parametrize("function", ["exp2", "softplus", "silu"])
    def test_nan_stays_nan(self, driver, function):
        x = torch.full((33,), NAN)
        assert torch.isnan(apply(driver, function, x)).all()
        if function != "exp2":
            assert torch.isnan(apply(driver, function, -x)).all()  # with the sign bit set: what x86 makes of infinity times zero


def direction(length, channels, states, delta=0.1, decay=16.0, scale=1.0, seed=0):
    """u, delta, B, C, A, D of one direction."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    steps = torch.rand(length, channels, generator=generator) * delta
    A = -torch.rand(channels, states, generator=generator) * decay
    steps[0, 0], A[0, 0] = delta, -decay
    return [normal(length, channels) * scale, steps, normal(length, states), normal(length, states), A, normal(channels)]


def sequential(u, delta, B, C, A, D, backward=False):
    """[L, D] by the sequential form."""
    u, delta, B, C = (t.flip(0) if backward else t for t in (u, delta, B, C))
    y = selective_scan_sequential(u[:, None], delta[:, None], A[None], B[:, None], C[:, None], D[None])[:, 0]
    return y.flip(0) if backward else y


@functools.cache
def scan_cases(channels):
    """(order, directions, options, wanted) for each length and number of states: one direction, and a whole block's scan."""
    cases = []
    for states in (1, 4, 16, 17):
        for length in LENGTHS if channels < 1000 else LENGTHS[3:]:
            there = direction(length, channels, states, seed=length)
            back = direction(length, channels, states, seed=length + 1)
            cases.append(("f", [there], {"offset": length % 4}, sequential(*there)))
            cases.append(("b", [back], {"offset": states % 4}, sequential(*back, backward=True)))
            before, before_back, gate = 4 * torch.randn(3, length, channels, generator=torch.Generator().manual_seed(length))
            y = sequential(there[0], F.softplus(before), *there[2:])
            y = y + sequential(back[0], F.softplus(before_back), *back[2:], backward=True)
            both = [[there[0], before, *there[2:]], [back[0], before_back, *back[2:]]]
            cases.append(("fb", both, {"softplus": True, "gate": gate, "offset": 1}, y * F.silu(gate)))
    return cases


@functools.cache
def convolution_cases(channels):
    """(arguments, wanted)"""
    cases, generator = [], torch.Generator().manual_seed(channels)
    for taps in (1, 4, 5):
        for length in (1, 2, 3, 5, 16, 17, 33, 70):
            projected = torch.randn(length, 2 * channels, generator=generator)
            weight, bias = torch.randn(taps, channels, generator=generator), torch.randn(channels, generator=generator)
            for backward in (False, True):
                arguments = (projected[:, :channels], weight, bias, backward, length % 4)
                cases.append((arguments, causal_conv(projected, weight, bias, backward)))
    return cases


class TestScan:
    @pytest.mark.parametrize("channels", CHANNELS)
    def test_it_is_the_sequential_form(self, driver, channels):
        for order, directions, options, wanted in scan_cases(channels):
            error = max_error(driver.scan(directions, order, **options), wanted)
            assert error <= SAME_SUMS, (order, directions[0][0].shape, directions[0][2].shape, error)

    @pytest.mark.parametrize("regime", REGIMES)
    def test_it_is_the_sequential_form_in_every_regime(self, driver, regime):
        tensors = direction(300, 17, 16, **REGIMES[regime])
        assert max_error(driver.scan([tensors], "f"), sequential(*tensors)) <= SAME_SUMS

    @pytest.mark.parametrize("spoiled", ["u", "delta", "B", "C", "A", "D"])
    def test_nan_reaches_what_it_reaches_in_the_sequential_form(self, driver, spoiled):
        tensors = direction(40, 17, 9)
        tensor = tensors[["u", "delta", "B", "C", "A", "D"].index(spoiled)]
        tensor[(tensor.shape[0] // 2, *[0] * (tensor.dim() - 1))] = NAN
        wanted = torch.isnan(sequential(*tensors))
        assert wanted.any() and not wanted.all()
        assert torch.equal(torch.isnan(driver.scan([tensors], "f")), wanted)


class TestConvolution:
    @pytest.mark.parametrize("channels", CHANNELS)
    def test_it_is_the_operators_definition(self, driver, channels):
        for arguments, wanted in convolution_cases(channels):
            error = max_error(driver.convolution(*arguments), wanted)
            assert error <= SAME_SUMS, (arguments[0].shape, arguments[1].shape, arguments[3], error)


HEADS = ((14, 2, 64), (12, 2, 128), (4, 2, 32), (3, 3, 16), (18, 2, 48))  # heads, groups, width; the first two are released
CALLS = ([1, 1, 1], [5, 1, 2, 1], [37, 130, 1, 3, 1], [200, 40, 1], [383, 1])  # around the tiles of 128 keys, the last fills a cache
CONTEXT = 384


@functools.cache
def attention_case(heads, groups, width):
    """Queries, keys and values side by side, and the rotation."""
    generator = torch.Generator().manual_seed(heads)
    q, k, v = (torch.randn(CONTEXT, count * width, generator=generator) for count in (heads, groups, groups))
    angles = torch.arange(CONTEXT)[:, None] * 1000.0 ** (-torch.arange(width // 2) / (width // 2))
    return torch.cat([q, k * 2, v], 1), torch.cat([angles.cos(), angles.sin()], 1)


@functools.cache
def attention_wanted(heads, groups, width, half):
    """Of all positions; a call's result does not depend on how many tokens it takes."""
    qkv, rotation = attention_case(heads, groups, width)
    caches = [torch.zeros(shape, dtype=torch.float16 if half else torch.float32) for shape in cache_shapes(groups, CONTEXT, width)]
    return cached_attention(qkv, rotation, *caches, 0)


class TestAttention:
    @pytest.mark.parametrize("heads, groups, width", HEADS)
    @pytest.mark.parametrize("half", [False, True], ids=["float32", "half"])
    def test_it_is_the_operators_definition(self, driver, heads, groups, width, half):
        """The cache is full of NaN where nothing was written: what is read from there spoils the result."""
        qkv, rotation = attention_case(heads, groups, width)
        wanted = attention_wanted(heads, groups, width, half)
        for i, calls in enumerate(CALLS):
            tokens = sum(calls)
            got = driver.attention(qkv[:tokens], rotation, groups, half, calls, offset=i)
            one = OTHER_HALF if half else SAME_SUMS
            assert max_error(got, wanted[:tokens]) <= (BFLOAT if half and driver.variant == "native" else one), calls
            steps = [position for position, count in zip(np.cumsum(calls) - 1, calls) if count == 1]
            assert max_error(got[steps], wanted[steps]) <= one, calls  # computed in float32 everywhere

    def test_large_scores_do_not_overflow(self, driver):
        qkv, rotation = attention_case(4, 2, 32)
        large = torch.cat([qkv[:, : 6 * 32] * 30, qkv[:, 6 * 32 :]], 1)  # queries and keys
        wanted = cached_attention(large, rotation, *(torch.zeros(shape) for shape in cache_shapes(2, CONTEXT, 32)), 0)
        got = driver.attention(large, rotation, 2, False, [383, 1])
        assert torch.isfinite(got).all() and max_error(got, wanted) <= 1e-3  # a score of 1e5 in float32 is exact to 1e-2

    @pytest.mark.parametrize("half", [False, True], ids=["float32", "half"])
    @pytest.mark.parametrize("spoiled", ["a query", "a key", "a value", "a key beyond half precision"])
    def test_what_is_no_number_reaches_every_token_that_sees_it(self, driver, spoiled, half):
        """An infinite key times zero is NaN with its sign bit set, which a clamp may lose."""
        qkv, rotation = attention_case(4, 2, 32)
        qkv, at = qkv[:71].clone(), 3
        column = {"a query": 0, "a key": 4 * 32, "a value": 6 * 32, "a key beyond half precision": 4 * 32}[spoiled]
        qkv[at, column] = torch.inf if "beyond" in spoiled else NAN
        qkv[:, :2] = 0 if "beyond" in spoiled else qkv[:, :2]
        caches = [torch.zeros(shape, dtype=torch.float16 if half else torch.float32) for shape in cache_shapes(2, CONTEXT, 32)]
        wanted = cached_attention(qkv, rotation, *caches, 0).isfinite().reshape(71, 4, 32).all(-1)
        for calls in ([70, 1], [1, 1, 1, 1, 67]):
            got = driver.attention(qkv, rotation, 2, half, calls).isfinite().reshape(71, 4, 32).all(-1)
            assert torch.equal(got[at:], wanted[at:]), calls
        assert not wanted[at].all()

    def test_half_precision_numbers(self, driver):
        every = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
        between = torch.cat([every[1:], every[:-1]]).reshape(2, -1).mean(0)  # ties
        x = torch.cat([every, between, grid(-70000, 70000, 20_000), torch.tensor([1e30, -1e30, 1e-30])])
        wanted = x.half().float()
        got = driver.run("halves", tensors=[x], shape=(len(x), 2))
        assert all(torch.equal(column.nan_to_num(7.5), wanted.nan_to_num(7.5)) for column in got.unbind(1))


@functools.cache
def linear_case(rows, inputs, outputs, gated=False):
    """x, weight, scale, bias, norm, residual; the activations of a group are whole numbers of its scale, but for a few."""
    generator = torch.Generator().manual_seed(rows * inputs + outputs)
    integers = torch.randint(-8, 8, (outputs, inputs), generator=generator, dtype=torch.int8)
    weight, scale = pack(integers, torch.rand(outputs, inputs // 32, generator=generator) / 50 + 0.01)
    x = torch.randn(rows, inputs, generator=generator)
    x[0, :32] = 0  # a group without a scale
    bias, norm = torch.randn(outputs, generator=generator), torch.rand(inputs, generator=generator) + 0.5
    return x, weight, scale, bias, norm, torch.randn(rows, outputs // 2 if gated else outputs, generator=generator)


class TestLinearInt4:
    @pytest.mark.parametrize("inputs, outputs", [(32, 16), (64, 32), (896, 80), (128, 128)])
    def test_it_is_the_operators_definition(self, driver, inputs, outputs):
        for rows in (1, 2, 3, 4, 7, 8, 9, 17):
            x, weight, scale, *_ = linear_case(rows, inputs, outputs)
            wanted = linear_int4(x, weight, scale, None, None, None, [outputs], False, 0.0)
            got = driver.linear(x, weight, scale, None, None, None, False, 0.0, offset=rows % 4)
            assert max_error(got, wanted) <= ANOTHER_STEP, rows

    @pytest.mark.parametrize("gated", [False, True])
    @pytest.mark.parametrize("has", range(8))
    def test_what_stands_around_it(self, driver, gated, has):
        x, weight, scale, *around = linear_case(11, 96, 64, gated)
        around = [part if has >> i & 1 else None for i, part in enumerate(around)]
        wanted = linear_int4(x, weight, scale, *around, [64], gated, 1e-6)
        assert max_error(driver.linear(x, weight, scale, *around, gated, 1e-6), wanted) <= ANOTHER_STEP

    def test_rows_do_not_depend_on_their_neighbours(self, driver):
        x, weight, scale, bias, norm, _ = linear_case(17, 128, 48)
        whole = driver.linear(x, weight, scale, bias, norm, None, False, 1e-6)
        for row in (0, 7, 8, 16):
            assert torch.equal(driver.linear(x[row : row + 1], weight, scale, bias, norm, None, False, 1e-6), whole[row : row + 1])

    def test_extreme_weights_and_activations(self, driver):
        """Every product at its largest, of either sign: no intermediate sum may overflow."""
        for integer, value in ((-8, 1.0), (7, 1.0), (-8, -1.0), (7, -1.0)):
            weight, scale = pack(torch.full((16, 4864), integer, dtype=torch.int8), torch.ones(16, 152))
            got = driver.linear(torch.full((9, 4864), value), weight, scale, None, None, None, False, 0.0)
            assert max_error(got, torch.full((9, 16), integer * value * 4864)) <= SAME_SUMS

    @pytest.mark.parametrize("value", [NAN, -NAN, torch.inf, -torch.inf])
    def test_what_is_no_number_spoils_its_row_alone(self, driver, value):
        """Else a decoder that overflows would go on with finite logits of nothing."""
        x, weight, scale, bias, norm, _ = linear_case(11, 96, 64)
        x = x.clone()
        x[5, 40] = value
        for around in ((bias, None, None), (None, norm, None)):
            wanted = linear_int4(x, weight, scale, *around, [64], False, 1e-6).isfinite()
            got = driver.linear(x, weight, scale, *around, False, 1e-6).isfinite()
            assert not got[5].any() and torch.equal(got, wanted) and got.sum() == 10 * 64


@pytest.mark.full
class TestArmAgainstThisProcessor:
    @pytest.fixture(params=ARM_VARIANTS)
    def pair(self, built, request):
        return built(request.param), built("native")

    @pytest.mark.parametrize("function", ["exp2", "softplus", "silu"])
    def test_functions(self, pair, function):
        arm, host = (apply(driver, function, grid(-110, 110, 50_000)).double() for driver in pair)
        assert float(relative(arm, host).max()) <= SAME_SUMS

    @pytest.mark.parametrize("channels", CHANNELS)
    def test_scan_and_convolution(self, pair, channels):
        for order, directions, options, _ in scan_cases(channels):
            arm, host = (driver.scan(directions, order, **options) for driver in pair)
            assert max_error(arm, host) <= SAME_SUMS
        for arguments, _ in convolution_cases(channels):
            arm, host = (driver.convolution(*arguments) for driver in pair)
            assert max_error(arm, host) <= SAME_SUMS

    @pytest.mark.parametrize("half", [False, True], ids=["float32", "half"])
    def test_attention(self, pair, half):
        """This processor's products of bfloat16 pairs, where it has them, are those of a half precision cache."""
        qkv, rotation = attention_case(14, 2, 64)
        arm, host = (driver.attention(qkv[:168], rotation, 2, half, [37, 130, 1]) for driver in pair)
        assert max_error(arm, host) <= (BFLOAT if half else SAME_SUMS)

    def test_linear(self, pair):
        for arguments in (linear_case(9, 128, 48), linear_case(1, 896, 128)):
            arm, host = (driver.linear(*arguments, False, 1e-6) for driver in pair)
            assert max_error(arm, host) <= SAME_SUMS
