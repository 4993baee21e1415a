"""Frame scoring by attention, and the choice of key frames that the host makes from the scores.

The released code scores within chunks of 8 frames (the paper's text scores all 16 at once).
"""

import math

import torch
from torch import Tensor, nn

from export.config import CHUNK_KEY_FRAMES

TIE = 1e-5  # relative: scores closer than this are equal, and the earlier frame wins


class FrameScorer(nn.Module):
    """[2, 8, P, C] patch features -> [2, 8] scores: the attention that a frame's patches receive in its chunk.

    `softmax(F F^T / sqrt(C))` over rows of the chunk's 8 P tokens F; a frame's score is the sum of its columns. Float32
    throughout: in float16 the order of frames changes.
    """

    def forward(self, features: Tensor) -> Tensor:
        chunks, frames, patches, width = features.shape
        tokens = features.float().reshape(chunks, frames * patches, width)  # [2, 8 P, C]
        attention = torch.softmax(tokens @ tokens.transpose(1, 2) / math.sqrt(width), dim=-1)  # [2, 8 P, 8 P]
        received = attention.sum(dim=1)  # [2, 8 P]
        return received.view(chunks, frames, patches).sum(dim=-1)


def select_key_frames(scores: Tensor, topk: bool = True, count: int = CHUNK_KEY_FRAMES) -> Tensor:
    """The `count` best frames of each chunk in time order: [chunks, frames] -> [chunks, count] int64 on the CPU.

    `topk=False` takes the lowest scores. Scores within 1e-5 (relative) of the best one left tie with it, and a tie goes to
    the lower index, so that every host language picks the same frames.
    """
    picked = []
    for row in scores.detach().double().cpu().tolist():
        ranked = row if topk else [-score for score in row]
        left, chosen = list(range(len(row))), []
        for _ in range(count):
            best = max(ranked[i] for i in left)
            first = next((i for i in left if ranked[i] >= best - TIE * abs(best)), left[0])  # scores that are no numbers tie
            chosen.append(first)
            left.remove(first)
        picked.append(sorted(chosen))
    return torch.tensor(picked, dtype=torch.int64)
