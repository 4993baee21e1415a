"""Random numbers of saved programs: their distribution, and that a seed repeats them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from export.errors import PackageError
from export.mlpackage import TensorType
from runtime_py.mil import Program
from runtime_py.mil.registry import OPERATIONS
from tests.runtime_py.mil.making import get_new_symbol, mb, run, save

SHAPE = np.array([2, 3, 50], np.int32)
LOGITS = np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])).astype(np.float32)


def draw(shape, x, **options):
    return (
        mb.random_bernoulli(shape=shape, prob=0.5, **options),
        mb.random_normal(shape=shape, mean=1.0, stddev=2.0, **options),
        mb.random_uniform(shape=shape, low=-1.0, high=3.0, **options),
        mb.random_categorical(x=x, size=100, **options),
    )


def test_seeds_repeat_and_shapes_may_come_at_run_time(tmp_path):
    def build(shape, x):
        return (*draw(shape, x, seed=7), *draw(shape, x, seed=7), *draw(shape, x, seed=8), *draw(shape, x), *draw(shape, x))

    program = Program.load(save(build, {"shape": SHAPE, "x": LOGITS}, tmp_path / "model.mlpackage"))
    first, second = (list(program.run({"shape": SHAPE, "x": LOGITS}).values()) for _ in range(2))
    smaller = list(program.run({"shape": np.array([1, 4, 2], np.int32), "x": LOGITS}).values())
    for kind in range(4):
        seeded, again, other, free, free_again = first[kind::4]
        assert seeded.shape == ((2, 100) if kind == 3 else (2, 3, 50)) and smaller[kind].shape == ((2, 100) if kind == 3 else (1, 4, 2))
        np.testing.assert_array_equal(seeded, again)
        np.testing.assert_array_equal(seeded, second[kind])
        for different in (other, free, free_again, second[kind + 12]):
            assert (seeded != different).any()
        assert (free != free_again).any() and (free != second[kind + 12]).any()


def test_a_rank_that_is_known_at_run_time():
    shape = np.array([2, 3], np.int32)
    (got,) = run(lambda shape: mb.random_normal(shape=shape, seed=1), {"shape": shape}, shapes={"shape": (get_new_symbol(),)})
    assert got.shape == (2, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_distributions(dtype):
    """200,000 numbers: the bounds are five standard errors."""
    shape = np.array([4, 50000], np.int32)

    def build(x):
        return (
            mb.random_bernoulli(shape=shape, prob=dtype(0.25), seed=1),
            mb.random_normal(shape=shape, mean=dtype(1), stddev=dtype(2), seed=2),
            mb.random_uniform(shape=shape, low=dtype(-1), high=dtype(3), seed=3),
            mb.random_uniform(shape=shape, low=dtype(2), high=dtype(2), seed=4),
            mb.identity(x=x),
        )

    bernoulli, normal, uniform, constant, _ = run(build, {"x": np.zeros(1, dtype)})
    assert {a.dtype for a in (bernoulli, normal, uniform, constant)} == {np.dtype(dtype)}
    bernoulli, normal, uniform = (a.astype(np.float64) for a in (bernoulli, normal, uniform))
    root = np.sqrt(shape.prod())
    assert set(np.unique(bernoulli)) == {0, 1} and abs(bernoulli.mean() - 0.25) < 5 * 0.433 / root
    assert abs(normal.mean() - 1) < 5 * 2 / root and abs(normal.var() - 4) < 5 * 4 * np.sqrt(2) / root
    inside = [np.mean(np.abs(normal - 1) < 2 * k) for k in (1, 2, 3)]
    np.testing.assert_allclose(inside, [0.6827, 0.9545, 0.9973], atol=5 * 0.47 / root)
    assert uniform.min() >= -1 and uniform.max() < 3
    counts, _ = np.histogram(uniform, bins=8, range=(-1, 3))
    np.testing.assert_allclose(counts / uniform.size, 1 / 8, atol=5 * 0.331 / root)
    np.testing.assert_array_equal(constant, np.full(shape, 2, dtype))


@pytest.mark.parametrize("mode", ["logits", "probs"])
def test_categories(mode):
    probabilities = np.exp(LOGITS.astype(np.float64))
    x = (LOGITS + 3 if mode == "logits" else 3 * probabilities).astype(np.float32)  # both count up to a factor

    def build(x):
        return mb.random_categorical(x=x, mode=mode, size=50000, seed=5), mb.random_categorical(x=x, mode=mode)

    rows, single = run(build, {"x": x})
    assert rows.shape == (2, 50000) and single.shape == (2, 1)
    for row, expected in zip(rows, probabilities):
        counts = np.bincount(row.astype(int), minlength=3)
        np.testing.assert_array_equal(row, row.astype(int))
        np.testing.assert_allclose(counts / 50000, expected, atol=5 * 0.5 / np.sqrt(50000))


def test_what_is_left_out():
    shape, call = [100000], SimpleNamespace(outputs=[TensorType("fp32", (100000,))])
    torch.manual_seed(0)
    bernoulli, normal = OPERATIONS["random_bernoulli"].function(shape), OPERATIONS["random_normal"].function(shape)
    uniform = OPERATIONS["random_uniform"].function(shape, call)
    for numbers, mean, deviation in ((bernoulli, 0.5, 0.5), (normal, 0, 1), (uniform, 0.5, 12**-0.5)):
        assert abs(numbers.mean() - mean) < 0.016 and abs(numbers.std() - deviation) < 0.016
    assert OPERATIONS["random_categorical"].function(torch.tensor([-100.0, 0.0])).tolist() == [1]


def test_what_is_no_distribution_is_refused():
    call = SimpleNamespace(outputs=[TensorType("fp32", (3,))])
    for name, arguments, message in (
        ("random_bernoulli", dict(shape=[3], prob=1.5), "the probability 1.5"),
        ("random_normal", dict(shape=[3], stddev=-1.0), "the standard deviation -1.0"),
        ("random_uniform", dict(shape=[3], low=1.0, high=0.0, call=call), r"draws from \[1.0, 0.0\)"),
        ("random_categorical", dict(x=torch.zeros(3), mode="odds"), "the mode 'odds'"),
    ):
        with pytest.raises(PackageError, match=message):
            OPERATIONS[name].function(**arguments)
