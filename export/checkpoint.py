"""Checkpoints in the released Mobile-VideoGPT layout: opened by their headers, loaded part by part, written back.

Every stored tensor is consumed once or dropped with a reason (`export/checkpoint_keys.py`); anything else is an error that
names the tensor. Weights are read only by `Checkpoint.load` and `Checkpoint.fingerprint`, but for a LoRA fine-tune's changes, which
are merged when it is opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from export import checkpoint_sizes as sizes
from export.checkpoint_keys import CLIP, EMBEDDING, HEAD, released_name, to_released
from export.checkpoint_match import VISION_GROUPS, Found, Source, assign, check, with_vision
from export.checkpoint_places import in_checkpoint, in_fine_tune
from export.config import ETP, GRAPHS, MLP, ModelConfig, ProjectorConfig
from export.errors import CheckpointError, one_line
from export.model.clip import HEAD_DIM as CLIP_HEAD_DIM
from export.model.mobile_videogpt import MobileVideoGPT
from export.model.preprocess import CLIP_MEAN, CLIP_STD, VIDEOMAMBA_MEAN, VIDEOMAMBA_STD, Normalize
from export.tensor_files import fetch, read_folder, read_json

NORMALIZATION = {"image_encoder": (CLIP_MEAN, CLIP_STD), "video_encoder": (VIDEOMAMBA_MEAN, VIDEOMAMBA_STD)}
TOKENIZER = "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. `dropped` maps each stored tensor that is not used to the reason."""

    name: str
    config: ModelConfig
    dropped: dict[str, str]
    tokenizer_file: Path | None
    sources: dict[str, Source] = dataclasses.field(repr=False)  # by our names

    @property
    def parameters(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Stored dtype and shape of every parameter, by our names; a tied head counts as the embedding it is."""
        return {name: (source.dtype, source.shape) for name, source in self.sources.items()}

    def fingerprint(self) -> str:
        """SHA-256 over the sizes and every used tensor's name, dtype, shape and bytes: the same in every file format."""
        digest = hashlib.sha256(json.dumps(self.config.to_json(), sort_keys=True).encode())
        for name in sorted(self.sources):
            tensor = self.sources[name].read().contiguous()
            digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def load(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", parts: Collection[str] | None = None
    ) -> MobileVideoGPT:
        """The model in eval mode, without gradients, its weights in `dtype`.

        With `parts` (names of submodules) only these get weights, the others stay on the meta device. With a tied head,
        the embedding and the decoder share one tensor.
        """
        wanted = set(GRAPHS if parts is None else parts)
        if unknown := wanted - set(GRAPHS):
            raise ValueError(f"no such part: {', '.join(sorted(unknown))}; parts are {', '.join(GRAPHS)}")
        with torch.device("meta"):
            model = MobileVideoGPT(self.config)
        for name, source in self.sources.items():
            places = [name, HEAD] if name == EMBEDDING and self.config.decoder.tied else [name]
            places = [place for place in places if place.split(".")[0] in wanted]
            if places:
                weight = nn.Parameter(source.read().to(device, dtype, copy=True), requires_grad=False)
                for place in places:
                    owner, _, leaf = place.rpartition(".")
                    setattr(model.get_submodule(owner), leaf, weight)
        for part in wanted & NORMALIZATION.keys():  # its constants are buffers that no checkpoint stores
            model.get_submodule(part).normalize = Normalize(*NORMALIZATION[part]).to(device)
        return model.eval().requires_grad_(False)


def open_checkpoint(
    source: str | Path, clip: str | Path | None = None, videomamba: str | Path | None = None, base: str | Path | None = None
) -> Checkpoint:
    """Open a checkpoint: a folder in released layout, a LoRA fine-tune's folder, or a hub id of either.

    Headers alone are read, but for a fine-tune: its adapter and what it changes of the base are read and merged, in float32.

    `clip` (a Hugging Face CLIP folder, weights file or hub id) and `videomamba` (a weights file, folder or hub id) win over
    the checkpoint's own copies; where it has none and none is named, the release's sources are fetched from the hub.
    `base` is the Qwen2.5 (or whole Mobile-VideoGPT) that a LoRA fine-tune belongs to, its adapter config's by default.
    Errors: `CheckpointError`, one line.
    """
    folder = fetch(source, "the checkpoint", "give a folder in the released Mobile-VideoGPT layout")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: give the checkpoint's folder, with config.json and the weights")
    text_folders = [folder]
    if (folder / "adapter_config.json").is_file():
        from export.lora import NON_LORA_FILE, open_fine_tune

        settings, tensors, base_folder = open_fine_tune(folder, base)
        text_folders.append(base_folder)
        places = in_fine_tune(folder, base_folder, (folder / NON_LORA_FILE).is_file())
    elif base is not None:
        raise CheckpointError(f"--base belongs to a LoRA fine-tune, but {folder} has no adapter_config.json: leave it out")
    else:
        settings = read_json(folder / "config.json")
        sizes.check_settings(settings, str(folder))
        tensors, places = read_folder(folder), in_checkpoint(folder)
    tokenizer_file = next((f / TOKENIZER for f in text_folders if (f / TOKENIZER).is_file()), None)
    stop_ids = sizes.stop_ids(settings, folder, tokenizer_file)

    dropped: dict[str, str] = {}
    found = [Found(name, name, stored, places["decoder"]) for name, stored in tensors.items()]
    for group, named in zip(VISION_GROUPS, (clip, videomamba)):
        found = with_vision(found, group, named, dropped, places)
    sources, unknown = assign(found, dropped)
    shapes = {name: source.shape for name, source in sources.items()}
    kinds = {name.split(".")[0]: source.rule.projector_kind for name, source in sources.items() if source.rule.projector_kind}
    config = sizes.infer(settings, shapes, kinds, stop_ids, places)
    used = check(config, sources, unknown, dropped, places)
    name = folder.resolve().name if Path(source).expanduser().exists() else str(source)
    return Checkpoint(name, config, dropped, tokenizer_file, dict(sorted(used.items())))


def save_checkpoint(
    model: MobileVideoGPT, folder: str | Path, config_extra: dict[str, Any] | None = None, dtype: torch.dtype = torch.float16
) -> None:
    """Write a model as a folder in released layout, its weights in `dtype`: config.json and model.safetensors.

    `config_extra` adds settings to config.json, or replaces ours. CLIP gets back the layer that never runs and its last
    norm, as zeros, so that the names are the release's. Errors: `CheckpointError` where the weights cannot be written.
    """
    config = model.config
    if config.clip.heads * CLIP_HEAD_DIM != config.clip.width:
        raise ValueError(f"the layout cannot tell {config.clip.heads} CLIP heads of a width other than {CLIP_HEAD_DIM}")
    kinds = {"image_projector": config.image_projector.kind, "video_projector": config.video_projector.kind}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name != HEAD or not config.decoder.tied:
            released, rule = released_name(name, kinds.get(name.split(".")[0], ETP))
            tensors[released] = to_released(tensor, rule).to("cpu", dtype).contiguous()
    layer = f"{CLIP}.encoder.layers"
    for name in [name for name in tensors if name.startswith(f"{layer}.0.")]:
        tensors[name.replace(f"{layer}.0.", f"{layer}.{config.clip.depth}.")] = torch.zeros_like(tensors[name])
    for leaf in ("weight", "bias"):
        tensors[f"{CLIP}.post_layernorm.{leaf}"] = torch.zeros(config.clip.width, dtype=dtype)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    try:
        save_file(tensors, weights, metadata={"format": "pt"})
    except SafetensorError as error:  # also of a full disk
        weights.unlink(missing_ok=True)
        raise CheckpointError(f"{weights} cannot be written ({one_line(error)}): free some space, or choose another folder") from error
    settings = _settings(config, dtype) | (config_extra or {})
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    weights.chmod((folder / "config.json").stat().st_mode)  # safetensors lets only its owner read it


def _settings(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The config.json of a model, in the release's words."""
    clip_group, videomamba_group = VISION_GROUPS
    decoder = config.decoder
    return {
        "architectures": ["MobileVideoGPTQwenForCausalLM"],
        "model_type": sizes.MODEL_TYPE + "_qwen",
        "hidden_act": "silu",
        "rope_theta": decoder.rope_theta,
        "rope_scaling": None,
        "eos_token_id": list(config.stop_ids),
        "torch_dtype": str(dtype).removeprefix("torch."),
        "use_sliding_window": False,
        "mm_vision_tower": f"{videomamba_group.hub_id}/{videomamba_group.hub_file}",
        "image_mm_vision_tower": clip_group.hub_id,
        "mm_projector_type": _projector_type(config.video_projector),
        "image_mm_projector_type": _projector_type(config.image_projector),
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_hidden_size": config.videomamba.width,
        "image_mm_hidden_size": config.clip.width,
        "use_mm_proj": True,
        "hidden_size": decoder.width,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "head_dim": decoder.head_dim,
        "intermediate_size": decoder.ffn_width,
        "vocab_size": decoder.vocab,
        "tie_word_embeddings": decoder.tied,
        "max_position_embeddings": decoder.max_positions,
        "rms_norm_eps": decoder.rms_norm_eps,
        "topk": config.topk,
    }


def _projector_type(projector: ProjectorConfig) -> str:
    return f"mlp{projector.depth}x_gelu" if projector.kind == MLP else projector.kind
