"""`video_encoder`: 8 key frames to VideoMamba tokens.

The twin keeps the eager module's structure and names and rewrites what does not lower well: the mixers (`mamba_mixer.py`) and
the mean of RMSNorm (a product).
"""

import torch
from torch import Tensor, nn

from export.components.base import Component, Form, Signature
from export.components.mamba_mixer import mixer_graph
from export.components.norm import norm_graph
from export.config import IMAGE_SIZE, KEY_FRAMES, ModelConfig
from export.manifest import TensorSpec
from export.model.mobile_videogpt import MobileVideoGPT
from export.model.videomamba import VideoMambaEncoder


class VideoEncoderGraph(nn.Module):
    """[1, 8, 3, 224, 224] -> [8, P, C]."""

    def __init__(self, encoder: VideoMambaEncoder, form: Form):
        super().__init__()
        self.config = encoder.config
        self.normalize, self.patch_embedding = encoder.normalize, encoder.patch_embedding
        positions = encoder.position_embedding.detach()
        self.register_buffer("first", encoder.class_token.detach()[0] + positions[0, :1])  # [1, C]: the class token where it stands
        self.register_buffer("positions", positions[:, 1:].clone())  # [1, P, C]
        self.register_buffer("times", encoder.temporal_position_embedding.detach().clone())  # [1, 8, C]
        self.norms = nn.ModuleList(norm_graph(layer.norm, form.half) for layer in encoder.layers)
        self.mixers = nn.ModuleList(mixer_graph(layer.mixer, encoder.config.sequence, form.scan) for layer in encoder.layers)
        self.norm = norm_graph(encoder.norm, form.half)
        del encoder.layers, encoder.norm  # their weights live on in the twins above

    def embed(self, pixels: Tensor) -> Tensor:
        """[1, 8, 3, 224, 224] -> [1 + 8 P, C], as the eager module's."""
        patches = self.patch_embedding(self.normalize(pixels[0]).to(self.first.dtype)).flatten(2).transpose(1, 2)  # [8, P, C]
        # Turned here and not once above: XNNPACK fails on a constant [8, 1, C] in a sum ("propagating input shapes").
        patches = patches + self.positions + self.times.transpose(0, 1)
        return torch.cat([self.first, patches.reshape(-1, self.config.width)])

    def forward(self, pixels: Tensor) -> Tensor:
        residual = self.embed(pixels)  # [L, C]
        hidden = None
        for norm, mixer in zip(self.norms, self.mixers):
            residual = residual if hidden is None else residual + hidden
            hidden = mixer(norm(residual))
        tokens = self.norm(residual + hidden)
        return tokens[1:].reshape(KEY_FRAMES, self.config.patches, self.config.width)


def signature(config: ModelConfig, form: Form) -> Signature:
    pixels = TensorSpec("pixels", (1, KEY_FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE), "float32", "RGB key frames in time order, 0 to 255")
    tokens = TensorSpec("tokens", (KEY_FRAMES, config.videomamba.patches, config.videomamba.width), "float32", "VideoMamba tokens")
    return Signature((pixels,), (tokens,))


def twin(model: MobileVideoGPT, form: Form) -> nn.Module:
    return VideoEncoderGraph(model.video_encoder, form)


COMPONENT = Component("video_encoder", ("video_encoder",), signature, twin)
