"""The eager model behind the backend interface: the reference on a CPU, the authors' form on CUDA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from export.checkpoint import Checkpoint
from export.errors import BackendError
from export.model.qwen2 import KeyValueCache
from runtime_py.backends.base import copy_into

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class EagerBackend:
    """A checkpoint, loaded whole. `eager-sequential` is the baseline of every ratio: fp32, CPU, the sequential scan."""

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu", dtype: str = "fp32", max_context: int = 4096):
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendError(f"--device {device}: PyTorch finds no CUDA GPU here; use --device cpu")
        self.name = "eager-sequential" if (device, dtype) == ("cpu", "fp32") else f"eager-{dtype}"
        self.device = device
        self.config = checkpoint.config
        self.max_context = max_context
        self.model = checkpoint.load(dtype=DTYPES[dtype], device=device)
        self._cache = KeyValueCache(self.config.decoder, max_context, DTYPES[dtype], device)
        self.identity = f"{checkpoint.fingerprint()} {self.name} {device}"
        self._bytes = sum(p.numel() * p.element_size() for p in self.model.parameters())

    @torch.inference_mode()
    def run(self, graph: str, *inputs: Tensor) -> Tensor:
        dtype = next(self.model.token_embedding.parameters()).dtype
        moved = [x.to(self.device) for x in inputs]
        pixels_or_ids = graph in ("image_encoder", "video_encoder", "token_embedding", "frame_scorer")
        return getattr(self.model, graph)(*(x if pixels_or_ids else x.to(dtype) for x in moved))

    @torch.inference_mode()
    def decode(self, embeds: Tensor, position: int) -> Tensor:
        return self.model.decoder(embeds.to(self._cache.keys), position, self._cache)

    def read_cache(self, tokens: int) -> dict[str, Tensor]:
        return {name: getattr(self._cache, name)[:, :, :tokens].cpu().clone() for name in ("keys", "values")}

    def write_cache(self, tensors: Mapping[str, Tensor]) -> None:
        for name in ("keys", "values"):
            copy_into(getattr(self._cache, name), tensors.get(name))

    def load(self, graphs: Iterable[str]) -> None:
        """The model was loaded whole when the backend was made."""

    def release(self, graphs: Iterable[str]) -> None:
        """The model stays whole."""

    def synchronize(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    def bundle_bytes(self) -> int:
        return self._bytes

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}
