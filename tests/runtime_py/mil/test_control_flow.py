"""`cond`, `while_loop` and lists: nested blocks read what stands outside them, and nothing is freed that is still read."""

from __future__ import annotations

import numpy as np
import pytest

from export.errors import PackageError
from runtime_py.mil import Program
from runtime_py.mil.operations import control_flow
from tests.runtime_py.mil.making import mb, run, save

X = np.arange(6, dtype=np.float16).reshape(2, 3)


@pytest.mark.parametrize("pred", [True, False])
def test_cond_runs_one_block(pred):
    """Both blocks read values from outside; one of the results is a value from outside itself."""

    def build(x, pred):
        y = mb.add(x=x, y=np.float16(1))
        pred = mb.cast(x=mb.squeeze(x=pred), dtype="bool")
        first, second = mb.cond(
            pred=pred,
            _true_fn=lambda: (mb.mul(x=y, y=x), mb.add(x=y, y=x)),
            _false_fn=lambda: (mb.sub(x=x, y=y), mb.mul(x=x, y=x)),
        )
        return first, second, mb.add(x=y, y=first)

    y = X + 1
    expected = (y * X, y + X) if pred else (X - y, X * X)
    results = run(build, {"x": X, "pred": np.array([pred], np.int32)})
    for result, value in zip(results, (*expected, y + expected[0])):
        np.testing.assert_array_equal(result, value)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_nested_loops(n):
    """sum over i < n of (sum over j < i of x) + y, where y is computed outside both loops and read only inside."""

    def build(x, n):
        y = mb.mul(x=x, y=np.float16(3))
        n = mb.squeeze(x=n)

        def outer(i, total):
            def inner(j, part):
                return mb.add(x=j, y=1), mb.add(x=part, y=x)

            start = mb.sub(x=y, y=y)
            _, part = mb.while_loop(_cond=lambda j, part: mb.less(x=j, y=i), _body=inner, loop_vars=(np.int32(0), start))
            return mb.add(x=i, y=1), mb.add(x=mb.add(x=total, y=part), y=y)

        zero = mb.sub(x=x, y=x)
        count, total = mb.while_loop(_cond=lambda i, total: mb.less(x=i, y=n), _body=outer, loop_vars=(np.int32(0), zero))
        return count, total

    count, total = run(build, {"x": X, "n": np.array([n], np.int32)})
    assert count == n
    np.testing.assert_array_equal(total, sum((i * X + 3 * X for i in range(n)), 0 * X))


def test_loop_swaps_its_variables():
    def build(x, y):
        i, a, b = mb.while_loop(
            _cond=lambda i, a, b: mb.less(x=i, y=3),
            _body=lambda i, a, b: (mb.add(x=i, y=1), b, a),
            loop_vars=(np.int32(0), x, y),
        )
        return a, b, mb.add(x=x, y=np.float16(0))

    a, b, again = run(build, {"x": X, "y": -X})
    np.testing.assert_array_equal(a, -X)
    np.testing.assert_array_equal(b, X)
    np.testing.assert_array_equal(again, X)


def test_loop_without_end(monkeypatch):
    monkeypatch.setattr(control_flow, "MAX_ITERATIONS", 100)

    def build(x):
        return mb.while_loop(
            _cond=lambda i, x: mb.less(x=i, y=1), _body=lambda i, x: (mb.mul(x=i, y=1), mb.add(x=x, y=x)), loop_vars=(np.int32(0), x)
        )

    with pytest.raises(PackageError, match=r"\(while_loop\): it has not ended after 100 iterations"):
        run(build, {"x": X})


def test_lists_grow_and_begin_with_zeros():
    def build(x, n):
        n = mb.squeeze(x=n)
        ls = mb.make_list(init_length=2, elem_shape=(2, 3), dtype="fp16")
        first = mb.list_read(ls=ls, index=0)
        ls = mb.list_write(ls=ls, index=4, value=x)
        kept = ls
        ls = mb.list_scatter(ls=ls, indices=[2, 1], value=np.stack([-X, 2 * X]))
        _, ls = mb.while_loop(
            _cond=lambda i, ls: mb.less(x=i, y=n),
            _body=lambda i, ls: (mb.add(x=i, y=1), mb.list_write(ls=ls, index=mb.add(x=i, y=5), value=x)),
            loop_vars=(np.int32(0), ls),
        )
        kept_gathered = mb.list_gather(ls=kept, indices=[2, 4])
        return first, mb.list_length(ls=ls), mb.list_gather(ls=ls, indices=[4, 3, 2, 1, 0]), kept_gathered

    for n in (0, 2):
        first, length, gathered, kept = run(build, {"x": X, "n": np.array([n], np.int32)})
        np.testing.assert_array_equal(first, 0 * X)
        assert length == 5 + n
        np.testing.assert_array_equal(gathered, np.stack([X, 0 * X, -X, 2 * X, 0 * X]))
        np.testing.assert_array_equal(kept, np.stack([0 * X, X]))


def test_list_of_fixed_length_with_elements_of_unknown_shape():
    def build(x, i):
        ls = mb.make_list(init_length=3, dynamic_length=False, elem_shape=("height", "width"), dtype="fp16")
        ls = mb.list_write(ls=ls, index=mb.squeeze(x=i), value=x)
        return mb.list_gather(ls=ls, indices=[0, 1, 2]), mb.list_length(ls=ls)

    gathered, length = run(build, {"x": X, "i": np.array([1], np.int32)})
    np.testing.assert_array_equal(gathered, np.stack([0 * X, X, 0 * X]))
    assert length == 3


@pytest.mark.parametrize("index, message", [(3, "writes the elements"), (-1, "writes the elements")])
def test_list_of_fixed_length_stays_so(index, message):
    def build(x, i):
        ls = mb.make_list(init_length=3, dynamic_length=False, elem_shape=(2, 3), dtype="fp16")
        return mb.list_read(ls=mb.list_write(ls=ls, index=mb.squeeze(x=i), value=x), index=0)

    with pytest.raises(PackageError, match=message):
        run(build, {"x": X, "i": np.array([index], np.int32)})


@pytest.mark.parametrize("index", [-1, 2])
def test_list_read_outside(index):
    def build(x, i):
        ls = mb.make_list(init_length=2, elem_shape=(2, 3), dtype="fp16")
        return mb.list_read(ls=mb.list_write(ls=ls, index=0, value=x), index=mb.squeeze(x=i))

    with pytest.raises(PackageError, match="reads the elements"):
        run(build, {"x": X, "i": np.array([index], np.int32)})


def test_values_are_freed_inside_loops(tmp_path):
    """After each iteration no value of the body is held by the frame but the loop's own variables."""

    def build(x):
        _, y = mb.while_loop(
            _cond=lambda i, y: mb.less(x=i, y=3),
            _body=lambda i, y: (mb.add(x=i, y=1), mb.add(x=mb.mul(x=y, y=np.float16(2)), y=x)),
            loop_vars=(np.int32(0), x),
        )
        return mb.add(x=y, y=np.float16(0))

    program = Program.load(save(build, {"x": X}, tmp_path / "model.mlpackage"))
    (loop,) = [step for step in program.functions["main"].block.steps if step.blocks]
    for block in loop.blocks:
        own = {place.slot for place in block.inputs} | {place.slot for step in block.steps for place in step.outputs}
        assert own == set(block.frees) | {slot for step in block.steps for slot in step.frees}
    np.testing.assert_array_equal(program.run({"x": X})[next(iter(program.functions["main"].outputs))], 15 * X)
