"""LoRA fine-tunes (Hu et al., arXiv 2106.09685), merged onto their base by the PEFT library.

PEFT merges modules, not files: it gets a tree of bare modules under the checkpoint's own names, which holds just the modules
that the adapter names. So its rank patterns, rsLoRA, DoRA and `modules_to_save` apply as in training, and whatever the adapter
does not touch stays in its file.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from export.checkpoint_sizes import check_settings
from export.errors import CheckpointError, one_line
from export.quiet import quiet
from export.tensor_files import Tensors, fetch, in_memory, read_file, read_folder, read_json

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
NON_LORA_FILE = "non_lora_trainables.bin"
PEFT_PREFIX = "base_model.model."
PROJECTORS = ("model.image_mm_projector.", "model.mm_projector.")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def open_fine_tune(folder: Path, base: str | Path | None) -> tuple[dict, Tensors, Path]:
    """Settings, merged tensors (float32 where the adapter changed them) and base folder of a LoRA fine-tune.

    `base` is a Qwen2.5 or a whole Mobile-VideoGPT, folder or hub id; by default what adapter_config.json names. The
    fine-tune's config.json counts, else the base's. Errors: `CheckpointError`.
    """
    adapter_config = read_json(folder / "adapter_config.json")
    if adapter_config.get("peft_type") != "LORA":
        raise CheckpointError(f"{folder} holds a {adapter_config.get('peft_type')} adapter: only LORA is supported")
    named = base or adapter_config.get("base_model_name_or_path")
    if not named:
        raise CheckpointError(f"{folder} is a LoRA fine-tune that names no base: give its Qwen2.5 base with --base")
    base_folder = fetch(named, "LoRA base", "give the Qwen2.5 base of the fine-tune with --base")
    if (folder / "config.json").is_file():
        settings = read_json(folder / "config.json")
        check_settings(settings, str(folder))
    else:
        settings = read_json(base_folder / "config.json")
        check_settings(settings, str(base_folder), also="qwen2")
    stored, adapter = read_folder(base_folder), _adapter(folder)
    _check_projectors(folder, {*stored, *map(_released, adapter)})
    with quiet():  # PEFT brings libraries that report what they could not load
        merged = {name: in_memory(tensor) for name, tensor in _merge(folder, adapter, stored).items()}
    changed = merged | _non_lora_trainables(folder)
    tensors = stored | changed
    if settings.get("tie_word_embeddings") and not adapter_config.get("ensure_weight_tying") and changed.keys() & {EMBEDDING, HEAD}:
        # Training changed one of the pair and left the other as it was, so they are two tensors now, whatever config.json says.
        head, embedding = (changed.get(name, stored[EMBEDDING]) for name in (HEAD, EMBEDDING))
        if not torch.equal(head.read().float(), embedding.read().float()):
            settings, tensors[HEAD] = settings | {"tie_word_embeddings": False}, head
    return settings, tensors, base_folder


def _adapter(folder: Path) -> Tensors:
    """The adapter's tensors under PEFT's names, not read yet."""
    file = next((folder / name for name in ADAPTER_FILES if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder} has an adapter_config.json but no {ADAPTER_FILES[0]}: download the fine-tune again")
    return read_file(file)


def _check_projectors(folder: Path, names: set[str]) -> None:
    """Refuse a fine-tune whose projectors are nowhere: neither beside the adapter nor among `names`, its own and the base's."""
    if not (folder / NON_LORA_FILE).is_file():
        for prefix in PROJECTORS:
            if not any(name.startswith(prefix) for name in names):
                raise CheckpointError(
                    f"{folder} has no {NON_LORA_FILE}, which holds the projectors that were trained beside the adapter "
                    f"({prefix.removesuffix('.')}): copy it from the training's output, or give a whole Mobile-VideoGPT with --base"
                )


def _merge(folder: Path, adapter_file: Tensors, stored: Tensors) -> dict[str, Tensor]:
    """The tensors that the adapter changes, merged, by their names in the base."""
    try:
        from peft import LoraConfig, PeftModel, set_peft_model_state_dict
    except ImportError as error:
        raise CheckpointError(f"{folder} is a LoRA fine-tune, which PEFT merges: pip install -e '.[lora]'") from error
    adapter = {name: tensor.read().float() for name, tensor in adapter_file.items()}
    tree = _module_tree(_touched(adapter, stored))
    try:
        config = LoraConfig.from_pretrained(str(folder))
        config.inference_mode = True
        model = PeftModel(tree, config)
        result = set_peft_model_state_dict(model, adapter)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"PEFT cannot apply the adapter of {folder} to this base ({one_line(error)[:200]}): check --base") from error
    strays = [*result.unexpected_keys, *(name for name in result.missing_keys if "lora_" in name)]
    if strays:
        raise CheckpointError(f"the adapter of {folder} and its base disagree about {strays[0]} ({len(strays)} in all): check --base")
    with torch.no_grad():
        return {name: tensor.detach() for name, tensor in model.merge_and_unload().state_dict().items()}


def _touched(adapter: dict[str, Tensor], stored: Tensors) -> dict[str, Tensor]:
    """Float32 values of the base's modules that the adapter names, and of whole modules that only the adapter has."""
    plain = {_released(name): tensor for name, tensor in adapter.items()}
    names = list(plain)
    modules = {name[: cut.start()] for name in names for cut in re.finditer(r"\.", name)}
    touched = {name: tensor.read().float().clone() for name, tensor in stored.items() if name.rpartition(".")[0] in modules}
    if "lm_head" in modules and HEAD not in touched and EMBEDDING in stored:
        touched[HEAD] = stored[EMBEDDING].read().float().clone()  # a tied head is stored as the embedding alone
    if not touched:
        raise CheckpointError(f"the base has no module that the adapter names ({names[0] if names else 'it names none'}): check --base")
    return {name: tensor for name, tensor in plain.items() if "lora_" not in name} | touched


def _module_tree(tensors: dict[str, Tensor]) -> nn.Module:
    """Modules of the tensors' names: linears and embeddings, which PEFT adapts, and bare holders of anything else."""
    root = nn.Module()
    for path in sorted({name.rpartition(".")[0] for name in tensors}):
        parent = root
        *parents, leaf = path.split(".")
        for name in parents:
            if not hasattr(parent, name):
                parent.add_module(name, nn.Module())
            parent = getattr(parent, name)
        weight = tensors.get(f"{path}.weight")
        with torch.device("meta"):
            if weight is None or weight.ndim != 2:
                module = nn.Module()
            elif leaf == "embed_tokens":
                module = nn.Embedding(*weight.shape)
            else:
                module = nn.Linear(weight.shape[1], weight.shape[0], bias=f"{path}.bias" in tensors)
        parent.add_module(leaf, module)
        for name, tensor in tensors.items():
            if name.rpartition(".")[0] == path:
                setattr(module, name.rpartition(".")[2], nn.Parameter(tensor, requires_grad=False))
    return root


def _non_lora_trainables(folder: Path) -> Tensors:
    """The tensors trained beside the adapter (the projectors), under their released names."""
    if not (folder / NON_LORA_FILE).is_file():
        return {}
    tensors = {_released(name): tensor for name, tensor in read_file(folder / NON_LORA_FILE).items()}
    return {name if name.startswith(("model.", "lm_head.")) else f"model.{name}": tensor for name, tensor in tensors.items()}


def _released(name: str) -> str:
    """A name in a fine-tune's files without PEFT's wrappers."""
    return re.sub(r"\.(modules_to_save\.default|base_layer)\.", ".", name.removeprefix(PEFT_PREFIX))
