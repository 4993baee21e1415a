"""Recurrent layers, step by step: x [s, b, i], states [b, h]. States are kept in float32 between the steps.

The sequence of direction "reverse" is in the order of its steps, the last element of x first; that of the backward half of
"bidirectional" is in the order of x.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from export.errors import PackageError
from runtime_py.mil.registry import operation

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "scaled_tanh": torch.tanh,  # with its scales of 1: these operations have no parameter for them
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "sigmoid_hard": lambda x: (0.2 * x + 0.5).clamp(0, 1),
}


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name.lower() not in ACTIVATIONS:
        raise PackageError(f"it has the activation {name!r}: MIL has {', '.join(ACTIVATIONS)} here")
    return ACTIVATIONS[name.lower()]


def _ordered(x: Tensor, direction: str) -> Tensor:
    """x in the order of the steps."""
    if direction not in ("forward", "reverse"):
        raise PackageError(f"its direction is {direction!r}")
    return x if direction == "forward" else x.flip(0)


def _check_batch(x: Tensor, **states: Tensor) -> None:
    """Every state begins with the batch of x: nothing is broadcast."""
    for name, state in states.items():
        if state.dim() != 2 or state.shape[0] != x.shape[1]:
            raise PackageError(f"its {name} is {list(state.shape)}, and its input, {list(x.shape)}, has a batch of {x.shape[1]}")


def _inputs(x: Tensor, weight: Tensor, bias: Tensor | None, hidden: int, gates: int) -> Tensor:
    """x [s, b, i] by weight [gates * h, i], plus bias: what all steps take from it, [s, b, gates * h]."""
    if x.dim() != 3 or weight.dim() != 2 or weight.shape[0] != gates * hidden:
        raise PackageError(f"its input is {list(x.shape)}, its weight_ih {list(weight.shape)}, and its hidden size {hidden}")
    return functional.linear(x, weight, bias)


def _sequence(states: list[Tensor], whole: bool) -> Tensor:
    return torch.stack(states if whole else states[-1:])


@operation("rnn", returns=("x", "x"), same=("x", "initial_h"))
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """h = activation(W x + R h + bias), with W [h, i] and R [h, h]. The states of all steps or of the last, and the last."""
    _check_batch(x, initial_h=initial_h)
    apply, h, states = _activation(activation), initial_h, []
    for given in _inputs(_ordered(x, direction), weight_ih, bias, weight_hh.shape[1], 1):
        h = apply(given + functional.linear(h, weight_hh))
        states.append(h)
    return _sequence(states, output_sequence), h


@operation("gru", returns=("x", "x"), same=("x", "initial_h"))
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h = (1 - z) * o + z * h. Weights and biases hold the gates r (reset), o (output) and z (update), in this order.

    The reset gate multiplies the state before its product with R, or with reset_after the product and its bias. (MIL's text
    shows the second form for both; what Core ML computes is the first.)
    """
    _check_batch(x, initial_h=initial_h)
    hidden = weight_hh.shape[1]
    inner, outer, h, states = _activation(recurrent_activation), _activation(activation), initial_h, []
    bias = torch.zeros(3 * hidden) if bias is None else bias
    hidden_r, hidden_o, hidden_z = weight_hh.split(hidden)
    bias_r, bias_o, bias_z = bias.split(hidden)
    for given in _inputs(_ordered(x, direction), weight_ih, input_bias, hidden, 3):
        given_r, given_o, given_z = given.split(hidden, dim=-1)
        r = inner(given_r + functional.linear(h, hidden_r, bias_r))
        z = inner(given_z + functional.linear(h, hidden_z, bias_z))
        product = r * functional.linear(h, hidden_o, bias_o) if reset_after else functional.linear(r * h, hidden_o, bias_o)
        h = (1 - z) * outer(given_o + product) + z * h
        states.append(h)
    return _sequence(states, output_sequence), h


def _lstm(
    given: Tensor, h: Tensor, c: Tensor, weight_hh: Tensor, peephole: Tensor | None, names: tuple[str, str, str], clip: float | None
) -> tuple[list[Tensor], Tensor]:
    """The states h of all steps and the last c. `given` [s, b, 4 * h] is in the order of the steps."""
    inner, cell, outer = map(_activation, names)
    hidden, states = weight_hh.shape[1], []
    see_i, see_f, see_o = (torch.zeros(3 * hidden) if peephole is None else peephole).split(hidden)
    for step in given:
        i, f, o, z = (step + functional.linear(h, weight_hh)).split(hidden, dim=-1)
        c = inner(f + see_f * c) * c + inner(i + see_i * c) * cell(z)
        c = c if clip is None else c.clamp(-clip, clip)
        h = inner(o + see_o * c) * outer(c)
        states.append(h)
    return states, c


@operation("lstm", returns=("x", "x", "x"), same=("x", "initial_h", "initial_c"))
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """c = f * c + i * z, clipped, and h = o * activation(c): the h of all steps or of the last, the last h and the last c.

    Weights and biases hold the gates i, f, o and z in this order; peepholes, [3 * h], let i and f see the c before and o the c
    after the step. "bidirectional" runs a second layer (`..._back`) from the end; its states stand behind those of the first.
    """
    _check_batch(x, initial_h=initial_h, initial_c=initial_c)
    names, hidden = (recurrent_activation, cell_activation, activation), weight_hh.shape[1]
    if direction != "bidirectional":
        if any(value is not None for value in (weight_ih_back, weight_hh_back, bias_back, peephole_back)):
            raise PackageError(f"it has weights for a way back, and its direction is {direction!r}")
        given = _inputs(_ordered(x, direction), weight_ih, bias, hidden, 4)
        states, c = _lstm(given, initial_h, initial_c, weight_hh, peephole, names, clip)
        return _sequence(states, output_sequence), states[-1], c
    if weight_ih_back is None or weight_hh_back is None:
        raise PackageError("it is bidirectional, and has no weights for the way back")
    given = _inputs(x, weight_ih, bias, hidden, 4)
    states, c = _lstm(given, initial_h[:, :hidden], initial_c[:, :hidden], weight_hh, peephole, names, clip)
    given = _inputs(x.flip(0), weight_ih_back, bias_back, hidden, 4)
    back, c_back = _lstm(given, initial_h[:, hidden:], initial_c[:, hidden:], weight_hh_back, peephole_back, names, clip)
    h, c = torch.cat([states[-1], back[-1]], dim=-1), torch.cat([c, c_back], dim=-1)
    if not output_sequence:
        return h[None], h, c
    return torch.cat([torch.stack(states), torch.stack(back[::-1])], dim=-1), h, c
