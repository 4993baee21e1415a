"""Where CLIP and VideoMamba come from: the checkpoint, named files, or the release's sources."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from export.checkpoint import open_checkpoint
from export.errors import CheckpointError
from tests.released_layout import tiny_tensors, write_checkpoint

CLIP = "model.image_vision_tower.vision_tower."
VIDEOMAMBA = "model.vision_tower."
TEXT_SIDE = {
    "text_model.embeddings.position_ids": torch.arange(4),
    "logit_scale": torch.ones(()),
    "text_projection.weight": torch.ones(2, 2),
}
PRE_TRAINING = {"text_encoder.layer.0.weight": torch.ones(2, 2), "temp": torch.ones(()), "itm_head.bias": torch.ones(2)}


def vision(prefix: str, seed: int) -> dict[str, torch.Tensor]:
    """One encoder's tensors, their names without `prefix`."""
    return {name.removeprefix(prefix): t.contiguous() for name, t in tiny_tensors(seed).items() if name.startswith(prefix)}


@pytest.fixture
def blind(tmp_path):
    """A checkpoint without both encoders."""
    gone = [name for name in tiny_tensors() if name.startswith((CLIP, VIDEOMAMBA))]
    return write_checkpoint(tmp_path / "blind", alter=dict.fromkeys(gone))


@pytest.fixture
def clip_folder(tmp_path):
    """A whole Hugging Face CLIP, text side included, of seed 5."""
    folder = tmp_path / "clip"
    folder.mkdir()
    save_file(vision(CLIP, 5) | TEXT_SIDE, folder / "model.safetensors")
    return folder


@pytest.fixture
def videomamba_file(tmp_path):
    """VideoMamba as its authors publish it, of seed 5."""
    torch.save({"model": vision(VIDEOMAMBA, 5) | PRE_TRAINING}, tmp_path / "videomamba.pth")
    return tmp_path / "videomamba.pth"


@pytest.fixture
def no_hub(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(repo_id, allow_patterns):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)


def expect_seed_5(checkpoint, parts):
    model = checkpoint.load(parts=parts)
    for released, ours in {
        f"{CLIP}vision_model.pre_layrnorm.bias": "image_encoder.pre_norm.bias",
        f"{VIDEOMAMBA}vision_encoder.cls_token": "video_encoder.class_token",
    }.items():
        if ours.split(".")[0] in parts:
            assert torch.equal(model.state_dict()[ours], tiny_tensors(5)[released].float())


def test_missing_encoders_come_from_the_named_files(blind, clip_folder, videomamba_file):
    checkpoint = open_checkpoint(blind, clip=clip_folder, videomamba=videomamba_file)
    expect_seed_5(checkpoint, {"image_encoder", "video_encoder"})
    assert "text side" in checkpoint.dropped["clip/logit_scale"]
    assert checkpoint.dropped["videomamba.pth/temp"]


def test_named_files_win_over_the_checkpoints_own(tiny_checkpoint, clip_folder, videomamba_file):
    checkpoint = open_checkpoint(tiny_checkpoint, clip=clip_folder, videomamba=videomamba_file)
    expect_seed_5(checkpoint, {"image_encoder", "video_encoder"})
    assert "--clip" in checkpoint.dropped[f"{CLIP}vision_model.pre_layrnorm.bias"]
    assert checkpoint.fingerprint() != open_checkpoint(tiny_checkpoint).fingerprint()


@pytest.mark.parametrize("wrapper", ["model", "module", None])
@pytest.mark.parametrize("prefixed", [True, False])
def test_videomamba_names_with_and_without_prefix_and_wrapper(blind, clip_folder, tmp_path, wrapper, prefixed):
    tensors = vision(VIDEOMAMBA if prefixed else VIDEOMAMBA + "vision_encoder.", 5)
    torch.save({wrapper: tensors} if wrapper else tensors, tmp_path / "v.pth")
    expect_seed_5(open_checkpoint(blind, clip=clip_folder, videomamba=tmp_path / "v.pth"), {"video_encoder"})


@pytest.mark.parametrize("prefix", [CLIP, CLIP + "vision_model."])
def test_clip_names_of_old_and_new_transformers(tiny_checkpoint, tmp_path, prefix):
    save_file(vision(prefix, 5), tmp_path / "c.safetensors")
    expect_seed_5(open_checkpoint(tiny_checkpoint, clip=tmp_path / "c.safetensors"), {"image_encoder"})


def test_missing_encoders_are_fetched_from_the_release_s_sources(blind, clip_folder, videomamba_file, tmp_path, monkeypatch):
    import huggingface_hub

    hub = {"openai/clip-vit-base-patch16": clip_folder, "OpenGVLab/VideoMamba": tmp_path / "hub"}
    (tmp_path / "hub").mkdir()
    shutil.copy(videomamba_file, tmp_path / "hub" / "videomamba_m16_25M_f8_res224.pth")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo_id, allow_patterns: str(hub[repo_id]))
    expect_seed_5(open_checkpoint(blind), {"image_encoder", "video_encoder"})


def test_without_the_hub_the_error_names_the_option(blind, clip_folder, no_hub):
    with pytest.raises(CheckpointError, match="--clip"):
        open_checkpoint(blind)
    with pytest.raises(CheckpointError, match="--videomamba"):
        open_checkpoint(blind, clip=clip_folder)


def test_a_named_file_that_is_missing_or_foreign(tiny_checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="--clip"):
        open_checkpoint(tiny_checkpoint, clip=tmp_path / "none.safetensors")
    save_file({"head.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="holds no CLIP weights.*--clip"):
        open_checkpoint(tiny_checkpoint, clip=tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no weights file"):
        open_checkpoint(tiny_checkpoint, videomamba=tiny_checkpoint / "config.json")


def test_each_option_refuses_the_other_s_weights(tiny_checkpoint, clip_folder, videomamba_file):
    with pytest.raises(CheckpointError, match=r"videomamba\.pth holds no CLIP weights: --clip takes a weights file"):
        open_checkpoint(tiny_checkpoint, clip=videomamba_file)
    with pytest.raises(CheckpointError, match=r"clip holds no VideoMamba weights: --videomamba takes a weights file"):
        open_checkpoint(tiny_checkpoint, videomamba=clip_folder)


def test_a_fault_of_a_named_file_is_told_of_that_file(blind, clip_folder, tmp_path):
    mixer = "vision_encoder.layers.0.mixer"
    weights = vision(VIDEOMAMBA, 5)
    for change, said in (
        ({f"{mixer}.D": torch.ones(63)}, r"cut\.pth, cut\.pth/vision_encoder\.layers\.0\.mixer\.D is \[63\], expected \[1152\]"),
        ({f"{mixer}.D": None}, r"cut\.pth, model\.vision_tower\.vision_encoder\.layers\.0\.mixer\.D missing"),
        ({f"{mixer}.A_log": None}, r"cut\.pth lacks model\.vision_tower\.vision_encoder\.layers\.0\.mixer\.A_log"),
        ({"vision_encoder.layers.0.extra": torch.ones(1)}, r"cut\.pth, cut\.pth/vision_encoder\.layers\.0\.extra unknown"),
    ):
        torch.save({name: tensor for name, tensor in (weights | change).items() if tensor is not None}, tmp_path / "cut.pth")
        with pytest.raises(CheckpointError, match=rf"VideoMamba source .*{said}.*: give --videomamba other weights") as caught:
            open_checkpoint(blind, clip=clip_folder, videomamba=tmp_path / "cut.pth")
        assert str(blind) not in str(caught.value)


def test_an_encoder_of_another_size_than_the_projector_s(tiny_checkpoint, tmp_path):
    wide = {name: torch.cat([t, t], dim=0) if name.endswith("patch_embedding.weight") else t for name, t in vision(CLIP, 5).items()}
    save_file(wide, tmp_path / "large.safetensors")
    said = r"large\.safetensors gives features of width 1536, but the projector of the checkpoint .* takes 768: give --clip"
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tiny_checkpoint, clip=tmp_path / "large.safetensors")
