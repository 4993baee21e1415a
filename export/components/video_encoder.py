"""`video_encoder`: 8 key frames to VideoMamba tokens.

The twin keeps the eager module's structure and names and rewrites what does not lower well: the mixers (`mamba_mixer.py`) and
the mean of RMSNorm (a product).
"""

from torch import Tensor, nn

from export.components.base import Component, Form, Signature
from export.components.mamba_mixer import mixer_graph
from export.components.norm import RMSNormGraph
from export.config import IMAGE_SIZE, KEY_FRAMES, ModelConfig
from export.manifest import TensorSpec
from export.model.mobile_videogpt import MobileVideoGPT
from export.model.videomamba import VideoMambaEncoder


class VideoEncoderGraph(nn.Module):
    """[1, 8, 3, 224, 224] -> [8, P, C]."""

    def __init__(self, encoder: VideoMambaEncoder, scan: str):
        super().__init__()
        self.encoder = encoder
        self.norms = nn.ModuleList(RMSNormGraph(layer.norm) for layer in encoder.layers)
        self.mixers = nn.ModuleList(mixer_graph(layer.mixer, encoder.config.sequence, scan) for layer in encoder.layers)
        self.norm = RMSNormGraph(encoder.norm)
        del encoder.layers, encoder.norm  # their weights live on in the twins above

    def forward(self, pixels: Tensor) -> Tensor:
        residual = self.encoder.embed(pixels)[0]  # [L, C]
        hidden = None
        for norm, mixer in zip(self.norms, self.mixers):
            residual = residual if hidden is None else residual + hidden
            hidden = mixer(norm(residual))
        tokens = self.norm(residual + hidden)
        return tokens[1:].reshape(KEY_FRAMES, self.encoder.config.patches, self.encoder.config.width)


def signature(config: ModelConfig, max_context: int) -> Signature:
    pixels = TensorSpec("pixels", (1, KEY_FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE), "float32", "RGB key frames in time order, 0 to 255")
    tokens = TensorSpec("tokens", (KEY_FRAMES, config.videomamba.patches, config.videomamba.width), "float32", "VideoMamba tokens")
    return Signature((pixels,), (tokens,))


def twin(model: MobileVideoGPT, form: Form) -> nn.Module:
    return VideoEncoderGraph(model.video_encoder, form.scan)


COMPONENT = Component("video_encoder", ("video_encoder",), signature, twin)
