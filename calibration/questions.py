"""Questions about a scene and their answers, in three forms: open, yes or no, and multiple choice.

Answers are balanced: without the video no answer is more likely than another of its question's form, so chance is what it says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from calibration.scenes import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, SIZES, STILL, Scene, Shape
from export.model.prompt import LETTERS, multiple_choice

OPEN, YES_NO, CHOICE = "open", "yes/no", "choice"
FORMS = (OPEN, YES_NO, CHOICE)
CATEGORIES = ("colour", "shape", "size", "count", "presence", "moving", "direction", "order", "background")
NUMBERS = ("one", "two", "three")
OPTIONS = 4  # of a multiple choice, or as many as there are answers
TOWARDS = {"left": "to the left", "right": "to the right", "up": "up", "down": "down"}


@dataclasses.dataclass(frozen=True)
class Question:
    """`stem` is the question, without the `options` of a multiple choice; `answer` is what counts, and `reply` the whole text that the
    model is taught: a choice, or a yes or no, comes after what it follows from, "Blue, so no.", which a small model can learn."""

    category: str
    form: str
    stem: str
    answer: str
    options: tuple[str, ...] = ()
    reason: str = ""

    @property
    def reply(self) -> str:
        if not self.reason:
            return self.answer
        verdict = f"({self.answer})" if self.options else self.answer.lower().strip(".")
        return f"{self.reason}, so {verdict}."

    @property
    def text(self) -> str:
        """The question as the model is asked it."""
        return multiple_choice(self.stem, self.options) if self.options else self.stem


def questions_about(scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
    """`count` questions with different texts, the categories in turn as far as the scene has them, in a random order."""
    by_category = {category: list(ask(scene, rng)) for category, ask in _ASK.items()}
    chosen: dict[str, Question] = {}
    while len(chosen) < count and any(by_category.values()):
        for category in rng.permutation(CATEGORIES):
            questions = by_category[category]
            if questions and len(chosen) < count:
                question = questions.pop(int(rng.integers(len(questions))))
                chosen.setdefault(question.text, question)
    return list(chosen.values())


def _forms(category: str, rng: np.random.Generator, text: str, answers: Sequence[str], answer: str, claim: str) -> Iterator[Question]:
    """The three forms of one question. `claim` has a gap for an answer: "Is the circle {}?"."""
    yield Question(category, OPEN, text, f"{answer.capitalize()}.")
    yield _yes_no(category, claim, rng, answers, answer)
    yield _choice(category, rng, text, answers, answer)


def _yes_no(category: str, claim: str, rng: np.random.Generator, answers: Sequence[str], answer: str) -> Question:
    right = bool(rng.random() < 0.5)
    said = answer if right else str(rng.choice([other for other in answers if other != answer]))
    return Question(category, YES_NO, claim.format(said), "Yes." if right else "No.", reason=answer.capitalize())


def _choice(category: str, rng: np.random.Generator, text: str, answers: Sequence[str], answer: str) -> Question:
    others = rng.permutation([other for other in answers if other != answer])[: OPTIONS - 1]
    options = tuple(str(option) for option in rng.permutation([answer, *others]))
    return Question(category, CHOICE, text, LETTERS[options.index(answer)], options, answer.capitalize())


def _names(shape: Shape) -> tuple[str, str]:
    """How a shape can be named: by its kind or by its colour."""
    return f"the {shape.kind}", f"the {shape.colour} shape"


def _colour(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for shape in scene.shapes:
        yield from _forms("colour", rng, f"What colour is the {shape.kind}?", list(COLOURS), shape.colour, f"Is the {shape.kind} {{}}?")


def _shape(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for shape in scene.shapes:
        yield from _forms("shape", rng, f"What is the {shape.colour} shape?", SHAPES, shape.kind, f"Is the {shape.colour} shape a {{}}?")


def _size(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for shape in scene.shapes:
        name = str(rng.choice(_names(shape)))
        yield from _forms("size", rng, f"How big is {name}?", list(SIZES), shape.size, f"Is {name} {{}}?")


def _count(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    count = NUMBERS[len(scene.shapes) - 1]
    yield from _forms("count", rng, "How many shapes are there?", NUMBERS, count, "Is the number of shapes {}?")


def _presence(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for names, present, text in (
        (SHAPES, [shape.kind for shape in scene.shapes], "Is there a {}?"),
        (list(COLOURS), [shape.colour for shape in scene.shapes], "Is there a {} shape?"),
    ):
        there = bool(rng.random() < 0.5)
        said = str(rng.choice(present if there else [name for name in names if name not in present]))
        yield Question("presence", YES_NO, text.format(said), "Yes." if there else "No.")


def _moving(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    movers = [shape for shape in scene.shapes if shape.moves]
    resting = [shape for shape in scene.shapes if not shape.moves]
    if movers and resting:  # else the answer is the same for every shape, and the count would give it away
        moving = bool(rng.random() < 0.5)
        shape = (movers if moving else resting)[0]
        yield Question("moving", YES_NO, f"Is {rng.choice(_names(shape))} moving?", "Yes." if moving else "No.")
    if len(movers) == 1:
        mover = movers[0]
        yield Question("moving", OPEN, "What is moving in this video?", f"A {mover.colour} {mover.kind}.")
        yield _choice("moving", rng, "Which shape is moving?", SHAPES, mover.kind)
        yield _choice("moving", rng, "What colour is the moving shape?", list(COLOURS), mover.colour)


def _direction(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    for shape in scene.shapes:
        if shape.motion != STILL:
            name = str(rng.choice(_names(shape)))
            text = f"In which direction does {name} move?"
            yield from _forms("direction", rng, text, [TOWARDS[d] for d in DIRECTIONS], TOWARDS[shape.motion], f"Does {name} move {{}}?")


def _order(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    if not scene.ordered:
        return
    for i, earlier in enumerate(scene.shapes):
        for later in scene.shapes[i + 1 :]:
            way = int(rng.integers(2))  # by kind or by colour
            names = [_names(earlier)[way], _names(later)[way]]
            one, other = rng.permutation(names)
            first = bool(rng.random() < 0.5)
            yield Question("order", OPEN, f"Which appears first, {one} or {other}?", f"{names[0].capitalize()}.")
            asked = names if first else names[::-1]
            text, reason = f"Does {asked[0]} appear before {asked[1]}?", f"{names[0].capitalize()} first"
            yield Question("order", YES_NO, text, "Yes." if first else "No.", reason=reason)
            kinds = (earlier.kind, later.kind) if way == 0 else (earlier.colour, later.colour)
            what = "shapes" if way == 0 else "colours"
            yield _choice("order", rng, f"Which of these {what} appears first?", kinds, kinds[0])


def _background(scene: Scene, rng: np.random.Generator) -> Iterator[Question]:
    yield from _forms("background", rng, "What is the background like?", BACKGROUNDS, scene.background, "Is the background {}?")


_ASK = dict(zip(CATEGORIES, (_colour, _shape, _size, _count, _presence, _moving, _direction, _order, _background)))
