"""Frame scores against the definition written as loops, and the host's choice of key frames."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from export.model.frame_scorer import FrameScorer, select_key_frames

FIXTURES = Path(__file__).parents[1] / "fixtures"


def naive_scores(features: np.ndarray) -> np.ndarray:
    """Attention that each frame's patches receive within its chunk, [2, 8, P, C] -> [2, 8], in float64 loops."""
    chunks, frames, patches, width = features.shape
    scores = np.zeros((chunks, frames))
    for chunk in range(chunks):
        tokens = [features[chunk, frame, patch] for frame in range(frames) for patch in range(patches)]
        for query in tokens:
            weights = [math.exp(float(query @ key) / math.sqrt(width)) for key in tokens]
            for place, weight in enumerate(weights):
                scores[chunk, place // patches] += weight / sum(weights)
    return scores


def test_scores_are_the_attention_received_within_a_chunk():
    features = np.random.default_rng(0).normal(0, 1.2, (2, 8, 5, 6))
    scores = FrameScorer()(torch.from_numpy(features).float())
    assert scores.shape == (2, 8)
    assert np.allclose(scores.numpy(), naive_scores(features), rtol=1e-5)
    assert torch.allclose(scores.sum(dim=1), torch.full((2,), 40.0))  # each of a chunk's 40 tokens gives out 1


def test_a_chunk_does_not_see_the_other():
    features = torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(1))
    changed = features.clone()
    changed[1] *= 3
    assert torch.equal(FrameScorer()(features)[0], FrameScorer()(changed)[0])


def test_half_precision_features_are_scored_in_float32():
    features = torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(2)).half()
    scores = FrameScorer()(features)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, FrameScorer()(features.float()))


def test_the_release_s_scores_give_the_release_s_selection():
    golden = np.load(FIXTURES / "golden_tiny_0.npz")
    selected = select_key_frames(torch.from_numpy(golden["frame_scores"]))
    assert selected.dtype == torch.int64
    assert np.array_equal(selected.numpy(), golden["selected_frames"])


def test_the_best_four_come_in_time_order():
    scores = torch.tensor([[5.0, 1, 8, 2, 7, 3, 6, 4], [1.0, 2, 3, 4, 5, 6, 7, 8]])
    assert select_key_frames(scores).tolist() == [[0, 2, 4, 6], [4, 5, 6, 7]]
    assert select_key_frames(scores, topk=False).tolist() == [[1, 3, 5, 7], [0, 1, 2, 3]]
    assert select_key_frames(scores, count=2).tolist() == [[2, 4], [6, 7]]


@pytest.mark.parametrize("topk", [True, False])
def test_equal_scores_go_to_the_lower_index(topk):
    assert select_key_frames(torch.full((2, 8), 196.0), topk=topk).tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("topk", [True, False])
def test_scores_within_1e_5_relative_tie(topk):
    last_is_better = torch.full((1, 8), 200.0)
    last_is_better[0, 7] += 0.0015 if topk else -0.0015  # 0.75e-5 of it
    assert select_key_frames(last_is_better, topk=topk).tolist() == [[0, 1, 2, 3]]
    last_is_better[0, 7] += 0.0015 if topk else -0.0015  # 1.5e-5
    assert select_key_frames(last_is_better, topk=topk).tolist() == [[0, 1, 2, 7]]


def test_a_tie_at_the_border_goes_to_the_lower_index():
    scores = torch.tensor([[9.0, 8.0, 1.0, 5.0, 5.0, 7.0, 2.0, 5.0]])
    assert select_key_frames(scores).tolist() == [[0, 1, 3, 5]]


def test_ties_are_counted_from_the_best_one_left_not_in_chains():
    step = 0.6e-5
    scores = torch.tensor([[1.0, 1 + step, 1 + 2 * step, 1 + 3 * step] + [0.5] * 4], dtype=torch.float64)
    assert select_key_frames(scores, count=1).tolist() == [[2]]  # 1 + 2 step ties with the best, 1 + step does not
