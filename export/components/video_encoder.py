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


class FoldedEmbedding(nn.Module):
    """The eager module's `embed`, [1, 8, 3, 224, 224] -> [1, 1 + 8 P, C], with the class token's position added to it once and for all.

    coremltools folds that sum anyway; folded here, what a package stores can be held against what it was made from.
    """

    def __init__(self, encoder: VideoMambaEncoder):
        super().__init__()
        self.normalize, self.patch_embedding = encoder.normalize, encoder.patch_embedding
        positions = encoder.position_embedding.detach()
        self.first = nn.Parameter(encoder.class_token.detach() + positions[:, :1], requires_grad=False)  # [1, 1, C]
        self.positions = nn.Parameter(positions[:, 1:].clone(), requires_grad=False)  # [1, P, C]
        self.times = nn.Parameter(encoder.temporal_position_embedding.detach().transpose(0, 1).clone(), requires_grad=False)  # [8, 1, C]

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(self.normalize(pixels[0]).to(self.first.dtype)).flatten(2).transpose(1, 2)  # [8, P, C]
        patches = patches + self.positions + self.times
        return torch.cat([self.first, patches.reshape(1, -1, patches.shape[-1])], dim=1)


class VideoEncoderGraph(nn.Module):
    """[1, 8, 3, 224, 224] -> [8, P, C]."""

    def __init__(self, encoder: VideoMambaEncoder, form: Form):
        super().__init__()
        self.encoder, self.folded = encoder, FoldedEmbedding(encoder) if form.half else None
        self.norms = nn.ModuleList(norm_graph(layer.norm, form.half) for layer in encoder.layers)
        self.mixers = nn.ModuleList(mixer_graph(layer.mixer, encoder.config.sequence, form.scan) for layer in encoder.layers)
        self.norm = norm_graph(encoder.norm, form.half)
        del encoder.layers, encoder.norm  # their weights live on in the twins above
        self.config = encoder.config
        if self.folded is not None:
            del self.encoder  # so do those of its embedding

    def forward(self, pixels: Tensor) -> Tensor:
        residual = (self.folded(pixels) if self.folded is not None else self.encoder.embed(pixels))[0]  # [L, C]
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
