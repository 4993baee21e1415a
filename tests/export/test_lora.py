"""LoRA fine-tunes: merged by PEFT, compared with the merge computed by hand."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from export.checkpoint import open_checkpoint
from export.errors import CheckpointError
from tests.released_layout import keys, tiny_tensors, write_checkpoint, write_tensors

PROJECTORS = ("model.mm_projector.", "model.image_mm_projector.")
RANK, ALPHA = 4, 12
QWEN2_SETTINGS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
)


@pytest.fixture
def base(tmp_path):
    """A tiny Qwen2 as transformers saves it."""
    settings, _ = keys()
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": settings["rope_theta"]}
    model = Qwen2ForCausalLM(Qwen2Config(**{key: settings[key] for key in QWEN2_SETTINGS}, eos_token_id=2, rope_parameters=rope))
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def vision(tmp_path):
    """--clip and --videomamba files of seed 0."""
    files = {}
    for option, prefix in (("clip", "model.image_vision_tower."), ("videomamba", "model.vision_tower.")):
        files[option] = tmp_path / f"{option}.pth"
        torch.save({n.removeprefix(prefix): t for n, t in tiny_tensors().items() if n.startswith(prefix)}, files[option])
    return files


def fine_tune(folder, base, with_config=True, **options):
    """Save a LoRA of random A and B, and the projectors beside it, as training does; return its folder and the adapter's weights."""
    options = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"} | options
    model = get_peft_model(Qwen2ForCausalLM.from_pretrained(base), LoraConfig(**options))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    projectors = {f"base_model.model.{n}": t for n, t in tiny_tensors().items() if n.startswith(PROJECTORS)}
    torch.save(projectors, folder / "non_lora_trainables.bin")
    if with_config:
        (folder / "config.json").write_text(json.dumps(keys()[0]))
    return SimpleNamespace(folder=folder, model=model, weights={name: p.detach() for name, p in model.named_parameters()})


def merged_by_hand(tune, name, scale):
    """W + scale * B A of a linear of the base."""
    at = f"base_model.model.{name}"
    a, b = (tune.weights[f"{at}.lora_{letter}.default.weight"] for letter in "AB")
    return tune.weights[f"{at}.base_layer.weight"] + scale * b @ a


@pytest.mark.parametrize("rslora, scale", [(False, ALPHA / RANK), (True, ALPHA / RANK**0.5)])
@pytest.mark.parametrize("with_config", [True, False])
def test_merge_is_base_plus_scaled_product(rslora, scale, with_config, base, vision, tmp_path):
    tune = fine_tune(tmp_path / "tune", base, with_config, use_rslora=rslora)
    checkpoint = open_checkpoint(tune.folder, base=base, **vision)
    weights = checkpoint.load().state_dict()
    for theirs, ours in (("self_attn.q_proj", "attention.q_proj"), ("mlp.down_proj", "ffn.down_proj")):
        for layer in range(2):
            expected = merged_by_hand(tune, f"model.layers.{layer}.{theirs}", scale)
            torch.testing.assert_close(weights[f"decoder.layers.{layer}.{ours}.weight"], expected, rtol=0, atol=1e-6)
    untouched = tune.weights["base_model.model.model.layers.0.self_attn.k_proj.weight"]
    assert torch.equal(weights["decoder.layers.0.attention.k_proj.weight"], untouched)
    assert torch.equal(weights["video_projector.position.weight"], tiny_tensors()["model.mm_projector.peg.peg.0.weight"].float())
    assert torch.equal(weights["video_encoder.norm.weight"], tiny_tensors()["model.vision_tower.vision_encoder.norm.weight"].float())
    assert checkpoint.config.decoder.tied and checkpoint.config.stop_ids == (2,)


def test_the_base_is_the_one_that_the_adapter_names(base, vision, tmp_path):
    tune = fine_tune(tmp_path / "tune", base)
    named = json.loads((tune.folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(base)
    assert open_checkpoint(tune.folder, **vision).fingerprint() == open_checkpoint(tune.folder, base=base, **vision).fingerprint()


def test_a_whole_checkpoint_as_base_brings_its_encoders(base, vision, tmp_path):
    tune = fine_tune(tmp_path / "tune", base)
    whole = write_checkpoint(tmp_path / "whole")
    decoder = {n: p.detach().clone() for n, p in Qwen2ForCausalLM.from_pretrained(base).state_dict().items() if n != "lm_head.weight"}
    (whole / "model.safetensors").unlink()
    write_tensors(whole, tiny_tensors() | decoder, "safetensors")
    assert open_checkpoint(tune.folder, base=whole).fingerprint() == open_checkpoint(tune.folder, base=base, **vision).fingerprint()


def test_modules_to_save_replace_the_base_s(base, vision, tmp_path):
    tune = fine_tune(tmp_path / "tune", base, modules_to_save=["embed_tokens", "lm_head"])
    checkpoint = open_checkpoint(tune.folder, base=base, **vision)
    weights = checkpoint.load().state_dict()
    saved = tune.weights["base_model.model.model.embed_tokens.modules_to_save.default.weight"]
    assert torch.equal(weights["token_embedding.weight"], saved)
    assert torch.equal(weights["decoder.head.weight"], tune.weights["base_model.model.lm_head.modules_to_save.default.weight"])
    assert not checkpoint.config.decoder.tied  # trained apart, they are two


def test_the_merged_decoder_computes_what_the_trained_one_did(base, vision, tmp_path):
    """Rank patterns, an adapter on the head of a tied base, and bias: as PEFT ran them in training."""
    from export.model.qwen2 import KeyValueCache

    options = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"o_proj": 3}, "bias": "lora_only"}
    tune = fine_tune(tmp_path / "tune", base, target_modules=["q_proj", "o_proj", "lm_head"], **options)
    model = open_checkpoint(tune.folder, base=base, **vision).load(parts={"token_embedding", "decoder"})
    ids = torch.arange(3, 12)
    logits = model.decoder(model.token_embedding(ids), 0, KeyValueCache(model.config.decoder, 16, torch.float32))
    expected = tune.model.eval()(ids[None]).logits[0, -1].detach()
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()  # float32 sums in another order


def refusal(folder, **arguments) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_errors_name_what_to_do(base, vision, tmp_path):
    tune = fine_tune(tmp_path / "tune", base)
    shutil.move(base, tmp_path / "elsewhere")
    assert "--base" in refusal(tune.folder, **vision)
    config = json.loads((tune.folder / "adapter_config.json").read_text())
    (tune.folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    assert "--base" in refusal(tune.folder, **vision)
    (tune.folder / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    assert "IA3" in refusal(tune.folder, **vision)
    (tune.folder / "adapter_config.json").write_text(json.dumps(config | {"r": 7}))
    assert "PEFT cannot apply" in refusal(tune.folder, base=tmp_path / "elsewhere", **vision)
    (tune.folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    assert "down_proj" in refusal(tune.folder, base=tmp_path / "elsewhere", **vision)
    (tune.folder / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors" in refusal(tune.folder, base=tmp_path / "elsewhere", **vision)


def test_a_fine_tune_without_its_projectors(base, tmp_path, monkeypatch):
    """Told before CLIP is fetched from the hub, which takes minutes."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("went to the hub"))
    tune = fine_tune(tmp_path / "tune", base)
    (tune.folder / "non_lora_trainables.bin").unlink()
    said = refusal(tune.folder, base=base)
    assert f"{tune.folder} has no non_lora_trainables.bin" in said and "projectors" in said and "copy it" in said


def test_the_base_may_bring_the_projectors(base, tmp_path):
    tune = fine_tune(tmp_path / "tune", base)
    (tune.folder / "non_lora_trainables.bin").unlink()
    whole = open_checkpoint(tune.folder, base=write_checkpoint(tmp_path / "whole"))
    expected = tiny_tensors()["model.mm_projector.peg.peg.0.weight"].float()
    assert torch.equal(whole.load().state_dict()["video_projector.position.weight"], expected)


def test_a_projector_of_the_wrong_shape_is_the_fine_tune_s_fault(base, vision, tmp_path):
    tune = fine_tune(tmp_path / "tune", base)
    projectors = torch.load(tune.folder / "non_lora_trainables.bin")
    projectors["base_model.model.model.mm_projector.peg.peg.0.bias"] = torch.ones(63)
    torch.save(projectors, tune.folder / "non_lora_trainables.bin")
    said = refusal(tune.folder, base=base, **vision)
    assert f"in the fine-tune {tune.folder}, model.mm_projector.peg.peg.0.bias is [63], expected [64]" in said


@pytest.mark.parametrize("broken", [True, False])
def test_stderr_holds_the_error_and_nothing_of_the_libraries(broken, base, vision, tmp_path):
    tune = fine_tune(tmp_path / "tune", base)
    if broken:
        config = json.loads((tune.folder / "adapter_config.json").read_text())
        (tune.folder / "adapter_config.json").write_text(json.dumps(config | {"r": 7}))
    command = [sys.executable, "-m", "export.build", "--target", "executorch", "--checkpoint", tune.folder, "--base", base, "--dry-run"]
    command += ["--clip", vision["clip"], "--videomamba", vision["videomamba"], "--max-context", "4000"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == ((2, 1) if broken else (0, 0)), done.stderr
    assert not broken or "PEFT cannot apply" in lines[0]
