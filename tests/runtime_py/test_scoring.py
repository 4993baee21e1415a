"""Right and wrong answers, shares with their intervals, and paired differences."""

import numpy as np
import pytest

from runtime_py.scoring import chosen_letter, is_right, paired_difference, wilson, word_f1

OPTIONS = ("red", "dark blue", "blue", "to the left")


@pytest.mark.parametrize(
    "answer, letter",
    [
        ("B", "B"), ("(B)", "B"), ("(b) dark blue", "B"), ("B. dark blue", "B"), ("Answer: C", "C"), ("The answer is D.", "D"),
        ("Best option: (A)", "A"), ("red", "A"), ("Red.", "A"), ("dark blue", "B"), ("Blue, so (C).", "C"), ("It is red.", "A"),
        ("It is red or dark blue", None), ("E", None), ("", None), ("Because it is green", None), ("A red one, so (A).", "A"),
        ("A man is throwing the ball", None), ("A person opens the door, so (C).", "C"), ("I think the answer is (B).", "B"),
        ("**B**", "B"), ("Answer: option C", "C"), ("B dark blue", "B"), ("C because it is blue", "C"), ("The answer is A man.", None),
        ("(A) or (B)", "A"), ("To the left, so (D).", "D"), ("To the left.", "D"), ("C) blue", "C"), ("Definitely (B)", "B"),
    ],
)  # fmt: skip
def test_the_option_that_an_answer_takes(answer, letter):
    assert chosen_letter(answer, OPTIONS) == letter


@pytest.mark.parametrize(
    "options, answer, letter",
    [
        (("b", "c", "e"), "B", "B"), (("b", "c", "e"), "(b)", "B"), (("b", "c", "e"), "The letter e", "C"),
        (("x", "a", "the"), "", None), (("x", "a", "the"), "A", "A"), (("x", "a", "the"), "the", "C"),
    ],
)  # fmt: skip
def test_options_that_are_letters_or_articles(options, answer, letter):
    """The question asks for a letter, so a letter is one; and nothing said is no option, not even one of articles alone."""
    assert chosen_letter(answer, options) == letter


@pytest.mark.parametrize(
    "answer, expected, right",
    [
        ("Yes.", "Yes.", True), ("Blue, so no.", "No.", True), ("Blue, so no.", "Yes.", False), ("yes and no", "No.", False),
        ("A red circle.", "a red circle", True), ("Red circle", "A red circle.", True), ("A blue circle.", "A red circle.", False),
        ("", "Yes.", False), ("the square", "The square.", True), ("Two.", "two", True), ("nothing", "No.", False),
    ],
)  # fmt: skip
def test_open_answers(answer, expected, right):
    assert is_right(answer, expected) is right


def test_options_are_scored_by_letter():
    assert is_right("Blue, so (C).", "C", OPTIONS) and not is_right("Blue, so (C).", "B", OPTIONS)


def test_word_f1():
    assert word_f1("a red circle", "the red circle.") == 1
    assert word_f1("red circle moves", "red circle") == pytest.approx(0.8)
    assert word_f1("blue", "red") == 0 == word_f1("", "red")


def test_wilson_interval_against_known_values():
    share = wilson(81, 263)  # Newcombe 1998, table I
    assert (share.low, share.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert wilson(0, 20).low == 0 and wilson(0, 20).high == pytest.approx(0.1611, abs=1e-4)
    assert wilson(20, 20).high == pytest.approx(1)


def test_paired_difference_of_independent_questions_is_the_normal_interval():
    one = {i: i % 10 != 0 for i in range(200)}
    other = {i: i % 5 != 0 for i in range(200)}
    d = np.array([float(one[i]) - float(other[i]) for i in range(200)])
    found = paired_difference(one, other, {i: i for i in range(200)})
    assert found.share == pytest.approx(d.mean())
    assert found.high - found.share == pytest.approx(1.96 * d.std(ddof=1) / 200**0.5, rel=1e-3)


def test_questions_about_one_clip_do_not_count_as_independent():
    """Every clip's ten questions stand and fall together: the interval is that of 20 clips, not of 200 questions."""
    one = {i: True for i in range(200)}
    other = {i: (i // 10) % 4 != 0 for i in range(200)}
    alone = paired_difference(one, other, {i: i for i in range(200)})
    together = paired_difference(one, other, {i: i // 10 for i in range(200)})
    assert together.share == alone.share == 0.25
    assert together.high - together.low == pytest.approx(10**0.5 * (alone.high - alone.low), rel=0.05)


def test_one_clip_says_nothing_of_others():
    found = paired_difference({1: True, 2: True}, {1: False, 2: False}, {1: "a", 2: "a"})
    assert (found.share, found.low, found.high) == (1, -1, 1)


def test_only_questions_that_both_answered_count():
    assert paired_difference({1: True, 2: True}, {2: False, 3: True}, {1: 1, 2: 2, 3: 3}).count == 1
