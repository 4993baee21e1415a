"""The selective scan as a plain graph: no loop, unrolled over blocks, differentiable. For Core ML, ONNX and training on a CPU.

ExecuTorch's stock bundles take `looped.py`, which has a tenth of the nodes to lower and runs faster there.

The recurrence h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t is linear, so over a block that h enters and where s is the time
since the block began, s_t = delta_1 + .. + delta_t,

    h_t = (the same recurrence from zeros) + exp(s_t A) h        y_t = C_t h_t + D u_t

1. From zeros, all K blocks side by side: T1 unrolled steps on a state [K, G, N, D], each with its share of y.
2. From the blocks' ends and durations, the state that enters each block: the same recurrence over T2 blocks, for all T3
   superblocks side by side, and again over the superblocks, there for all pairs at once.
3. The share of the entering state in y: one correction per step, exp(s_t A) times that state.

Every exponent is a sum of delta times A, not above 0: nothing overflows, nothing is divided, and where exp underflows to 0 a
state is forgotten, as it should be. Time is laid out [T1, T2, T3], the fastest digit of t first, so that every level is a split
along the first axis, and is padded with steps of delta 0 and u 0, which keep the state. No tensor has more than 4 axes. Steps, y
and states are in the inputs' dtype: in float16, y is within 2e-3 of the largest value of the sequential form (whose state is
float32) up to 4,096 steps, and the sum of delta over the sequence has to stay below 65,504 (beyond it A
of exactly 0 gives NaN).

Cost, with K = T2 T3 and E = L G D N. Operations: 2 + 3 / T1 exps per element of E, and 18 (1 + 1.4 / T1) reads or writes of it
where operators are not fused. Nodes: 35 + 17 T1 for the steps, of which 4 T1 are pieces of the inputs and no operations, and
18 + 4 T2 and 15 for the levels above. Memory: 4 or 5 tensors of K or T3 T3 states at a time, beside a few of [L, G, D]. At released
size, L 1569, G 2, D 1152, N 16, float32 (E is 231 MB; float16 halves the memory), eager on one x86 core:

    T1, T2, T3     nodes   MIL operations   largest tensor   live at most   time
     4, 20, 20       218              141            59 MB         225 MB   1.33 s  (above 32 MB malloc maps every tensor anew)
     7, 15, 15       249              170            33 MB         152 MB   0.37 s  <- width 226, chosen
     9, 14, 13       279                            27 MB         136 MB   0.33 s
    12, 12, 11       322              229            19 MB         114 MB   0.29 s
    16, 10, 10       382              277            15 MB         101 MB   0.27 s
    25,  9,  7       531                            15 MB          85 MB   0.24 s
    50,  8,  4       952              715            15 MB          73 MB   0.21 s
    sequential                                                              0.18 s  (its one state of 147 KB stays in cache)

The width grows with the root of the length: with it both nodes and tensors do. Training, forward and backward, same sequence and
states, D 128 and 256: 82 and 178 ms with that width, 61 and 118 ms with `cache_width`, 290 and 336 ms sequentially; 116 and 231 MB
are kept for the backward pass (four tensors of E), 57 and 113 MB sequentially. Keeping the decays of pass 1 for a second pass from
the entering states, in place of the correction, trains a seventh faster, but a graph would hold all of E.
"""

import functools
import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH_PER_ROOT = 5.7  # time steps in one operator per square root of the length: 226 of 1,569
CACHE_ELEMENTS = 2**18  # one float32 megabyte, about what the cache of one core holds


def selective_scan_unrolled(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, width: int | None = None) -> Tensor:
    """The same arguments, shapes and result as `selective_scan_sequential`, computed in the inputs' dtype throughout.

    `width` bounds the time steps in one operator, by default `graph_width`; it changes nothing but the last digits.
    """
    length, groups, channels = u.shape
    states = A.shape[-1]
    levels = block_levels(length, graph_width(length) if width is None else width)
    A = A.transpose(1, 2).contiguous()  # [G, N, D]: channels are the contiguous axis of every state
    deltas = by_step(delta, levels, groups, 1, channels)  # T1 of [K, G, 1, D]
    driven = by_step(delta * u, levels, groups, 1, channels)  # T1 of [K, G, 1, D]
    Bs = by_step(B, levels, groups, states, 1)  # T1 of [K, G, N, 1]
    Cs = by_step(C, levels, 1, states)  # T1 of [K G, 1, N]

    state = Bs[0] * driven[0]  # [K, G, N, D], each block from zeros
    y, elapsed = [read(Cs[0], state)], [deltas[0]]  # outputs, and the time since the block began
    for delta_t, driven_t, B_t, C_t in zip(deltas[1:], driven[1:], Bs[1:], Cs[1:]):
        state = fade(delta_t, A) * state + B_t * driven_t
        y.append(read(C_t, state))
        elapsed.append(elapsed[-1] + delta_t)
    y = torch.cat(y)  # [T1 K G, 1, D]
    if len(levels) > 1:
        entering = entering_states(state, elapsed[-1], A, levels[1:])
        y = y + torch.cat([read(C_t, fade(elapsed_t, A) * entering) for C_t, elapsed_t in zip(Cs, elapsed)])
    return by_time(y, levels, groups, channels)[:length] + u * D


def fade(elapsed: Tensor, A: Tensor) -> Tensor:
    """What is left of a state: [.., G, 1, D] times not below 0 and [G, N, D] rates not above 0 to [.., G, N, D] from 0 to 1."""
    return torch.exp(elapsed * A)


def read(C_t: Tensor, state: Tensor) -> Tensor:
    """[K G, 1, N] maps of [K, G, N, D] states -> [K G, 1, D]."""
    return torch.bmm(C_t, state.flatten(0, 1))


def by_step(x: Tensor, levels: tuple[int, ...], *shape: int) -> tuple[Tensor, ...]:
    """[L, G, X] -> T1 tensors, one step of every block each; block T2 T3's order is that of `entering_states`."""
    x = F.pad(x, (0, 0, 0, 0, 0, math.prod(levels) - x.shape[0]))  # a step of delta 0 and u 0 keeps the state
    return digits_reversed(x.flatten(1), tuple(reversed(levels))).reshape(-1, *shape).chunk(levels[0])


def by_time(y: Tensor, levels: tuple[int, ...], groups: int, channels: int) -> Tensor:
    """[T1 K G, 1, D] -> [T3 T2 T1, G, D], the way back."""
    return digits_reversed(y.reshape(-1, groups * channels), levels).reshape(-1, groups, channels)


def digits_reversed(x: Tensor, digits: tuple[int, ...]) -> Tensor:
    """[d1 d2 d3, X] -> [d3, d2, d1, X]: what comes first varies slowest, so that every level splits along the first axis."""
    count = len(digits)
    return x.reshape(*digits, -1).permute(*reversed(range(count)), count) if count > 1 else x


def entering_states(ends: Tensor, elapsed: Tensor, A: Tensor, levels: tuple[int, ...]) -> Tensor:
    """The state that enters each block, from the state at its end that began with zeros: the recurrence one level up.

    [K, G, N, D] and the blocks' durations [K, G, 1, D] -> [K, G, N, D].
    """
    if len(levels) == 1:
        return entering_states_by_pairs(ends, elapsed, A)
    middle, top = levels
    _, groups, states, channels = ends.shape
    before, superblock_ends = pass_on(ends, fade(elapsed, A), middle)
    durations = elapsed.reshape(middle, -1)  # [T2, T3 G D]
    waited = constant(([k < j for k in range(middle)] for j in range(middle)), elapsed) @ durations  # since the superblock began
    entering = entering_states_by_pairs(superblock_ends, durations.sum(0).reshape(top, groups, 1, channels), A)
    left = fade(waited.reshape(elapsed.shape), A).reshape(middle, -1, states, channels)  # [T2, T3 G, N, D]
    return before + (left * entering.flatten(0, 1)).reshape(ends.shape)


def pass_on(ends: Tensor, left: Tensor, middle: int) -> tuple[Tensor, Tensor]:
    """From block to block inside each superblock, which begins with zeros: the states before each block, [K, G, N, D], and at
    the superblocks' ends, [T3, G, N, D]."""
    (state, *later), (_, *lefts) = ends.chunk(middle), left.chunk(middle)
    before = []
    for end, left_j in zip(later, lefts):
        before.append(state)
        state = left_j * state + end
    # Padded, since zeros to concatenate would be stored as a constant of a megabyte.
    return F.pad(torch.cat(before), (0, 0, 0, 0, 0, 0, state.shape[0], 0)), state


def entering_states_by_pairs(ends: Tensor, elapsed: Tensor, A: Tensor) -> Tensor:
    """The same for few blocks, T, without a recurrence: each end fades over the blocks between, in a tensor [T, T, G N, D]."""
    count, groups, _, channels = ends.shape
    order = range(count)
    between = constant(([j < k < i for k in order] for i in order for j in order), elapsed)  # [T T, T]
    waited = (between @ elapsed.reshape(count, -1)).reshape(-1, groups, 1, channels)  # [T T, G, 1, D]
    left = fade(waited, A).reshape(count, count, -1, channels) * ends.reshape(count, -1, channels)
    not_before = torch.tensor([[[[j >= i]] for j in order] for i in order], device=ends.device)  # [T, T, 1, 1]
    return left.masked_fill(not_before, 0).sum(1).reshape(ends.shape)


def constant(rows: Iterable[list[bool]], like: Tensor) -> Tensor:
    return torch.tensor(list(rows), dtype=like.dtype, device=like.device)


def graph_width(length: int) -> int:
    """Time steps in one operator of a graph: the size of its tensors and their number both grow with the length's square root."""
    return max(1, round(WIDTH_PER_ROOT * math.sqrt(length)))


def cache_width(groups: int, channels: int, states: int) -> int:
    """Time steps in one operator for training in eager mode: as many as fit in the cache, since nodes cost little there."""
    return max(1, CACHE_ELEMENTS // (groups * channels * states))


@functools.lru_cache
def block_levels(length: int, width: int) -> tuple[int, ...]:
    """(T1, T2, T3), without those that are 1: the least nodes times padded length with T2 T3 <= width and T3 T3 <= width."""
    width = min(width, length)
    outer = [(1, 1)] + [(middle, top) for top in range(2, math.isqrt(width) + 1) for middle in range(1, width // top + 1)]
    choices = [(math.ceil(length / (middle * top)), middle, top) for middle, top in outer]
    steps, *outer = min(choices, key=lambda levels: nodes(*levels) * math.prod(levels))
    return steps, *(count for count in outer if count > 1)


def nodes(steps: int, middle: int, top: int) -> int:
    """About how many nodes the graph has: the cost model's third term."""
    return 35 + 17 * steps + (18 + 4 * middle if middle > 1 else 0) + (15 if top > 1 else 0)
