"""`image_encoder`: 16 frames to CLIP patch features.

The eager encoder's layers, rewritten around what costs outside the matrix products: passes over activations of up to 38 MB.
Constant factors move into the weights, whose int8 values do not change (a channel's scale takes the factor). Attention is two
products around a plain softmax: PyTorch's fused operator decomposes into one that guards against fully masked rows, four passes
that no delegate takes. There is no mask here.
"""

import torch
from torch import Tensor, nn

from export.components.base import Component, Form, Signature
from export.config import FRAMES, IMAGE_SIZE, ModelConfig
from export.manifest import TensorSpec
from export.model.clip import QUICK_GELU, ClipAttention, ClipLayer
from export.model.mobile_videogpt import MobileVideoGPT


def scaled(linear: nn.Linear, factor: float, of_input: bool = False) -> nn.Linear:
    """`linear` with its result (or, `of_input`, its input) multiplied by `factor`, in place."""
    with torch.no_grad():
        linear.weight.mul_(factor)
        if not of_input:
            linear.bias.mul_(factor)
    return linear


class ClipAttentionGraph(nn.Module):
    """The eager attention: [B, T, C] -> [B, T, C]."""

    def __init__(self, attention: ClipAttention):
        super().__init__()
        self.heads = attention.heads
        self.head_dim = attention.out_proj.in_features // self.heads
        self.q_proj, self.k_proj, self.v_proj = scaled(attention.q_proj, self.head_dim**-0.5), attention.k_proj, attention.v_proj
        self.out_proj = attention.out_proj

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (proj(x).reshape(batch, tokens, self.heads, self.head_dim) for proj in (self.q_proj, self.k_proj, self.v_proj))
        q = q.permute(0, 2, 1, 3).reshape(batch * self.heads, tokens, self.head_dim)
        k = k.permute(0, 2, 3, 1).reshape(batch * self.heads, self.head_dim, tokens)  # transposed for the product in the same pass
        v = v.permute(0, 2, 1, 3).reshape(batch * self.heads, tokens, self.head_dim)
        attention = torch.softmax(torch.bmm(q, k), dim=-1)  # [B H, T, T]
        y = torch.bmm(attention, v).reshape(batch, self.heads, tokens, self.head_dim).permute(0, 2, 1, 3)
        return self.out_proj(y.reshape(batch, tokens, width))


class ClipLayerGraph(nn.Module):
    """The eager layer; QuickGELU h sigmoid(c h) becomes SiLU of c h, with c in `fc1` and 1 / c in `fc2`: one pass less."""

    def __init__(self, layer: ClipLayer):
        super().__init__()
        self.norm1, self.attention, self.norm2 = layer.norm1, ClipAttentionGraph(layer.attention), layer.norm2
        self.fc1, self.fc2 = scaled(layer.fc1, QUICK_GELU), scaled(layer.fc2, 1 / QUICK_GELU, of_input=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        h = self.fc1(self.norm2(x))
        return x + self.fc2(h * torch.sigmoid(h))


def signature(config: ModelConfig, form: Form) -> Signature:
    pixels = TensorSpec("pixels", (FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE), "float32", "RGB frames, 0 to 255; padding frames are mean x 255")
    features = TensorSpec("features", (FRAMES, config.clip.patches, config.clip.width), "float32", "CLIP patch features")
    return Signature((pixels,), (features,))


def twin(model: MobileVideoGPT, form: Form) -> nn.Module:
    encoder = model.image_encoder
    encoder.layers = nn.ModuleList(ClipLayerGraph(layer) for layer in encoder.layers)
    return encoder


COMPONENT = Component("image_encoder", ("image_encoder",), signature, twin)
