"""How far a bundle's next-token distributions are from the model's, teacher-forced on the answers to known questions.

The answer's tokens go in, whatever a model would have said; at each, the two distributions over the vocabulary are compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from export.model.prompt import Encode, answer_ids, opening_ids, question_ids
from runtime_py.backends.base import Graphs
from runtime_py.stages import check_fits, embed

Asked = tuple[str, str]  # a question as the model is asked it, and its answer


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Over `tokens` answer tokens: mean KL divergence from the reference (nats), its standard error by clip, the share of tokens
    where both have the same best id, and the perplexity of the answers to each."""

    tokens: int
    kl: float
    kl_error: float
    top1: float
    perplexity: float
    reference_perplexity: float


def answer_distributions(backend: Graphs, encode: Encode, visual: Tensor, asked: Iterable[Asked]) -> Iterator[tuple[Tensor, list[int]]]:
    """For each question about one clip, given as its visual tokens: log-probabilities [T, V] before each of the answer's T tokens (the
    end of turn is one), and those tokens. The questions share one visual prefix."""
    opening = embed(backend, opening_ids(encode))
    prefix = torch.cat([opening, visual.to(opening)])
    length = prefix.shape[0]
    backend.decode(prefix, 0)
    for question, answer in asked:
        after, ids = question_ids(question, encode), answer_ids(answer, encode)
        check_fits(backend, length, len(after) + len(ids))
        logits = [backend.decode(embed(backend, after), length)]
        for i, token in enumerate(ids[:-1]):
            logits.append(backend.decode(embed(backend, [token]), length + len(after) + i))
        yield torch.log_softmax(torch.stack(logits).float().cpu(), dim=-1), ids


def compare(reference: Sequence[Sequence[tuple[Tensor, list[int]]]], other: Iterable[Sequence[tuple[Tensor, list[int]]]]) -> Agreement:
    """The distributions of two models on the same clips and questions; of `other` only as many clips are computed as `reference` has."""
    kls, same, own, theirs = [], [], [], []
    for clip, other_clip in zip(reference, other):
        kl = []
        for (p, ids), (q, other_ids) in zip(clip, other_clip, strict=True):
            if ids != other_ids:
                raise ValueError("the two models were given different answers")
            kl.append((p.exp() * (p - q)).sum(-1).clamp(min=0))  # [T]
            same.append(p.argmax(-1) == q.argmax(-1))
            places = torch.arange(len(ids)), torch.tensor(ids)
            theirs.append(-p[places])
            own.append(-q[places])
        kls.append(torch.cat(kl).double())
    if len(kls) < len(reference):
        raise ValueError("the other model was asked about fewer clips")
    means = np.array([float(kl.mean()) for kl in kls])
    error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")
    return Agreement(
        tokens=sum(len(kl) for kl in kls),
        kl=float(torch.cat(kls).mean()),
        kl_error=error,
        top1=float(torch.cat(same).double().mean()),
        perplexity=float(torch.cat(own).double().mean().exp()),
        reference_perplexity=float(torch.cat(theirs).double().mean().exp()),
    )
