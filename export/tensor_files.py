"""Files of tensors, read by header first: safetensors, shards with an index, PyTorch files, and the hub they come from.

Nothing here unpickles code: PyTorch files go through `torch.load(weights_only=True)`, and one that holds more than tensors is
refused. A tensor's values are read when `StoredTensor.read` is called, one tensor at a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from export.errors import CheckpointError, one_line

SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
PYTORCH_SUFFIXES = (".bin", ".pth", ".pt")
WEIGHT_STEMS = (("model", ".safetensors"), ("pytorch_model", ".bin"))  # in Hugging Face's order of preference
WRAPPERS = ("model", "module", "state_dict")  # where training scripts put a model's tensors
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
HUB_SIDE_FILES = (  # fetched beside the weights
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "adapter_config.json",
    "non_lora_trainables.bin",
    "*.index.json",
)
SHOWN_NAME = 200  # characters of a name that is not usable
ZIP_MAGIC = b"PK\x03\x04"
LFS_MAGIC = b"version https://git-lfs"


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: what its header says, and how to read its values (a CPU tensor of this dtype and shape)."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


Tensors = dict[str, StoredTensor]


def in_memory(tensor: Tensor) -> StoredTensor:
    """A tensor that is already loaded, or mapped from its file."""
    return StoredTensor(tensor.dtype, tuple(tensor.shape), lambda: tensor)


def read_tensors(path: Path) -> Tensors:
    """Headers of a weights file or of a Hugging Face folder of weights. Errors: `CheckpointError`."""
    return read_folder(path) if path.is_dir() else read_file(path)


def read_folder(folder: Path) -> Tensors:
    """Headers of a folder's weights: one file, or shards (complete by their index where there is one)."""
    try:
        for stem, suffix in WEIGHT_STEMS:
            single, index = folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.index.json"
            if single.is_file():
                return read_file(single)
            if index.is_file():
                return _read_indexed(index)
            if shards := sorted(folder.glob(f"{stem}-*{suffix}")):
                return _read_shards(shards)
    except OSError as error:
        raise _unreadable(folder, error) from error
    raise CheckpointError(f"{folder} holds no weights: expected model.safetensors or pytorch_model.bin, whole or in shards")


def _read_indexed(index: Path) -> Tensors:
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise CheckpointError(f"{index} has no weight_map: download the checkpoint again")
    shards = [index.parent / shard for shard in sorted(set(shard_of.values()))]
    for shard in shards:
        if not shard.is_file():
            raise CheckpointError(f"{shard} is missing, which {index.name} lists: download the checkpoint again")
    tensors = _read_shards(shards)
    if tensors.keys() != shard_of.keys():
        name = min(tensors.keys() ^ shard_of.keys())
        raise CheckpointError(f"{index} and its shards disagree about {name}: download the checkpoint again")
    return tensors


def _read_shards(shards: list[Path]) -> Tensors:
    tensors: Tensors = {}
    for shard in shards:
        more = read_file(shard)
        if twice := tensors.keys() & more.keys():
            raise CheckpointError(f"{shard.parent} holds {min(twice)} in two shards: remove the files of the other checkpoint")
        tensors |= more
    return tensors


def read_file(path: Path) -> Tensors:
    """Headers of one weights file, by its suffix. Errors: `CheckpointError`."""
    try:
        if not path.is_file():
            raise CheckpointError(f"there is no weights file {path}")
        with path.open("rb") as file:
            head = file.read(len(LFS_MAGIC))
    except OSError as error:
        raise _unreadable(path, error) from error
    if head == LFS_MAGIC:
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its repository")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PYTORCH_SUFFIXES:
        return _read_pytorch(path, mmap=head.startswith(ZIP_MAGIC))
    raise CheckpointError(f"{path} is no weights file: expected .safetensors, {', '.join(PYTORCH_SUFFIXES)}")


def _read_safetensors(path: Path) -> Tensors:
    tensors: Tensors = {}
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():
                header = file.get_slice(name)
                if header.get_dtype() not in SAFETENSORS_DTYPES:
                    raise CheckpointError(f"{path}: {name} is {header.get_dtype()}: give a checkpoint of float16, bfloat16 or float32")
                dtype, shape = SAFETENSORS_DTYPES[header.get_dtype()], tuple(header.get_shape())
                tensors[name] = StoredTensor(dtype, shape, lambda name=name: _read_safetensor(path, name))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or cut short ({one_line(error)}): download it again") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    return tensors


def _read_safetensor(path: Path, name: str) -> Tensor:
    # Opened anew for each tensor: the file's mapping then goes with the tensor, and memory holds no second copy of the model.
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


def _read_pytorch(path: Path, mmap: bool) -> Tensors:
    """Tensors of a PyTorch file, mapped where it is a zip (the older format must be read whole)."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts store their arguments beside the model
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # damaged bytes can make the unpickler fail in any way
        message = str(error)
        name = re.search(r"GLOBAL (\S+)", message)
        if name or (isinstance(error, pickle.UnpicklingError) and "call reduce" in message):
            found = f" ({name[1]})" if name else ""
            raise CheckpointError(
                f"{path} holds Python code or objects{found}, which are never loaded: save its tensors alone, as safetensors"
            ) from error
        raise CheckpointError(f"{path} is damaged, or no PyTorch file of tensors: download it again") from error
    if isinstance(content, dict):
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no dict of tensors: save the model's state_dict")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: {name!r} is a {type(tensor).__name__}, not a tensor: save the model's state_dict alone")
    return {name: in_memory(tensor.detach()) for name, tensor in content.items()}


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read ({error.strerror or one_line(error)}): check its permissions and its disk")


def read_json(path: Path) -> dict:
    """A JSON object from a file. Errors: `CheckpointError` where it is missing or invalid."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: give a folder in the released Mobile-VideoGPT layout") from None
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is no valid JSON ({one_line(error)}): download it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is no JSON object: download it again")
    return data


def fetch(source: str | Path, what: str, advice: str, file: str | None = None) -> Path:
    """The local path of `source`: a path that exists, or a hub id, which is downloaded (or found in the hub's cache).

    `what` and `advice` (an imperative) word the error, `file` names the one file to fetch of a hub id.
    """
    try:
        path = Path(source).expanduser()
        if path.exists():
            return path
    except (OSError, RuntimeError) as error:  # a name too long, a folder that may not be searched, ~nobody
        shown = str(source) if len(str(source)) <= SHOWN_NAME else f"{str(source)[:SHOWN_NAME]}..."
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise CheckpointError(f"{what} {shown} cannot be looked up ({reason}): {advice}") from error
    if not HUB_ID.fullmatch(str(source)):
        raise CheckpointError(f"{what} {source} does not exist and is no hub id (owner/name): {advice}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError

    wanted = [(file,)] if file else [(*HUB_SIDE_FILES, f"*{suffix}") for _, suffix in WEIGHT_STEMS]
    try:
        for patterns in wanted:  # safetensors first: a repository often holds the same weights in both formats
            folder = Path(snapshot_download(str(source), allow_patterns=list(patterns)))
            if any(folder.glob(patterns[-1])):
                return folder / file if file else folder
    except (OSError, HTTPError, HFValidationError, EntryNotFoundError) as error:
        reason, remedy = _hub_refusal(error)
        raise CheckpointError(f"{what} {source} is no path here, and {reason}: {remedy}, or {advice}") from error
    raise CheckpointError(f"{what} {source} holds no {file or 'weights'}: {advice}")


def _hub_refusal(error: Exception) -> tuple[str, str]:
    """Why the hub gave nothing, and what to do, in our words: the library's run over several lines and speak of its own options."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.LocalEntryNotFoundError) and isinstance(error.__cause__, (hub.HfHubHTTPError, hub.OfflineModeIsEnabled)):
        error = error.__cause__  # it was asked after the hub had refused, for a copy in the cache
    status = error.response.status_code if isinstance(error, hub.HfHubHTTPError) else None
    if isinstance(error, hub.GatedRepoError) or (status in (401, 403) and not isinstance(error, hub.RepositoryNotFoundError)):
        return "the hub gives it to nobody unauthorised", "ask for access on its page and log in with `hf auth login`"
    if isinstance(error, hub.RepositoryNotFoundError):
        return "the hub has no such repository, or a private one", "check the name"
    if isinstance(error, hub.HFValidationError):
        return "it is no valid hub id", "check the name"
    if isinstance(error, hub.OfflineModeIsEnabled):
        return "the hub is switched off by HF_HUB_OFFLINE", "unset that"
    if status is not None:
        return f"the hub answered with error {status}", "try again later"
    if isinstance(error, (hub.LocalEntryNotFoundError, hub.HTTPError, ConnectionError, TimeoutError)):
        return "the hub cannot be reached", "connect"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return f"fetching it from the hub failed ({reason})", "try again"
