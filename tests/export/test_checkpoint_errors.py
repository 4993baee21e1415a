"""What a broken, foreign or hostile checkpoint says: one line that names the culprit."""

import argparse
import os
import re
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from export.checkpoint import open_checkpoint
from export.errors import CheckpointError
from tests.released_layout import FORMATS, write_checkpoint

WEIGHTS = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin", "old bin": "pytorch_model.bin"}


def refusal(folder, **arguments) -> str:
    """The message with which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class RunsCode:
    """Unpickling this creates a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(new_format, tmp_path):
    folder = write_checkpoint(tmp_path / "c", "bin")
    content = {"model.norm.weight": torch.ones(64), "x": RunsCode(tmp_path / "ran")}
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=new_format)
    assert "never loaded" in refusal(folder)
    assert not (tmp_path / "ran").exists()


def test_arguments_beside_the_weights_are_harmless(tmp_path):
    folder = write_checkpoint(tmp_path / "c", "bin")
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({"model": tensors, "args": argparse.Namespace(lr=1e-4)}, folder / "pytorch_model.bin")
    assert open_checkpoint(folder).config.decoder.width == 64


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("file_format", WEIGHTS)
def test_a_truncated_file(file_format, keep, tmp_path):
    folder = write_checkpoint(tmp_path / "c", file_format)
    file = folder / WEIGHTS[file_format]
    os.truncate(file, int(file.stat().st_size * keep))
    assert re.search("damaged.*download it again", refusal(folder))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_of_something_else(name, tmp_path):
    folder = write_checkpoint(tmp_path / "c")
    (folder / "model.safetensors").unlink()
    (folder / name).write_text("<html>not found</html>" * 100)
    assert "damaged" in refusal(folder)


def test_a_git_lfs_pointer(tmp_path):
    folder = write_checkpoint(tmp_path / "c")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refusal(folder)


@pytest.mark.parametrize("file_format", [f for f in FORMATS if f.startswith("sharded")])
def test_a_missing_shard(file_format, tmp_path):
    folder = write_checkpoint(tmp_path / "c", file_format)
    shard = next(folder.glob("*-00002-of-*"))
    shard.unlink()
    assert shard.name in refusal(folder)


def test_an_index_that_lists_another_tensor(tmp_path):
    folder = write_checkpoint(tmp_path / "c", "sharded safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model.norm.weight", "model.mean.weight"))
    assert "disagree about model.mean.weight" in refusal(folder)


def test_a_pickle_of_something_else_than_tensors(tmp_path):
    folder = write_checkpoint(tmp_path / "c", "bin")
    torch.save({"epoch": 3, "loss": [1.0]}, folder / "pytorch_model.bin")
    assert "'epoch' is a int" in refusal(folder)
    torch.save([torch.ones(2)], folder / "pytorch_model.bin")
    assert "no dict of tensors" in refusal(folder)


def test_folders_that_are_no_checkpoint(tmp_path):
    assert "config.json" in refusal(tmp_path)
    folder = write_checkpoint(tmp_path / "c")
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in refusal(folder)
    assert "is a file" in refusal(folder / "config.json")
    assert "does not exist" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[]", "\ufeff{}", '"a"'])
def test_config_json_that_is_invalid(text, tmp_path):
    folder = write_checkpoint(tmp_path / "c")
    (folder / "config.json").write_text(text)
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"model_type": "qwen2"}, "qwen2"),
        ({"model_type": None}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature"),
        ({"mm_vision_select_layer": -9}, "mm_vision_select_layer"),
        ({"mm_projector_type": "resampler"}, "resampler"),
        ({"mm_projector_type": "linear"}, "mm_projector_type to linear"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"num_hidden_layers": 3}, "num_hidden_layers to 3, but the checkpoint"),
        ({"num_hidden_layers": 1}, "stores 2 decoder layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"vocab_size": 511}, "model.embed_tokens.weight is [512, 64], expected [511, 64]"),
        ({"topk": "yes"}, "topk"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
    ],
)
def test_settings_that_do_not_fit(change, named, tmp_path):
    assert named in refusal(write_checkpoint(tmp_path / "c", config=change))


VIDEOMAMBA = "model.vision_tower.vision_encoder"
CLIP = "model.image_vision_tower.vision_tower.vision_model"


@pytest.mark.parametrize(
    "name, shape, said",
    [
        ("model.layers.1.mlp.up_proj.weight", None, "missing"),
        ("model.embed_tokens.weight", None, "missing"),
        (f"{VIDEOMAMBA}.layers.1.mixer.A_b_log", None, "missing"),
        (f"{VIDEOMAMBA}.layers.0.mixer.A_log", None, "lacks"),
        (f"{CLIP}.encoder.layers.1.mlp.fc2.bias", None, "missing"),
        ("model.mm_projector.peg.peg.0.bias", None, "missing"),
        ("model.layers.0.self_attn.q_norm.weight", [16], "unknown"),
        ("model.mm_projector.mlp.mlp.1.weight", [64, 64], "unknown"),
        ("model.norm.weight", [63], "is [63], expected [64]"),
        (f"{VIDEOMAMBA}.temporal_pos_embedding", [1, 16, 576], "expected [1, 8, 576]"),
        (f"{VIDEOMAMBA}.patch_embed.proj.weight", [576, 3, 2, 16, 16], "expected [width, 3, 1, patch, patch]"),
        (f"{VIDEOMAMBA}.layers.0.mixer.A_log", [1152, 16, 1], "expected [inner width, states]"),
        (f"{CLIP}.embeddings.position_embedding.weight", [577, 768], "expected [197, 768]"),
        (f"{CLIP}.embeddings.patch_embedding.weight", [760, 3, 16, 16], "CLIP's width 760"),
    ],
)
def test_a_tensor_that_does_not_belong(name, shape, said, tmp_path):
    message = refusal(write_checkpoint(tmp_path / "c", alter={name: shape}))
    assert said in message
    assert name in message or "width" in said
    assert f"the checkpoint {tmp_path / 'c'}" in message and "download it again, or take the config.json" in message


def test_many_tensors_are_counted_not_listed(tmp_path):
    message = refusal(write_checkpoint(tmp_path / "c", alter={f"model.extra.{i}": [1] for i in range(30)}))
    assert "and 26 more unknown" in message and len(message) - len(str(tmp_path)) < 250


def test_a_setting_that_many_tensors_contradict(tmp_path):
    message = refusal(write_checkpoint(tmp_path / "c", config={"intermediate_size": 100}))
    assert "model.layers.0.mlp.down_proj.weight is [64, 128], expected [64, 100] (and 5 more of the wrong shape)" in message


def test_an_untied_checkpoint_without_its_head(tmp_path):
    assert "lm_head.weight missing" in refusal(write_checkpoint(tmp_path / "c", tied=False, alter={"lm_head.weight": None}))


def test_quantized_tensors_are_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "c", "bin")
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    torch.save(tensors, folder / "pytorch_model.bin")
    assert "model.norm.weight torch.int8 not of floats" in refusal(folder)


def offline() -> Exception:
    return LocalEntryNotFoundError("An error happened while trying to locate the files.\nPlease check your internet connection.")


def switched_off() -> Exception:
    error = offline()
    error.__cause__ = OfflineModeIsEnabled("Cannot reach https://huggingface.co: offline mode is enabled.")
    return error


def hub_error(kind: type, status: int) -> Exception:
    """As the hub's client raises it."""
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("Client Error (Request ID: Root=1-2)\n\nSee https://huggingface.co for more.", response=response)


@pytest.mark.parametrize(
    "error, said",
    [
        (offline(), "the hub cannot be reached: connect, or give a folder in the released Mobile-VideoGPT layout"),
        (ConnectionError("[Errno 111] Connection refused"), "the hub cannot be reached: connect"),
        (HTTPError("Server disconnected without sending a response."), "the hub cannot be reached: connect"),
        (switched_off(), "HF_HUB_OFFLINE"),
        (hub_error(RepositoryNotFoundError, 401), "the hub has no such repository, or a private one: check the name"),
        (hub_error(GatedRepoError, 403), "ask for access on its page and log in"),
        (hub_error(HfHubHTTPError, 401), "ask for access on its page and log in"),
        (hub_error(HfHubHTTPError, 503), "error 503: try again later"),
        (HFValidationError("Repo id must use alphanumeric chars: 'a--b/c'."), "no valid hub id"),
        (PermissionError(13, "Permission denied", "/cache"), "(Permission denied)"),
        (OSError("Consistency check failed: file should be of size 12\nbut has size 11"), "(OSError)"),
    ],
)
@pytest.mark.parametrize("option", [None, "clip", "videomamba"])
def test_a_hub_id_that_cannot_be_fetched(error, said, option, tiny_checkpoint, monkeypatch):
    def refusing(repo_id, allow_patterns):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refusing)
    message = refusal(tiny_checkpoint, **{option: "someone/weights-9B"}) if option else refusal("someone/weights-9B")
    assert "someone/weights-9B is no path here, and " in message
    assert (said.split(", or give a folder")[0] if option else said) in message
    assert (f"or give --{option} a weights file" if option else "or give a folder") in message
    assert not re.search("Request ID|https?:|internet|Client Error|Consistency|disconnected", message)


def test_base_without_an_adapter(tiny_checkpoint):
    assert "--base" in refusal(tiny_checkpoint, base=tiny_checkpoint)


@pytest.mark.parametrize("name", ["x" * 5000, "models/" + "x" * 5000, "~nobody-of-this-name/checkpoint"])
def test_a_name_that_cannot_be_looked_up(name):
    said = refusal(name)
    assert name[:20] in said and len(said) < 500


@pytest.mark.parametrize("unreadable", ["model.safetensors", "config.json"])
def test_a_file_that_may_not_be_read(unreadable, tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "c")
    opened = Path.open

    def refusing(self, *arguments, **options):  # for root, who runs many a container, permissions do not count
        if self.name == unreadable:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    assert re.search(rf"{unreadable} cannot be read \(Permission denied\)", refusal(folder))


def test_a_folder_that_may_not_be_searched(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "c")
    found = Path.is_file

    def refusing(self):
        if self.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied", str(self))
        return found(self)

    monkeypatch.setattr(Path, "is_file", refusing)
    assert "cannot be read (Permission denied)" in refusal(folder)
