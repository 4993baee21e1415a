"""Training, stage two: projectors, embeddings and decoder, on conversations about clips whose encoders' features are kept.

All questions about one clip share its 2,402 visual tokens: they are branches behind one prefix, each of which sees the prefix and
itself. In the last layer the prefix gives keys and values only, since nothing reads its outputs. Shapes: B clips, P tokens of prefix,
Q tokens of all branches, D width, E head width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from calibration.encoders import IGNORE
from calibration.questions import Question
from export.model.mobile_videogpt import MobileVideoGPT
from export.model.projector import Projector
from export.model.prompt import Encode, answer_ids, next_turn, question_ids, tokenize
from export.model.qwen2 import DecoderLayer, rope_table, rotate


@dataclasses.dataclass(frozen=True)
class Branches:
    """Conversations behind one prefix, packed: ids, their places behind the prefix, which conversation each belongs to, and the id
    that each is to predict (IGNORE: none); int64 [Q] each."""

    ids: np.ndarray
    places: np.ndarray
    branch: np.ndarray
    targets: np.ndarray


class Outcome(NamedTuple):
    """What `branch_logits` finds at each token of the branches: logits [B, Q, V], hidden states behind the first layer [B, Q, D], and how
    much attention misses the tokens that it is to look at: the sum over the `Looks` of the mean of -log of the share that they get, over
    the tokens that are to look at any."""

    logits: Tensor
    early: Tensor
    missed: Tensor


@dataclasses.dataclass(frozen=True)
class Looks:
    """Where tokens are to look, bool, one for each of the first heads: those of the branches in the first layer [B, heads, Q, K + Q] and
    in the second, and those of the prefix in the first [B, heads, K, K]."""

    words: Tensor | None = None
    answers: Tensor | None = None
    back: Tensor | None = None


NO_LOOKS = Looks()


def pack(conversations: Sequence[Sequence[Question]], encode: Encode) -> Branches:
    """Lay conversations side by side."""
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for number, conversation in enumerate(conversations):
        ids: list[int] = []
        targets: list[int] = []
        for turn, question in enumerate(conversation):
            asked = question_ids(question.text, encode)
            if turn:
                asked = tokenize(next_turn(question.text), encode)[1:]  # the end-of-turn token stands behind the answer already
            answer = answer_ids(question.reply, encode)
            ids += [*asked, *answer]
            targets += [IGNORE] * (len(asked) - 1) + answer + [IGNORE]
        for column, values in zip(columns, (ids, range(len(ids)), [number] * len(ids), targets)):
            column.append(np.array(values))
    return Branches(*(np.concatenate(column) for column in columns))


def pad(packs: Sequence[Branches]) -> Branches:
    """Packs of several clips in one array each, [B, Q]; padding belongs to branch -1 and predicts nothing."""
    longest = max(len(pack.ids) for pack in packs)
    filler = {"ids": 0, "places": 0, "branch": -1, "targets": IGNORE}
    return Branches(*(
        np.stack([np.pad(getattr(pack, name), (0, longest - len(pack.ids)), constant_values=value) for pack in packs])
        for name, value in filler.items()
    ))  # fmt: skip


def visual_prefix(model: MobileVideoGPT, before: Sequence[int], image: Tensor, pooled: Tensor) -> Tensor:
    """Kept features to the embeddings of the prefix: image [B, 16, 196, C], pooled video [B, 2, 196, W] -> [B, P, D]."""
    batch = image.shape[0]
    # The projector's own forward is the graph's, with one clip's shapes; its layers take any number of rows.
    image_tokens = Projector.forward(model.image_projector, image.flatten(0, 1)).reshape(batch, -1, model.config.decoder.width)
    video_tokens = Projector.forward(model.video_projector, pooled.flatten(0, 1)).reshape(batch, -1, model.config.decoder.width)
    text = model.token_embedding(torch.tensor(before, device=image.device)).expand(batch, -1, -1)
    return torch.cat([text, image_tokens, video_tokens], dim=1)


def branch_logits(
    model: MobileVideoGPT, prefix: Tensor, branches: Branches, kept: Tensor | None = None, looks: Looks = NO_LOOKS
) -> Outcome:
    """Run the branches behind their prefixes [B, P, D]. With `kept`, ascending places [B, K], only those tokens of each prefix are there,
    each at its place."""
    device = prefix.device
    ids, places, branch = (torch.from_numpy(array).to(device) for array in (branches.ids, branches.places, branches.branch))
    places = places + prefix.shape[1]  # [B, Q]
    cos, sin = (table.to(device) for table in rope_table(model.config.decoder, prefix.shape[1] + int(branches.places.max()) + 1))
    kept = torch.arange(prefix.shape[1], device=device).expand(len(prefix), -1) if kept is None else kept
    prefix = prefix.gather(1, kept[..., None].expand(-1, -1, prefix.shape[2]))
    length = kept.shape[1]
    own = (branch[:, :, None] == branch[:, None]) & (places[:, :, None] >= places[:, None])  # [B, Q, Q]
    sees = torch.cat([own.new_ones(*own.shape[:2], length), own], dim=-1)[:, None]  # [B, 1, Q, P + Q]
    x, y = prefix, model.token_embedding(ids)
    early, missed = y, x.new_zeros(())
    for i, layer in enumerate(model.decoder.layers):
        last = i + 1 == len(model.decoder.layers)
        q, k, v = _heads(layer, x, cos[kept][:, None], sin[kept][:, None], keys_only=last)
        q2, k2, v2 = _heads(layer, y, cos[places][:, None], sin[places][:, None])
        if i == 0 and looks.back is not None:
            causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
            missed = missed + _missed(q, k, causal, looks.back)
        wanted = (looks.words, looks.answers)[i] if i < 2 else None
        if wanted is not None:
            missed = missed + _missed(q2, torch.cat([k, k2], 2), sees, wanted)
        if not last:
            x = _rest(layer, x, F.scaled_dot_product_attention(q, k, v, is_causal=True))
        seen = F.scaled_dot_product_attention(q2, torch.cat([k, k2], 2), torch.cat([v, v2], 2), attn_mask=sees)
        y = _rest(layer, y, seen)
        early = y if i == 0 else early
    return Outcome(model.decoder.head(model.decoder.norm(y)), early, missed)


def _missed(q: Tensor, k: Tensor, sees: Tensor, looks: Tensor) -> Tensor:
    """See `branch_logits`: q [B, H, Q, E], k [B, H, T, E], sees [B, 1, Q, T] or [Q, T], looks [B, heads, Q, T]."""
    heads = looks.shape[1]
    scores = (q[:, :heads] @ k[:, :heads].transpose(2, 3)).float() / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~sees, -torch.inf)
    found = scores.masked_fill(~looks, -torch.inf)
    looking = looks.any(-1)
    return (scores.logsumexp(-1)[looking] - found[looking].logsumexp(-1)).mean() if looking.any() else scores.new_zeros(())


def _heads(layer: DecoderLayer, x: Tensor, cos: Tensor, sin: Tensor, keys_only: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries and keys, and values, all with one head for each query head: [B, T, D] -> [B, H, T, E]."""
    attention = layer.attention
    config = attention.config
    x = layer.attention_norm(x)
    k, v = (part(x).unflatten(-1, (-1, config.head_dim)).transpose(1, 2) for part in (attention.k_proj, attention.v_proj))
    k = rotate(k, cos.to(k.dtype), sin.to(k.dtype))
    repeat = config.heads // config.kv_heads
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    if keys_only:
        return k, k, v
    q = attention.q_proj(x).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)
    return rotate(q, cos.to(q.dtype), sin.to(q.dtype)), k, v


def _rest(layer: DecoderLayer, x: Tensor, seen: Tensor) -> Tensor:
    x = x + layer.attention.o_proj(seen.transpose(1, 2).flatten(2))
    return x + layer.ffn(layer.ffn_norm(x))
