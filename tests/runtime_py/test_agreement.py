"""How far two models' distributions are apart."""

import math

import pytest
import torch

from runtime_py.agreement import compare


def distributions(*logits: list[float]) -> torch.Tensor:
    return torch.log_softmax(torch.tensor(logits), -1)


P = distributions([0.0, 1.0, 2.0], [3.0, 0.0, 0.0])
Q = distributions([2.0, 1.0, 0.0], [3.0, 0.0, 0.0])
IDS = [2, 0]


def test_a_model_agrees_with_itself():
    found = compare([[(P, IDS)]], [[(P, IDS)]])
    assert (found.tokens, found.kl, found.top1) == (2, 0, 1)
    assert found.perplexity == pytest.approx(found.reference_perplexity)


def test_the_figures_are_what_their_names_say():
    found = compare([[(P, IDS)]], [[(Q, IDS)]])
    kl = float((P[0].exp() * (P[0] - Q[0])).sum())
    assert found.kl == pytest.approx(kl / 2) and found.top1 == 0.5 and math.isnan(found.kl_error)
    assert found.perplexity == pytest.approx(math.exp(-float(Q[0, 2] + Q[1, 0]) / 2))
    assert found.reference_perplexity == pytest.approx(math.exp(-float(P[0, 2] + P[1, 0]) / 2))


def test_the_error_is_over_clips():
    found = compare([[(P, IDS)], [(P, IDS)]], [[(Q, IDS)], [(P, IDS)]])
    assert found.kl_error == pytest.approx(2 * found.kl / 2)


def test_only_as_many_clips_are_computed_as_the_reference_has():
    """What a model thinks of the whole vocabulary is large: the reference keeps a part, and the other is computed clip by clip."""
    asked = []

    def clips():
        for number in range(5):
            asked.append(number)
            yield [(Q, IDS)]

    assert compare([[(P, IDS)], [(P, IDS)]], clips()).tokens == 4 and asked == [0, 1]
    with pytest.raises(ValueError, match="fewer clips"):
        compare([[(P, IDS)], [(P, IDS)]], iter([[(Q, IDS)]]))


def test_other_answers_are_no_comparison():
    with pytest.raises(ValueError, match="different answers"):
        compare([[(P, IDS)]], [[(P, [0, 0])]])
