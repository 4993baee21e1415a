"""The kernels' headers, alone: their functions against float64, the scan and the convolution against what they are defined by.

One small program (`tests/kernels/driver.cpp`) is compiled for every width of vectors that this machine runs, once more with address
and undefined behaviour checks, and, in the tests marked `full`, for Arm, where an emulator runs it.
"""

import functools

import pytest
import torch
import torch.nn.functional as F

from export.ops.causal_conv import causal_conv
from export.ops.selective_scan import selective_scan_sequential
from tests.export.test_selective_scan import REGIMES
from tests.kernels.driver import Driver, build, host_variants
from tests.numerics import max_error

NAN = float("nan")
SAME_SUMS = 1e-5  # relative: float32 rounding over the state's memory, and another exp
CHANNELS = (1, 15, 16, 17, 70, 1152)  # around the widths of vectors and of a thread's share
LENGTHS = (1, 2, 5, 31, 32, 33, 70)  # around a tile's steps
ON_ARM = pytest.param("aarch64", marks=pytest.mark.full)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """variant -> Driver, compiled at the first use."""
    folder = tmp_path_factory.mktemp("drivers")
    return functools.cache(lambda variant: build(variant, folder))


@pytest.fixture(params=[*host_variants(), ON_ARM])
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


@pytest.mark.full
class TestArmAgainstThisProcessor:
    @pytest.fixture
    def pair(self, built):
        return built("aarch64"), built("native")

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
