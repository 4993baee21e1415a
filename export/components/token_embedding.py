"""`token_embedding`: ids to embeddings, from a float table or from int8 rows with a scale each."""

import torch
from torch import Tensor, nn

from export.components.base import Component, Form, Signature
from export.config import ModelConfig
from export.manifest import DynamicAxis, TensorSpec
from export.model.mobile_videogpt import MobileVideoGPT


class TokenEmbeddingGraph(nn.Module):
    """ids [N] -> [N, D]."""

    def __init__(self, table: nn.Embedding):
        super().__init__()
        self.table = table

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids)


class Int8Embedding(nn.Module):
    """A table in int8 with one symmetric float scale per row: gather, convert, scale. Stock operators on every target."""

    def __init__(self, weight: Tensor):
        super().__init__()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127  # [V, 1]
        self.register_buffer("rows", torch.round(weight / scale).to(torch.int8))  # [V, D]
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        rows = torch.nn.functional.embedding(ids, self.rows).to(torch.float32)
        return rows * torch.nn.functional.embedding(ids, self.scale)


def signature(config: ModelConfig, form: Form) -> Signature:
    ids = TensorSpec("ids", ("tokens",), form.index_dtype, "token ids")
    embeds = TensorSpec("embeds", ("tokens", config.decoder.width), "float32", "token embeddings")
    return Signature((ids,), (embeds,), (DynamicAxis("tokens", form.least_tokens, form.max_context),))


def twin(model: MobileVideoGPT, form: Form) -> nn.Module:
    return TokenEmbeddingGraph(model.token_embedding)


COMPONENT = Component("token_embedding", ("token_embedding",), signature, twin)
