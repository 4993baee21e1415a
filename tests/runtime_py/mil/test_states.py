"""States of a program: values live from call to call, and what was read stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from export.errors import PackageError
from runtime_py.mil import Program
from tests.runtime_py.mil.making import mb, save

ZEROS = np.zeros((2, 3), np.float16)
ONES = np.ones((2, 3), np.float16)


def accumulate(x, total):
    """Returns the total before and after, and the first value read once more after the write."""
    before = mb.read_state(input=total)
    after = mb.coreml_update_state(state=total, value=mb.add(x=before, y=x))
    return before, after, mb.mul(x=before, y=np.float16(2))


def test_state_lives_from_call_to_call(tmp_path):
    program = Program.load(save(accumulate, {"x": ZEROS}, tmp_path / "model.mlpackage", states={"total": ZEROS}))
    first, second = program.make_state(), program.make_state()
    for step in range(3):
        before, after, doubled = program.run({"x": ONES}, state=first).values()
        np.testing.assert_array_equal(before, step * ONES)
        np.testing.assert_array_equal(after, (step + 1) * ONES)
        np.testing.assert_array_equal(doubled, 2 * step * ONES)
    np.testing.assert_array_equal(first.numpy("total"), 3 * ONES)
    np.testing.assert_array_equal(second.numpy("total"), ZEROS)
    assert first.numpy("total").dtype == np.float16


def test_state_is_asked_for(tmp_path):
    program = Program.load(save(accumulate, {"x": ZEROS}, tmp_path / "model.mlpackage", states={"total": ZEROS}))
    with pytest.raises(PackageError, match="keeps the state 'total'"):
        program.run({"x": ONES})


def test_nested_blocks_read_and_write_states(tmp_path):
    """Adds x to the state as often as `n` says, then doubles it if that was more than twice."""

    def build(x, n, total):
        limit = mb.squeeze(x=n)

        def body(i):
            value = mb.add(x=mb.read_state(input=total), y=x)
            mb.coreml_update_state(state=total, value=value)
            return mb.add(x=i, y=1)

        count = mb.while_loop(_cond=lambda i: mb.less(x=i, y=limit), _body=body, loop_vars=(np.int32(0),))
        many = mb.greater(x=count, y=2)
        return mb.cond(
            pred=many,
            _true_fn=lambda: mb.coreml_update_state(state=total, value=mb.mul(x=mb.read_state(input=total), y=np.float16(2))),
            _false_fn=lambda: mb.read_state(input=total),
        )

    path = save(build, {"x": ONES, "n": np.array([0], np.int32)}, tmp_path / "model.mlpackage", states={"total": ZEROS})
    program = Program.load(path)
    state = program.make_state()
    for n, expected in ((2, 2), (0, 2), (3, 10)):
        (result,) = program.run({"x": ONES, "n": np.array([n])}, state=state).values()
        np.testing.assert_array_equal(result, expected * ONES)
        np.testing.assert_array_equal(state.numpy("total"), expected * ONES)
