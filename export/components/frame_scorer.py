"""`frame_scorer`: CLIP features of two chunks to one score per frame. It has no weights and stays float32."""

import math

import torch
from torch import Tensor, nn

from export.components.base import Component, Form, Signature
from export.config import CHUNK_FRAMES, CHUNKS, ModelConfig
from export.manifest import TensorSpec


class FrameScorerGraph(nn.Module):
    """As the eager scorer, with the sum over rows written as a product with ones, which the delegates take."""

    def forward(self, features: Tensor) -> Tensor:
        chunks, frames, patches, width = features.shape
        tokens = features.reshape(chunks, frames * patches, width)  # [2, 8 P, C]
        scaled = tokens * (1 / math.sqrt(width))
        attention = torch.softmax(torch.bmm(scaled, tokens.transpose(1, 2)), dim=-1)  # [2, 8 P, 8 P]
        ones = torch.ones(chunks, 1, frames * patches)
        received = torch.bmm(ones, attention)  # [2, 1, 8 P]
        return received.reshape(chunks, frames, patches).sum(dim=-1)


def signature(config: ModelConfig, form: Form) -> Signature:
    shape = (CHUNKS, CHUNK_FRAMES, config.clip.patches, config.clip.width)
    features = TensorSpec("features", shape, "float32", "CLIP patch features, frames in two chunks of eight")
    scores = TensorSpec("scores", (CHUNKS, CHUNK_FRAMES), "float32", "attention that each frame's patches receive within its chunk")
    return Signature((features,), (scores,))


COMPONENT = Component("frame_scorer", (), signature, lambda model, form: FrameScorerGraph())
