"""The demo checkpoint: reproducible, complete, and with a tokenizer that loses nothing."""

import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer

from calibration.make_demo import DEFAULT_OUT, main
from export.checkpoint import open_checkpoint
from export.model.prompt import first_turn, tokenize


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert main(["--out", str(folder)]) == 0
    return folder


def test_two_runs_write_the_same_bytes(demo, tmp_path):
    subprocess.run([sys.executable, "-m", "calibration.make_demo", "--out", tmp_path], check=True, cwd=DEFAULT_OUT.parents[2])
    names = sorted(path.name for path in demo.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert [name for name in names if (demo / name).read_bytes() != (tmp_path / name).read_bytes()] == []


def test_another_seed_gives_other_weights(demo, tmp_path):
    main(["--out", str(tmp_path), "--seed", "1"])
    assert open_checkpoint(tmp_path).fingerprint() != open_checkpoint(demo).fingerprint()


def test_activations_are_of_order_one(demo):
    model = open_checkpoint(demo).load(parts={"image_encoder", "video_encoder", "image_projector", "video_projector"})
    pixels = torch.rand(16, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        features = model.image_encoder(pixels)
        tokens = model.video_encoder(pixels[None, :8])
        visual = [model.image_projector(features), model.video_projector(tokens)]
    assert [len(x) for x in visual] == [2304, 98]
    for x in (features, tokens, *visual):
        assert 0.1 < x.std() < 10


@pytest.mark.parametrize("folder", [None, DEFAULT_OUT], ids=["as written", "in the repository"])
def test_checkpoint_and_tokenizer_fit_together(folder, demo):
    checkpoint = open_checkpoint(folder or demo)
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_file))
    assert checkpoint.config.visual_tokens == 2402
    vocab = checkpoint.config.decoder.vocab
    assert vocab % 32 == 0 and vocab - 32 < tokenizer.get_vocab_size() <= vocab
    assert set(checkpoint.config.stop_ids) == {tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")}
    ids = tokenize(first_turn("What happens in this video?"), lambda text: tokenizer.encode(text).ids)
    assert ids.count(-200) == 16 and len(ids) < 60


TEXTS = ["", "The red circle moves.\n", "héé e\u0301 \x00 \u202e日本 😀\U0010ffff", " \t\r\n\n  x ", "it's 1234, isn't it?!"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_round_trips(text, demo):
    tokenizer = Tokenizer.from_file(str(demo / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
