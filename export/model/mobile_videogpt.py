"""The eager model: one submodule per exported graph, under the graph's name."""

from torch import nn

from export.config import ModelConfig
from export.model.clip import ClipVisionEncoder
from export.model.frame_scorer import FrameScorer
from export.model.projector import ImageProjector, VideoProjector
from export.model.qwen2 import Qwen2Decoder
from export.model.videomamba import VideoMambaEncoder


class MobileVideoGPT(nn.Module):
    """Mobile-VideoGPT (arXiv 2503.21782) as seven parts. `runtime_py.session` runs them in order."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.image_encoder = ClipVisionEncoder(config.clip)
        self.frame_scorer = FrameScorer()
        self.video_encoder = VideoMambaEncoder(config.videomamba)
        self.image_projector = ImageProjector(config)
        self.video_projector = VideoProjector(config)
        self.token_embedding = nn.Embedding(config.decoder.vocab, config.decoder.width)
        self.decoder = Qwen2Decoder(config.decoder)
        if config.decoder.tied:
            self.decoder.head.weight = self.token_embedding.weight
