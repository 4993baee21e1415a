"""Recurrent layers of saved programs against PyTorch's layers, and against their steps written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.errors import PackageError
from runtime_py.mil.operations.recurrent import lstm
from tests.runtime_py.mil.making import mb, run

STEPS, BATCH, SIZE, HIDDEN = 5, 2, 3, 4
TOLERANCE = {np.float32: {"rtol": 1e-4, "atol": 1e-5}, np.float16: {"rtol": 2**-9, "atol": 2**-11}}
RNG = np.random.default_rng(7)
APPLY = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}


def normal(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def layer(kind, dtype, **options):
    """A layer of PyTorch with weights that the element type holds, in float64."""
    made = kind(SIZE, HIDDEN, **options).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.from_numpy(normal(*parameter.shape, dtype=dtype)))
    return made


def ordered(weight, order, dtype):
    """PyTorch's gates in the order of MIL."""
    parts = np.split(weight.detach().numpy(), len(order))
    return np.concatenate([parts[i] for i in order]).astype(dtype)


IFOZ, ROZ = (0, 1, 3, 2), (0, 2, 1)  # from PyTorch's i, f, z, o and r, z, o


@pytest.mark.parametrize(("dtype", "opset"), [(np.float32, "iOS15"), (np.float16, "iOS17")])
@pytest.mark.parametrize("whole", [False, True])
def test_one_direction(dtype, opset, whole):
    """Of "reverse", the sequence is in the order of the steps."""
    x, h, c = normal(STEPS, BATCH, SIZE, dtype=dtype), normal(BATCH, HIDDEN, dtype=dtype), normal(BATCH, HIDDEN, dtype=dtype)
    lstm, rnn = layer(torch.nn.LSTM, dtype, bias=False), layer(torch.nn.RNN, dtype, bias=False)
    bias4, bias1 = normal(4 * HIDDEN, dtype=dtype), normal(HIDDEN, dtype=dtype)

    def build(x, h, c):
        results = []
        for direction in ("forward", "reverse"):
            same = {"x": x, "initial_h": h, "direction": direction, "output_sequence": whole}
            weights = {f"weight_{n}": ordered(getattr(lstm, f"weight_{n}_l0"), IFOZ, dtype) for n in ("ih", "hh")}
            results += mb.lstm(initial_c=c, bias=bias4, **weights, **same)
            weights = {f"weight_{n}": getattr(rnn, f"weight_{n}_l0").detach().numpy().astype(dtype) for n in ("ih", "hh")}
            results += mb.rnn(bias=bias1, **weights, **same)
        return results

    results = run(build, {"x": x, "h": h, "c": c}, opset)
    tx, th, tc = (torch.from_numpy(a).double() for a in (x, h[None], c[None]))
    for direction in ("forward", "reverse"):
        steps = tx if direction == "forward" else tx.flip(0)
        expected = []
        for made, state, bias, order in ((lstm, (th, tc), bias4, IFOZ), (rnn, th, bias1, (0,))):
            biased = type(made)(SIZE, HIDDEN).double()  # MIL has the sum of both biases
            torch_bias = torch.from_numpy(ordered(torch.from_numpy(bias), np.argsort(order), np.float64))
            with torch.no_grad():
                biased.weight_ih_l0.copy_(made.weight_ih_l0)
                biased.weight_hh_l0.copy_(made.weight_hh_l0)
                biased.bias_ih_l0.copy_(torch_bias)
                biased.bias_hh_l0.zero_()
                sequence, last = biased(steps, state)
            expected += [sequence if whole else sequence[-1:], *(s[0] for s in (last if isinstance(last, tuple) else (last,)))]
        for value in expected:
            np.testing.assert_allclose(results.pop(0), value, **TOLERANCE[dtype])


@pytest.mark.parametrize("whole", [False, True])
def test_bidirectional_lstm(whole):
    """The backward half of the sequence is in the order of x."""
    x, h, c = normal(STEPS, BATCH, SIZE), normal(2, BATCH, HIDDEN), normal(2, BATCH, HIDDEN)
    lstm = layer(torch.nn.LSTM, np.float32, bidirectional=True)
    beside = [np.concatenate([s[0], s[1]], axis=-1) for s in (h, c)]

    def build(x, h, c):
        options = {}
        for theirs, ours in (("", ""), ("_reverse", "_back")):
            for name in ("weight_ih", "weight_hh"):
                options[name + ours] = ordered(getattr(lstm, f"{name}_l0{theirs}"), IFOZ, np.float32)
            both = getattr(lstm, f"bias_ih_l0{theirs}") + getattr(lstm, f"bias_hh_l0{theirs}")
            options["bias" + ours] = ordered(both, IFOZ, np.float32)
        return mb.lstm(x=x, initial_h=h, initial_c=c, direction="bidirectional", output_sequence=whole, **options)

    sequence, last_h, last_c = run(build, {"x": x, "h": beside[0], "c": beside[1]}, "iOS15")
    with torch.no_grad():
        expected, (eh, ec) = lstm(torch.from_numpy(x).double(), tuple(torch.from_numpy(s).double() for s in (h, c)))
    np.testing.assert_allclose(last_h, torch.cat([eh[0], eh[1]], -1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last_c, torch.cat([ec[0], ec[1]], -1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sequence, expected if whole else torch.cat([eh[0], eh[1]], -1)[None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("clip", "inner", "cell", "outer"), [(0.4, "sigmoid", "tanh", "relu"), (None, "hard_sigmoid", "linear", "scaled_tanh")]
)
def test_lstm_with_peepholes_clip_and_activations(clip, inner, cell, outer):
    x, h, c = normal(STEPS, BATCH, SIZE), normal(BATCH, HIDDEN), normal(BATCH, HIDDEN)
    weight_ih, weight_hh, peephole = normal(4 * HIDDEN, SIZE), normal(4 * HIDDEN, HIDDEN), normal(3 * HIDDEN)
    options = {"recurrent_activation": inner, "cell_activation": cell, "activation": outer} | ({"clip": clip} if clip else {})

    def build(x, h, c):
        same = {"weight_ih": weight_ih, "weight_hh": weight_hh, "peephole": peephole}
        return mb.lstm(x=x, initial_h=h, initial_c=c, output_sequence=True, **same, **options)

    sequence, last_h, last_c = run(build, {"x": x, "h": h, "c": c}, "iOS15")
    see_i, see_f, see_o = np.split(peephole, 3)
    expected = []
    for step in x.astype(np.float64):
        i, f, o, z = np.split(step @ weight_ih.T + h @ weight_hh.T, 4, axis=-1)
        c = APPLY[inner](f + see_f * c) * c + APPLY[inner](i + see_i * c) * APPLY[cell](z)
        c = np.clip(c, -clip, clip) if clip else c
        h = APPLY[inner](o + see_o * c) * APPLY[outer](c)
        expected.append(h)
    np.testing.assert_allclose(sequence, np.stack(expected), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last_h, h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last_c, c, rtol=1e-4, atol=1e-5)


def test_gru_with_the_reset_before_and_after_the_product():
    x, h = normal(STEPS, BATCH, SIZE), normal(BATCH, HIDDEN)
    gru = layer(torch.nn.GRU, np.float32)
    weight_ih, weight_hh, input_bias, bias = (
        ordered(getattr(gru, f"{name}_l0"), ROZ, np.float32) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )

    def build(x, h):
        same = {"x": x, "initial_h": h, "weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias, "output_sequence": True}
        after = mb.gru(reset_after=True, input_bias=input_bias, **same)
        before = mb.gru(direction="reverse", recurrent_activation="hard_sigmoid", activation="relu", **same)
        return [*after, *before]

    after, after_last, before, before_last = run(build, {"x": x, "h": h}, "iOS18")
    with torch.no_grad():
        expected, last = gru(torch.from_numpy(x).double(), torch.from_numpy(h[None]).double())
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after_last, last[0], rtol=1e-4, atol=1e-5)
    states, state = [], h.astype(np.float64)
    for step in x[::-1].astype(np.float64):
        (wr, wo, wz), (rr, ro, rz), (br, bo, bz) = (np.split(a, 3) for a in (weight_ih, weight_hh, bias))
        r = APPLY["hard_sigmoid"](step @ wr.T + state @ rr.T + br)
        z = APPLY["hard_sigmoid"](step @ wz.T + state @ rz.T + bz)
        state = (1 - z) * APPLY["relu"](step @ wo.T + (r * state) @ ro.T + bo) + z * state
        states.append(state)
    np.testing.assert_allclose(before, np.stack(states), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(before_last, state, rtol=1e-4, atol=1e-5)


def test_unknown_activation_is_refused():
    with pytest.raises(PackageError, match="it has the activation 'elu'"):
        run(
            lambda x, h: mb.rnn(x=x, initial_h=h, weight_ih=normal(HIDDEN, SIZE), weight_hh=normal(HIDDEN, HIDDEN), activation="elu"),
            {"x": normal(STEPS, BATCH, SIZE), "h": normal(BATCH, HIDDEN)},
        )


@pytest.mark.parametrize("rows", [1, BATCH + 1])
def test_a_state_of_another_batch_is_refused(rows):
    """A single row is not broadcast either."""
    x, state, w, r = (torch.zeros(*shape) for shape in ((STEPS, BATCH, SIZE), (BATCH, HIDDEN), (4 * HIDDEN, SIZE), (4 * HIDDEN, HIDDEN)))
    with pytest.raises(PackageError, match=rf"its initial_c is \[{rows}, 4\], and its input, \[5, 2, 3\], has a batch of 2"):
        lstm(x, state, torch.zeros(rows, HIDDEN), w, r)
