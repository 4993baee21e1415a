"""How far two models' distributions are apart."""

import math

import pytest
import torch

from runtime_py.agreement import compare
from runtime_py.plots import scatter
from runtime_py.sweep import Row, pareto, table


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


def test_other_answers_are_no_comparison():
    with pytest.raises(ValueError, match="different answers"):
        compare([[(P, IDS)]], [[(P, [0, 0])]])


def row(name: str, size: int, kl: float) -> Row:
    return Row(name, "executorch", name, size, 5.0, 0.9, 0.8, 0.95, kl, 0.99, 1.0, 50.0, 10**9)


ROWS = [row("big", 400, 0.0), row("small", 100, 0.2), row("worse", 120, 0.3), row("middle", 200, 0.01), row("twin", 100, 0.2)]


def test_the_front_has_what_no_other_beats():
    assert pareto(ROWS) == {"big", "small", "middle", "twin"}
    text = table(ROWS, 0.96)
    assert text.count("| yes |") == 4 and "96.0 % right" in text
    assert [line.split(" | ")[1] for line in text.splitlines()[2:7]] == ["small", "twin", "worse", "middle", "big"]


def test_the_plot_has_every_point():
    picture = scatter([(r.bundle_bytes, r.kl, f"<{r.name}>", r.name in pareto(ROWS)) for r in ROWS], "bytes", "KL")
    assert picture.count("<circle") == 5 and picture.count('fill="white" stroke') == 1 and "&lt;big&gt;" in picture
    import xml.etree.ElementTree

    xml.etree.ElementTree.fromstring(picture)
