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
_ALONE = re.compile(r"[\s(\[*\"']*([A-Za-z])[\s)\].:,*\"']*")  # nothing but a letter
_AT_THE_BEGINNING = re.compile(r"[\s(\[*]*([A-Za-z])(?:\)|\]|\.|:|,|\*\*)")
_CAPITAL = r"([B-HJ-Z]|[AI](?!\s+[a-z]))(?![\w'])"  # no article, no pronoun
_FIRST_WORD = re.compile(rf"\s*{_CAPITAL}\s")
_NAMED = re.compile(rf"\b(?i:answer|option|choice)\b(?:\s+(?i:is|would be|should be))?\s*:?\s*(?:(?i:option)\s+)?[(\[*]*{_CAPITAL}")
_PARENTHESES = re.compile(r"\(([A-Za-z])\)")


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
    """The option that an answer takes, None where that is none or not one alone.

    A question with options asks for a letter, so that comes first: one that is the whole answer, stands at its beginning, is called the
    answer, or stands in parentheses. Else an option's own words: all of the answer, or somewhere in it."""
    letters = LETTERS[: len(options)]
    alone, beginning, first = _ALONE.fullmatch(answer), _AT_THE_BEGINNING.match(answer), _FIRST_WORD.match(answer)
    by_letter = [
        [alone[1]] if alone else [], [beginning[1]] if beginning else [], _NAMED.findall(answer), _PARENTHESES.findall(answer),
        [first[1]] if first else [],
    ]  # fmt: skip
    for found in by_letter:
        chosen = {letter.upper() for letter in found} & set(letters)
        if len(chosen) == 1:
            return chosen.pop()
    said = _literal(answer)
    whole = [letter for letter, option in zip(letters, options) if said and _literal(option) == said]
    inside = [letter for letter, option in zip(letters, options) if f" {' '.join(_literal(option))} " in f" {' '.join(said)} "]
    return next((found[0] for found in (whole, inside) if len(found) == 1), None)


def _literal(text: str) -> list[str]:
    """`words`, or what there is where that is articles alone."""
    return words(text) or _PUNCTUATION.sub(" ", text.casefold()).split()


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
    if groups < 2:
        return Share(len(common), mean, -1.0, 1.0)  # one clip says nothing of others
    variance = sum(value**2 for value in sums.values()) * groups / (groups - 1) / len(common) ** 2
    half = CONFIDENCE * math.sqrt(variance)
    return Share(len(common), mean, mean - half, mean + half)
