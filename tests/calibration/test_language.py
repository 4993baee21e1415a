"""Conversations packed behind one prefix: the training's logits are those of the decoder that answers."""

import numpy as np
import pytest
import torch

from calibration.clips import plan_clip
from calibration.encoders import image_features, video_features, with_fast_scan
from calibration.language import Looks, branch_logits, pack, pad, visual_prefix
from calibration.make_demo import demo_config, initial_weights, train_tokenizer
from calibration.questions import Question, questions_about
from export.model.projector import pool_video_tokens
from export.model.prompt import END_OF_TURN, first_turn, next_turn, opening_ids, tokenize
from export.model.qwen2 import KeyValueCache


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="module")
def encode(tokenizer):
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def model(tokenizer):
    return initial_weights(demo_config(tokenizer), 3)


@pytest.fixture(scope="module")
def asked():
    return questions_about(plan_clip("train", 0, 1).scene, np.random.default_rng(0), 8)


def test_every_answer_is_predicted_from_its_own_conversation(encode, asked):
    packed = pack([[asked[0]], [asked[1], asked[2]]], encode)
    second = packed.branch == 1
    text = first_turn(asked[1].text) + asked[1].reply + next_turn(asked[2].text) + asked[2].reply + END_OF_TURN
    whole = tokenize(text, encode)
    after = whole[len(whole) - 1 - whole[::-1].index(-200) + 1 :]
    assert packed.ids[second].tolist() == after
    assert packed.places[second].tolist() == list(range(second.sum()))
    targets = packed.targets[second]
    assert [t for t in targets if t >= 0] == [*encode(asked[1].reply + END_OF_TURN), *encode(asked[2].reply + END_OF_TURN)]
    assert all(target < 0 or target == following for target, following in zip(targets, packed.ids[second][1:]))


def test_packed_logits_are_the_decoders(model, encode, asked):
    """Of every branch of both clips, padding or not; the prefix is the graphs' visual tokens."""
    image, video = torch.randn(2, 16, 196, 128), torch.randn(2, 8, 196, 64)
    pooled = torch.stack([pool_video_tokens(tokens, 14) for tokens in video])
    before = opening_ids(encode)
    packs = [pack([[asked[0]], [asked[1], asked[2]]], encode), pack([[asked[3]]], encode)]
    with torch.inference_mode():
        prefix = visual_prefix(model, before, image, pooled)
        logits, _, missed = branch_logits(model, prefix, pad(packs))
        assert not missed
        for clip, packed in enumerate(packs):
            tokens = torch.cat([model.image_projector(image[clip]), model.video_projector(video[clip])])
            start = torch.cat([model.token_embedding(torch.tensor(before)), tokens])
            assert torch.allclose(prefix[clip], start, atol=1e-5)
            for branch in range(packed.branch.max() + 1):
                ids = packed.ids[packed.branch == branch]
                cache = KeyValueCache(model.config.decoder, 4096, torch.float32)
                embeds = torch.cat([start, model.token_embedding(torch.from_numpy(ids))])
                expected = model.decoder(embeds, 0, cache)
                last = np.flatnonzero(packed.branch == branch)[-1]
                assert torch.allclose(logits[clip, last], expected, atol=1e-4 * float(expected.abs().max()))


def test_a_branch_does_not_see_another(model, encode):
    def first(other: str) -> torch.Tensor:
        questions = [[Question("colour", "open", "What colour is it?", "Red.")], [Question("colour", "open", other, "Blue.")]]
        packed = pack(questions, encode)
        with torch.inference_mode():
            prefix = torch.ones(1, 20, 128)
            return branch_logits(model, prefix, pad([packed]))[0][0, np.flatnonzero(packed.branch == 0)]

    assert torch.allclose(first("How many shapes are there?"), first("Is there a ring?"), atol=1e-5)


def test_a_prefix_without_some_tokens_keeps_the_places_of_the_others(model, encode, asked):
    """Kept tokens see each other as in a cache from which the others were taken; all kept is the whole."""
    prefix = torch.randn(1, 40, 128, generator=torch.Generator().manual_seed(0))
    packed = pad([pack([[asked[0]]], encode)])
    with torch.inference_mode():
        whole = branch_logits(model, prefix, packed)[0]
        assert torch.equal(branch_logits(model, prefix, packed, torch.arange(40)[None])[0], whole)
        moved = branch_logits(model, prefix[:, :20], packed)[0]
        few = branch_logits(model, prefix, packed, torch.arange(20)[None])[0]
    assert not torch.allclose(few, whole, atol=1e-3) and not torch.allclose(few, moved, atol=1e-6)


def test_what_attention_misses_is_measured(model, encode, asked):
    """A word that is to look everywhere in the prefix misses what it gives to the words; one that is to look at less misses more."""
    prefix = torch.randn(1, 30, 128, generator=torch.Generator().manual_seed(0))
    packed = pad([pack([[asked[0]]], encode)])
    everywhere = torch.zeros(1, 3, packed.ids.shape[1], 30 + packed.ids.shape[1], dtype=torch.bool)
    everywhere[:, :, 4, :30] = True
    half = everywhere.clone()
    half[..., 15:] = False
    with torch.inference_mode():
        all_missed, half_missed = (
            float(branch_logits(model, prefix, packed, None, Looks(words=looks)).missed) for looks in (everywhere, half)
        )
    assert 0 < all_missed < half_missed


def test_the_prefix_too_is_told_where_to_look(model, encode, asked):
    """What is there already costs nothing: the first token sees itself alone."""
    prefix = torch.randn(1, 30, 128, generator=torch.Generator().manual_seed(0))
    packed = pad([pack([[asked[0]]], encode)])

    def missed(token: int, at: int) -> float:
        back = torch.zeros(1, 2, 30, 30, dtype=torch.bool)
        back[:, 1, token, at] = True
        with torch.inference_mode():
            return float(branch_logits(model, prefix, packed, None, Looks(back=back)).missed)

    assert abs(missed(0, 0)) < 1e-6 and missed(20, 3) > 0.1


def test_everything_is_computed_where_the_model_is(encode, asked):
    """On a device without memory ("meta"): a tensor that stayed behind on the CPU is an error, as on a GPU, of which there is none here."""
    elsewhere = initial_weights(demo_config(train_tokenizer()), 3).to("meta")
    image, pooled = torch.randn(2, 16, 196, 128, device="meta"), torch.randn(2, 2, 196, 64, device="meta")
    prefix = visual_prefix(elsewhere, opening_ids(encode), image, pooled)
    packed = pad([pack([[asked[0]], [asked[1], asked[2]]], encode), pack([[asked[3]]], encode)])
    outcome = branch_logits(elsewhere, prefix, packed)
    assert outcome.logits.device.type == "meta" and outcome.logits.shape[:2] == packed.ids.shape
    rng, frames = np.random.default_rng(0), np.zeros((16, 224, 224, 3), np.uint8)
    patches = torch.zeros(16, 196, 3, dtype=torch.int64, device="meta")
    assert image_features(elsewhere.image_encoder, frames, patches, rng, 8)[0].device.type == "meta"
    assert video_features(with_fast_scan(elsewhere.video_encoder), frames, rng, 8, 0.5)[0].device.type == "meta"
