"""Opening, loading and saving checkpoints in the released layout."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from export.checkpoint import open_checkpoint, save_checkpoint
from export.checkpoint_keys import our_name, reason_dropped
from export.checkpoint_match import Found, assign, check
from export.checkpoint_places import in_checkpoint
from export.checkpoint_sizes import infer
from export.config import FRAMES
from export.tensor_files import StoredTensor
from tests.released_layout import FIXTURES, FORMATS, keys, tiny_tensors, write_checkpoint


def assert_same_weights(model, other):
    weights, others = model.state_dict(), other.state_dict()
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name


@pytest.mark.parametrize("file_format", FORMATS[1:])
def test_every_file_format_holds_the_same_model(file_format, tiny_checkpoint, tmp_path):
    reference = open_checkpoint(tiny_checkpoint)
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", file_format))
    assert checkpoint.config == reference.config
    assert checkpoint.fingerprint() == reference.fingerprint()
    assert_same_weights(checkpoint.load(), reference.load())


def test_a_training_wrapper_around_the_tensors_is_looked_through(tiny_checkpoint, tmp_path):
    folder = write_checkpoint(tmp_path / "c", "bin")
    torch.save({"model": tiny_tensors(), "epoch": 3}, folder / "pytorch_model.bin")
    assert open_checkpoint(folder).fingerprint() == open_checkpoint(tiny_checkpoint).fingerprint()


def test_shards_without_an_index(tiny_checkpoint, tmp_path):
    folder = write_checkpoint(tmp_path / "c", "sharded bin")
    (folder / "pytorch_model.bin.index.json").unlink()
    assert open_checkpoint(folder).fingerprint() == open_checkpoint(tiny_checkpoint).fingerprint()


def test_each_tensor_lands_where_it_belongs(tiny_checkpoint):
    stored, weights = tiny_tensors(), open_checkpoint(tiny_checkpoint).load().state_dict()
    videomamba = "model.vision_tower.vision_encoder"
    clip = "model.image_vision_tower.vision_tower.vision_model"
    for released, ours in {
        "model.embed_tokens.weight": "token_embedding.weight",
        "model.layers.1.mlp.up_proj.weight": "decoder.layers.1.ffn.up_proj.weight",
        "model.image_mm_projector.mlp.mlp.2.bias": "image_projector.mlp.linears.1.bias",
        "model.mm_projector.peg.peg.0.weight": "video_projector.position.weight",
        f"{videomamba}.layers.1.mixer.A_log": "video_encoder.layers.1.mixer.directions.0.A_log",
        f"{videomamba}.layers.1.mixer.A_b_log": "video_encoder.layers.1.mixer.directions.1.A_log",
        f"{videomamba}.layers.0.mixer.conv1d_b.weight": "video_encoder.layers.0.mixer.directions.1.conv.weight",
        f"{clip}.encoder.layers.1.layer_norm2.weight": "image_encoder.layers.1.norm2.weight",
        f"{clip}.encoder.layers.0.self_attn.out_proj.weight": "image_encoder.layers.0.attention.out_proj.weight",
    }.items():
        assert torch.equal(weights[ours], stored[released].float()), released
    patches = stored[f"{videomamba}.patch_embed.proj.weight"].float()
    assert torch.equal(weights["video_encoder.patch_embedding.weight"], patches[:, :, 0])


def test_the_loaded_model_is_frozen_and_runs(tiny_checkpoint):
    model = open_checkpoint(tiny_checkpoint).load()
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.decoder.head.weight is model.token_embedding.weight
    features = model.image_encoder(torch.full((1, 3, 224, 224), 128.0))
    assert features.shape == (1, 196, 768) and features.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_load_in_another_dtype(tiny_checkpoint, dtype):
    assert {p.dtype for p in open_checkpoint(tiny_checkpoint).load(dtype).parameters()} == {dtype}


def test_load_some_parts_leaves_the_others_without_memory(tiny_checkpoint):
    checkpoint = open_checkpoint(tiny_checkpoint)
    whole, some = checkpoint.load(), checkpoint.load(parts={"video_encoder", "decoder"})
    for name, tensor in list(some.named_parameters(remove_duplicate=False)) + list(some.named_buffers()):
        assert tensor.is_meta == (not name.startswith(("video_encoder.", "decoder."))), name
    assert torch.equal(some.decoder.head.weight, whole.token_embedding.weight)
    assert torch.equal(some.video_encoder.normalize.std, whole.video_encoder.normalize.std)


def test_an_unknown_part_is_refused(tiny_checkpoint):
    with pytest.raises(ValueError, match="image_encodre"):
        open_checkpoint(tiny_checkpoint).load(parts={"image_encodre"})


def test_untied_head(tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", tied=False))
    model = checkpoint.load()
    assert not checkpoint.config.decoder.tied
    assert torch.equal(model.decoder.head.weight, tiny_tensors(tied=False)["lm_head.weight"].float())


def test_a_tied_head_that_is_stored_is_dropped(tiny_checkpoint, tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", alter={"lm_head.weight": [512, 64]}))
    assert "tied" in checkpoint.dropped["lm_head.weight"]
    assert checkpoint.fingerprint() == open_checkpoint(tiny_checkpoint).fingerprint()


def test_harmless_leftovers_are_dropped_with_their_reason(tmp_path):
    position_ids = "model.image_vision_tower.vision_tower.vision_model.embeddings.position_ids"
    inv_freq = "model.layers.0.self_attn.rotary_emb.inv_freq"
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", alter={position_ids: [1, 197], inv_freq: [8]}))
    last_layer = "model.image_vision_tower.vision_tower.vision_model.encoder.layers.2.mlp.fc1.weight"
    clip_decoder = "model.vision_tower.vision_encoder.clip_decoder.0.head.weight"
    assert {position_ids, inv_freq, last_layer, clip_decoder} <= checkpoint.dropped.keys()
    assert all(checkpoint.dropped.values())


KINDS = [("etp", 144, 49), ("linear", 196, 196), ("mlp2x_gelu", 196, 196), ("mlp3x_gelu", 196, 196)]


@pytest.mark.parametrize("kind, per_frame, per_chunk", KINDS)
def test_projector_kinds(kind, per_frame, per_chunk, tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", image_projector=kind, video_projector=kind))
    assert checkpoint.config.visual_tokens == FRAMES * per_frame + 2 * per_chunk
    tokens = checkpoint.load(parts={"video_projector"}).video_projector(torch.randn(8, 196, 576))
    assert tokens.shape == (2 * per_chunk, 64)


def test_projector_kind_is_read_off_the_tensors_where_config_is_silent(tmp_path):
    config = {"mm_projector_type": None, "image_mm_projector_type": None}
    opened = open_checkpoint(write_checkpoint(tmp_path / "c", config=config, video_projector="mlp2x_gelu")).config
    assert (opened.image_projector.kind, opened.video_projector.kind, opened.video_projector.depth) == ("etp", "mlp", 2)


@pytest.mark.parametrize("select, depth", [(-1, 3), (-2, 2), (-3, 1), (2, 2)])
def test_clip_stops_at_the_selected_layer(select, depth, tmp_path):
    config = open_checkpoint(write_checkpoint(tmp_path / "c", config={"mm_vision_select_layer": select})).config
    assert config.clip.depth == depth


def test_settings_that_only_config_json_tells(tmp_path):
    config = {"topk": False, "eos_token_id": [2, 7], "rope_theta": 500.0, "max_position_embeddings": 99}
    folder = write_checkpoint(tmp_path / "c", config=config)
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    tokens = [{"id": 11, "content": "<|im_end|>"}, {"id": 12, "content": "<|im_start|>"}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config.topk is False
    assert checkpoint.config.stop_ids == (2, 7, 9, 11)
    assert (checkpoint.config.decoder.rope_theta, checkpoint.config.decoder.max_positions) == (500.0, 99)
    assert checkpoint.tokenizer_file == folder / "tokenizer.json"


def test_head_width_of_its_own(tmp_path):
    layers = {f"model.layers.{i}.self_attn": {"q": 128, "k": 64, "v": 64} for i in range(2)}
    alter = {f"{name}.{p}_proj.weight": [rows, 64] for name, projs in layers.items() for p, rows in projs.items()}
    alter |= {f"{name}.{p}_proj.bias": [rows] for name, projs in layers.items() for p, rows in projs.items()}
    alter |= {f"{name}.o_proj.weight": [64, 128] for name in layers}
    assert open_checkpoint(write_checkpoint(tmp_path / "c", alter=alter, config={"head_dim": 32})).config.decoder.head_dim == 32


def test_fingerprint_tells_weights_and_settings_apart(tiny_checkpoint, tmp_path):
    prints = [
        open_checkpoint(folder).fingerprint()
        for folder in (
            tiny_checkpoint,
            write_checkpoint(tmp_path / "seed", seed=1),
            write_checkpoint(tmp_path / "topk", config={"topk": False}),
        )
    ]
    assert len(set(prints)) == 3


@pytest.mark.parametrize("options", [{}, {"tied": False}, {"image_projector": "linear", "video_projector": "mlp3x_gelu"}])
def test_a_saved_model_comes_back_exactly(options, tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", config={"topk": False}, **options))
    model = checkpoint.load()
    save_checkpoint(model, tmp_path / "saved")
    again = open_checkpoint(tmp_path / "saved")
    assert again.config == checkpoint.config
    assert again.fingerprint() == checkpoint.fingerprint()
    assert_same_weights(again.load(), model)


def test_a_saved_model_has_the_released_names(tiny_checkpoint, tmp_path):
    checkpoint = open_checkpoint(tiny_checkpoint)
    save_checkpoint(checkpoint.load(), tmp_path, config_extra={"note": "ours"})
    _, shapes = keys()
    assert json.loads((tmp_path / "config.json").read_text())["note"] == "ours"
    saved = open_checkpoint(tmp_path)
    names = {source.label for source in saved.sources.values()} | saved.dropped.keys()
    assert names == {name for name in shapes if "clip_decoder" not in name} - {"lm_head.weight"}


@pytest.mark.parametrize("size, parameters", [("0.5b", 490_000_000), ("1.5b", 1_540_000_000)])
def test_released_names_resolve_completely(size, parameters):
    settings, shapes = keys(FIXTURES / f"keys_{size}.json")
    places = in_checkpoint(FIXTURES)
    headers = {name: StoredTensor(torch.float16, tuple(shape), lambda: None) for name, shape in shapes.items()}
    found = [Found(name, name, stored, places["decoder"]) for name, stored in headers.items()]
    dropped = {}
    sources, unknown = assign(found, dropped)
    config = infer(settings, {name: source.shape for name, source in sources.items()}, {}, (), places)
    used = check(config, sources, unknown, dropped, places)
    assert len(used) + len(dropped) == len(shapes)
    assert (config.clip.depth, config.videomamba.depth, config.visual_tokens) == (11, 32, 2402)
    assert (config.videomamba.d_inner, config.videomamba.dt_rank, config.videomamba.d_conv) == (1152, 36, 4)
    assert sum(torch.Size(source.shape).numel() for name, source in used.items() if name.startswith(("decoder", "token"))) >= parameters


def test_no_name_is_both_used_and_dropped():
    _, shapes = keys(FIXTURES / "keys_0.5b.json")
    assert not [name for name in shapes if (our_name(name) is None) == (reason_dropped(name) is None)]


@pytest.mark.parametrize("size", ["tiny", "0.5b", "1.5b"])
def test_our_key_lists_are_the_release_s(size, shared_dir):
    assert keys(FIXTURES / f"keys_{size}.json") == keys(shared_dir / "release" / f"keys_{size}.json")


def test_our_tiny_checkpoint_is_the_release_s(shared_dir, tiny_checkpoint, tmp_path):
    script = shared_dir / "release" / "make_checkpoint.py"
    subprocess.run([sys.executable, script, "tiny", tmp_path / "theirs"], check=True, capture_output=True)
    theirs = open_checkpoint(tmp_path / "theirs")
    assert theirs.fingerprint() == open_checkpoint(tiny_checkpoint).fingerprint()
    assert theirs.name == "theirs"


def test_parameters_tell_shapes_without_loading(tiny_checkpoint):
    checkpoint = open_checkpoint(tiny_checkpoint)
    unreadable = {name: dataclasses.replace(s, stored=dataclasses.replace(s.stored, read=None)) for name, s in checkpoint.sources.items()}
    parameters = dataclasses.replace(checkpoint, sources=unreadable).parameters
    assert parameters == {name: (torch.float16, tuple(p.shape)) for name, p in checkpoint.load().named_parameters()}
