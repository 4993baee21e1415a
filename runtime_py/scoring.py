"""Is an answer right, how often is a model right, and how sure is a difference between two models?"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from export.model.prompt import LETTERS

CONFIDENCE = 1.959964  # standard normal quantile of a two-sided 95 % interval
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s]")
_LETTER = re.compile(r"^(?:(?:best |correct )?(?:answer|option)(?: is)?:?\s*)?[\s(\[]*([A-Z])(?:[\s).:\],]|$)", re.IGNORECASE)
_PARENTHESES = re.compile(r"\(([A-Z])\)")


def is_right(answer: str, expected: str, options: Sequence[str] = ()) -> bool:
    """A letter where there are options; a yes or no wherever it stands in the answer, if not both do; else the same words, whatever
    their case, articles and punctuation."""
    if options:
        return chosen_letter(answer, options) == expected
    given, wanted = words(answer), words(expected)
    if wanted in (["yes"], ["no"]):
        return set(given) & {"yes", "no"} == set(wanted)
    return given == wanted


def chosen_letter(answer: str, options: Sequence[str]) -> str | None:
    """The option that an answer takes: by its words alone, its letter at the beginning or in parentheses, or by the words of exactly one
    option in it; None: by none of these."""
    answer = answer.strip()
    by_text = [letter for letter, option in zip(LETTERS, options) if words(option) == words(answer)]
    if len(by_text) == 1:
        return by_text[0]
    found = _LETTER.match(answer)
    in_parentheses = set(_PARENTHESES.findall(answer))
    letter = found[1].upper() if found else in_parentheses.pop() if len(in_parentheses) == 1 else ""
    if letter and LETTERS.index(letter) < len(options):
        return letter
    said = f" {' '.join(words(answer))} "
    mentioned = [letter for letter, option in zip(LETTERS, options) if words(option) and f" {' '.join(words(option))} " in said]
    return mentioned[0] if len(mentioned) == 1 else None


def words(text: str) -> list[str]:
    """Lower-case words without articles and punctuation."""
    return _ARTICLES.sub(" ", _PUNCTUATION.sub(" ", text.casefold())).split()


def word_f1(answer: str, expected: str) -> float:
    """The harmonic mean of precision and recall of an answer's words, 0 to 1: for open answers that need not be literal."""
    given, wanted = words(answer), words(expected)
    common = sum(min(given.count(word), wanted.count(word)) for word in set(given))
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of right answers, 0 to 1, with its 95 % interval."""

    count: int
    share: float
    low: float
    high: float


def wilson(right: int, count: int) -> Share:
    """Wilson's interval for `right` of `count` (Wilson 1927); it holds near 0 and 1 too."""
    z2 = CONFIDENCE**2
    share = right / count
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = CONFIDENCE * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return Share(count, share, max(0.0, middle - half), min(1.0, middle + half))


def paired_difference(one: Mapping[int, bool], other: Mapping[int, bool], clusters: Mapping[int, Hashable]) -> Share:
    """How much more often `one` is right than `other` on the questions that both answered, with its 95 % interval.

    Questions about one clip are not independent: the variance is that of the clips' sums (a cluster-robust sandwich).
    """
    common = sorted(one.keys() & other.keys())
    difference = np.array([float(one[i]) - float(other[i]) for i in common])
    mean = float(difference.mean())
    sums: dict[Hashable, float] = {}
    for number, value in zip(common, difference - mean):
        sums[clusters[number]] = sums.get(clusters[number], 0.0) + float(value)
    groups = len(sums)
    variance = sum(value**2 for value in sums.values()) * groups / max(1, groups - 1) / len(common) ** 2
    half = CONFIDENCE * math.sqrt(variance)
    return Share(len(common), mean, mean - half, mean + half)
