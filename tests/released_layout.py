"""A tiny checkpoint in the released layout, for tests: deterministic weights that keep activations sane.

The values are a function of (seed, tensor name, shape) alone, the same that the stored golden arrays were computed from.
"""

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from export.config import ETP, ClipConfig, DecoderConfig, ModelConfig, ProjectorConfig, VideoMambaConfig

RELEASED = ModelConfig(  # Mobile-VideoGPT-0.5B: sizes without weights
    clip=ClipConfig(width=768, depth=11, heads=12, mlp_width=3072, patch_size=16),
    videomamba=VideoMambaConfig(width=576, depth=32, d_inner=1152, d_state=16, d_conv=4, dt_rank=36, patch_size=16),
    image_projector=ProjectorConfig(ETP, 2, 768, 896),
    video_projector=ProjectorConfig(ETP, 2, 576, 896),
    decoder=DecoderConfig(width=896, layers=24, heads=14, kv_heads=2, head_dim=64, ffn_width=4864, vocab=151936, tied=True),
)
FIXTURES = Path(__file__).parent / "fixtures"
FORMATS = ("safetensors", "sharded safetensors", "bin", "old bin", "sharded bin")
NORM = re.compile(r"norm[^.]*\.\w+$|layrnorm\.\w+$")
SMALL = re.compile(r"bias$|pos_embed|cls_token|class_embedding|position_embedding|temporal_pos|embed_tokens|lm_head")
DECODER_OUTPUT = re.compile(r"model\.layers\..+(o_proj|down_proj)\.weight$")


def fill(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """The float32 values of one tensor."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little")
    rng = np.random.Generator(np.random.Philox(key))

    def normal(scale: float) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("A_log", "A_b_log"):  # S4D-real: A = -exp(A_log) = -1, -2, ...
        return np.log(np.arange(1, shape[1] + 1, dtype=np.float32))[None, :] + normal(0.1)
    if leaf in ("D", "D_b"):
        return 1 + normal(0.1)
    if name.endswith(("dt_proj.bias", "dt_proj_b.bias")):  # softplus(bias) log-uniform in 0.001 to 0.1
        log_range, log_least = np.log(100.0).astype(np.float32), np.log(1e-3).astype(np.float32)
        dt = np.exp(rng.random(shape, dtype=np.float32) * log_range + log_least)
        return (dt + np.log(-np.expm1(-dt))).astype(np.float32)
    if NORM.search(name):
        return 1 + normal(0.05) if leaf == "weight" else normal(0.02)
    if SMALL.search(name) or len(shape) < 2:
        return normal(0.02)
    gain = 3.0 if DECODER_OUTPUT.match(name) else 1.0
    return normal(gain / np.sqrt(math.prod(shape[1:])))


def keys(file: Path = FIXTURES / "keys_tiny.json") -> tuple[dict, dict[str, list[int]]]:
    """config.json and the shapes of all tensors by name, of a released size; a `*` in a stored name stands for 0, 1, ... `layers` - 1."""
    spec = json.loads(file.read_text())
    shapes: dict[str, list[int]] = {}
    for name, shape in spec["tensors"].items():
        if isinstance(shape, dict):
            shapes |= {name.replace("*", str(layer)): shape["shape"] for layer in range(shape["layers"])}
        else:
            shapes[name] = shape
    return spec["config"], shapes


def projector_shapes(prefix: str, kind: str, in_width: int, out_width: int) -> dict[str, list[int]]:
    """Tensors of a projector of another kind than etp: `linear` or `mlpNx_gelu`."""
    depth = 1 if kind == "linear" else int(kind[3])
    shapes = {}
    for i in range(depth):
        name = prefix if kind == "linear" else f"{prefix}.{2 * i}"
        shapes |= {f"{name}.weight": [out_width, out_width if i else in_width], f"{name}.bias": [out_width]}
    return shapes


def tiny_tensors(
    seed: int = 0,
    image_projector: str = "etp",
    video_projector: str = "etp",
    tied: bool = True,
    alter: Mapping[str, Sequence[int] | None] | None = None,
) -> dict[str, torch.Tensor]:
    """float16 tensors by released name. `alter` gives a name another shape, adds it, or (None) takes it out."""
    _, shapes = keys()
    for prefix, kind, width in (("model.image_mm_projector", image_projector, 768), ("model.mm_projector", video_projector, 576)):
        if kind != "etp":
            shapes = {name: shape for name, shape in shapes.items() if not name.startswith(prefix + ".")}
            shapes |= projector_shapes(prefix, kind, width, 64)
    if tied:
        del shapes["lm_head.weight"]
    shapes |= alter or {}
    return {name: _tensor(name, tuple(shape), seed) for name, shape in shapes.items() if shape is not None}


@functools.lru_cache(maxsize=512)  # three seeds' worth; most tests want the same
def _tensor(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.from_numpy(fill(name, shape, seed).astype(np.float16))


def write_checkpoint(folder: Path, file_format: str = "safetensors", config: Mapping | None = None, **options) -> Path:
    """Write a tiny checkpoint and return its folder.

    `config` changes settings of config.json (None takes one out); `options` are those of `tiny_tensors`.
    """
    settings, _ = keys()
    settings["tie_word_embeddings"] = options.get("tied", True)
    settings["image_mm_projector_type"] = options.get("image_projector", "etp")
    settings["mm_projector_type"] = options.get("video_projector", "etp")
    settings |= config or {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in settings.items() if value is not None}, indent=2))
    write_tensors(folder, tiny_tensors(**options), file_format)
    return folder


def write_tensors(folder: Path, tensors: dict[str, torch.Tensor], file_format: str) -> None:
    """Write a folder's weights in one of `FORMATS`; shards are two, by halves of the names."""
    if file_format == "safetensors":
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    elif file_format in ("bin", "old bin"):
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=file_format == "bin")
    else:
        stem, suffix = ("model", ".safetensors") if file_format == "sharded safetensors" else ("pytorch_model", ".bin")
        names = sorted(tensors)
        shard_of = {}
        for i, half in enumerate((names[::2], names[1::2]), start=1):
            shard = f"{stem}-{i:05d}-of-00002{suffix}"
            content = {name: tensors[name] for name in half}
            save_file(content, folder / shard) if suffix == ".safetensors" else torch.save(content, folder / shard)
            shard_of |= dict.fromkeys(half, shard)
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
