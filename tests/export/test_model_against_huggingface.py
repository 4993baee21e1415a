"""Our CLIP and Qwen2 against transformers', with shared random weights."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2ForCausalLM

from export.checkpoint_keys import CLIP, our_name
from export.config import ClipConfig, DecoderConfig
from export.model.clip import ClipVisionEncoder
from export.model.preprocess import CLIP_MEAN, CLIP_STD
from export.model.qwen2 import KeyValueCache, Qwen2Decoder

# Both compute in float32 what differs only in the order of sums: 2^-24 a rounding, which a few hundred roundings along the
# deepest path grow to some 1e-5 of the largest magnitude. A wrong epsilon, mask or activation shows as 1e-3 and more.
RELATIVE = 1e-4
# Half precision rounds by 2^-11 (float16) and 2^-8 (bfloat16) at each of some 20 operations in a row, errors adding as their root.
HALF_RELATIVE = {torch.float16: 0.005, torch.bfloat16: 0.04}

TINY_CLIP = ClipConfig(width=128, depth=3, heads=2, mlp_width=320, patch_size=16)
RELEASED_CLIP = ClipConfig(width=768, depth=11, heads=12, mlp_width=3072, patch_size=16)
RELEASED_DECODER = DecoderConfig(width=896, layers=24, heads=14, kv_heads=2, head_dim=64, ffn_width=4864, vocab=151936, tied=True)
TINY_DECODERS = {
    "grouped": DecoderConfig(width=64, layers=3, heads=4, kv_heads=2, head_dim=16, ffn_width=160, vocab=96, tied=True),
    "one kv head, untied": DecoderConfig(width=96, layers=2, heads=6, kv_heads=1, head_dim=16, ffn_width=128, vocab=64, tied=False),
    "ungrouped": DecoderConfig(width=64, layers=2, heads=2, kv_heads=2, head_dim=32, ffn_width=96, vocab=64, tied=True, rope_theta=1e4),
    "wide heads": DecoderConfig(width=48, layers=2, heads=4, kv_heads=2, head_dim=32, ffn_width=96, vocab=64, tied=False),
}


def assert_close(ours, theirs, relative=RELATIVE):
    error = (ours.float() - theirs.float()).abs().max() / theirs.abs().max()
    assert error < relative, f"relative error {error:.2e}"


def randomize(model, seed):
    """Weights that make every bias and norm count, and keep activations of order 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif parameter.ndim < 2:
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return model.eval().requires_grad_(False)


def take_over(ours, theirs, part, prefix=""):
    """Load transformers' weights into our part, by the checkpoint's key table."""
    weights = {our_name(prefix + name)[0]: tensor for name, tensor in theirs.items() if our_name(prefix + name)}
    ours.load_state_dict({name.removeprefix(f"{part}."): t for name, t in weights.items() if name.startswith(f"{part}.")})
    return ours.eval().requires_grad_(False)


def clip_pair(config, seed):
    theirs = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=config.width,
            num_hidden_layers=config.depth + 1,  # ours leaves out the last, which hidden_states[-2] does not reach
            num_attention_heads=config.heads,
            intermediate_size=config.mlp_width,
            image_size=224,
            patch_size=config.patch_size,
        )
    )
    weights = {name.removeprefix("vision_model."): tensor for name, tensor in randomize(theirs, seed).state_dict().items()}
    reached = {name: tensor for name, tensor in weights.items() if f"encoder.layers.{config.depth}." not in name}
    return take_over(ClipVisionEncoder(config), reached, "image_encoder", f"{CLIP}."), theirs


def check_clip(config, seed, frames):
    ours, theirs = clip_pair(config, seed)
    pixels = torch.rand(frames, 3, 224, 224, generator=torch.Generator().manual_seed(seed)) * 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    states = theirs(pixel_values=(pixels / 255 - mean) / std, output_hidden_states=True).hidden_states
    assert_close(ours(pixels), states[-2][:, 1:])


@pytest.mark.parametrize("seed", range(3))
def test_clip(seed):
    check_clip(TINY_CLIP, seed, frames=2)


@pytest.mark.slow
def test_clip_at_released_size():
    check_clip(RELEASED_CLIP, seed=0, frames=1)


def decoder_pair(config, seed):
    theirs = Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.ffn_width,
            vocab_size=config.vocab,
            tie_word_embeddings=config.tied,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            rms_norm_eps=config.rms_norm_eps,
        )
    )
    weights = randomize(theirs, seed).state_dict()
    return take_over(Qwen2Decoder(config), weights, "decoder"), theirs


def check_decoder(config, seed, tokens, steps):
    """Prefill in two pieces, then one token at a time; the logits of each last position."""
    ours, theirs = decoder_pair(config, seed)
    embeds = torch.randn(tokens + steps, config.width, generator=torch.Generator().manual_seed(seed))
    expected = theirs(inputs_embeds=embeds[None]).logits[0]
    cache = KeyValueCache(config, tokens + steps + 3, torch.float32)
    first = tokens // 2
    pieces = [(0, first), (first, tokens), *((i, i + 1) for i in range(tokens, tokens + steps))]
    for start, end in pieces:
        assert_close(ours(embeds[start:end], start, cache), expected[end - 1])


@pytest.mark.parametrize("config", TINY_DECODERS.values(), ids=TINY_DECODERS)
@pytest.mark.parametrize("seed", range(3))
def test_decoder_with_cache(config, seed):
    check_decoder(config, seed, tokens=12, steps=4)


@pytest.mark.slow
def test_decoder_at_released_size():
    check_decoder(RELEASED_DECODER, seed=0, tokens=40, steps=3)


@pytest.mark.parametrize("dtype", HALF_RELATIVE)
def test_half_precision_stays_near_float32(dtype):
    clip, _ = clip_pair(TINY_CLIP, seed=0)
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 255
    expected = clip(pixels)
    result = clip.to(dtype)(pixels)
    assert result.dtype == dtype
    assert_close(result, expected, HALF_RELATIVE[dtype])

    config = TINY_DECODERS["grouped"]
    decoder, _ = decoder_pair(config, seed=0)
    embeds = torch.randn(12, config.width, generator=torch.Generator().manual_seed(0))
    expected = decoder(embeds, 0, KeyValueCache(config, 16, torch.float32))
    result = decoder.to(dtype)(embeds.to(dtype), 0, KeyValueCache(config, 16, dtype))
    assert result.dtype == dtype
    assert_close(result, expected, HALF_RELATIVE[dtype])
