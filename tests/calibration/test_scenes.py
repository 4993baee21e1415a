"""The demo's world: splits that share nothing, shapes that do not touch, questions whose answers are right and give nothing away."""

import collections

import numpy as np
import pytest

from calibration.clips import plan_clip
from calibration.questions import CATEGORIES, CHOICE, FORMS, OPEN, YES_NO, questions_about
from calibration.scenes import APPEARS, STAYS, Scene, Shape, sample_scene
from export.model.prompt import LETTERS

CIRCLE = Shape("circle", "red", "big", "left", 0)
SQUARE = Shape("square", "blue", "small", "still", 1)
SCENE = Scene("striped", (CIRCLE, SQUARE))


def test_splits_share_no_scene():
    keys = {
        split: {sample_scene(np.random.default_rng([1, i]), split).key for i in range(400)} for split in ("train", "validation", "test")
    }
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not keys[one] & keys[other]


def test_the_order_of_the_shapes_is_no_part_of_a_key_but_every_property_is():
    assert Scene("dark", (CIRCLE, SQUARE)).key == Scene("dark", (SQUARE, CIRCLE)).key
    others = [Scene("bright", (CIRCLE, SQUARE)), Scene("dark", (CIRCLE,))]
    for change in ({"kind": "ring"}, {"colour": "pink"}, {"size": "small"}, {"motion": "up"}, {"order": 2}):
        others.append(Scene("dark", (Shape(**{**vars(CIRCLE), **change}), SQUARE)))
    keys = {scene.key for scene in others}
    assert len(keys) == len(others) and Scene("dark", (CIRCLE, SQUARE)).key not in keys


@pytest.mark.parametrize("number", range(12))
def test_shapes_are_inside_do_not_touch_and_move_as_they_say(number):
    clip = plan_clip("train", 0, number)
    for shape, track in zip(clip.scene.shapes, clip.tracks):
        reach = track.radius * max(1, track.stretch)
        assert (track.centres >= reach).all() and (track.centres <= 1 - reach).all()
        way = track.centres[track.leaves - 1] - track.centres[track.appears]
        if shape.moves:
            axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[shape.motion]
            assert way[axis] * sign > 0.25 and abs(way[1 - axis]) < 1e-9
        else:
            assert not way.any()
        if clip.scene.ordered:
            first, last = APPEARS[len(clip.scene.shapes)][shape.order]
            assert first <= track.appears <= last and track.leaves - track.appears == STAYS <= 16 - track.appears
        else:
            assert (track.appears, track.leaves) == (0, 16)
    for i, one in enumerate(clip.tracks):
        for other in clip.tracks[i + 1 :]:
            assert np.hypot(*(one.centres - other.centres).T).min() > one.radius + other.radius


def test_frames_without_their_order_do_not_say_what_came_first():
    """A clip backwards is as likely as the clip: every set of frames that show a shape, and of those that show two, is."""
    for starts in APPEARS.values():
        backwards = [(16 - STAYS - last, 16 - STAYS - first) for first, last in reversed(starts)]
        assert list(starts) == backwards


def test_a_clip_is_a_function_of_its_number():
    one, same, other = plan_clip("test", 3, 7), plan_clip("test", 3, 7), plan_clip("test", 3, 8)
    assert np.array_equal(one.draw(), same.draw()) and one.scene == same.scene
    assert other.scene != one.scene


def answers(scene: Scene, seeds: int = 60) -> dict[str, set[str]]:
    """Every answer that is ever given to a question's text; of a choice, the option's text."""
    found = collections.defaultdict(set)
    for seed in range(seeds):
        for question in questions_about(scene, np.random.default_rng(seed), 40):
            answer = question.options[LETTERS.index(question.answer)] if question.form == CHOICE else question.answer
            of_these = sorted(question.options) if "of these" in question.stem else ""
            found[f"{question.stem}{' ' if of_these else ''}{', '.join(of_these)}"].add(answer)
    return found


def test_answers_are_right():
    found = answers(SCENE)
    expected = {
        "What colour is the circle?": {"Red.", "red"}, "What is the blue shape?": {"Square.", "square"},
        "How big is the red shape?": {"Big.", "big"}, "How many shapes are there?": {"Two.", "two"},
        "What is the background like?": {"Striped.", "striped"},
        "In which direction does the circle move?": {"To the left.", "to the left"},
        "What is moving in this video?": {"A red circle."}, "Is the square moving?": {"No."}, "Is the circle moving?": {"Yes."},
        "Is there a ring?": {"No."}, "Is there a blue shape?": {"Yes."}, "Is the circle red?": {"Yes."}, "Is the circle green?": {"No."},
        "Does the circle appear before the square?": {"Yes."}, "Does the square appear before the circle?": {"No."},
        "Which of these shapes appears first? circle, square": {"circle"}, "Which of these colours appears first? blue, red": {"red"},
        "Which appears first, the square or the circle?": {"The circle."}, "Does the circle move to the right?": {"No."},
    }  # fmt: skip
    for text, answer in expected.items():
        assert found[text] == answer, text


def test_no_question_has_two_answers():
    for number in range(30):
        for text, given in answers(plan_clip("test", 0, number).scene, seeds=15).items():
            assert len({answer.strip(".").lower() for answer in given}) == 1, (text, given)


def test_what_the_scene_does_not_have_is_not_asked():
    still = Scene("dark", (Shape("ring", "pink", "big", "still", 0),))
    categories = {q.category for seed in range(20) for q in questions_about(still, np.random.default_rng(seed), 40)}
    assert not categories & {"direction", "order", "moving"} and {"colour", "count", "background"} <= categories
    both_move = Scene("dark", (CIRCLE, Shape("square", "blue", "small", "up", 0)))
    asked = {q.stem for seed in range(20) for q in questions_about(both_move, np.random.default_rng(seed), 40)}
    assert "What is moving in this video?" not in asked and not any(stem.startswith("Is the circle moving") for stem in asked)


def test_without_the_video_no_guess_pays():
    """The most common answer of a question's form and category is no more common than the others, but for the draw."""
    given = collections.defaultdict(collections.Counter)
    for number in range(1500):
        scene = sample_scene(np.random.default_rng([9, number]), "train")
        for question in questions_about(scene, np.random.default_rng([8, number]), 12):
            if question.form == OPEN and question.category in ("order", "moving"):
                continue  # they name the shapes of the scene: there are too many answers for a common one
            given[question.category, question.form][question.answer] += 1
    chance = {"colour": 1 / 6, "shape": 1 / 5, "size": 1 / 2, "count": 1 / 3, "direction": 1 / 4, "background": 1 / 4}
    assert {category for category, _ in given} == set(CATEGORIES) and {form for _, form in given} == set(FORMS)
    for (category, form), counts in given.items():
        share = counts.most_common(1)[0][1] / counts.total()
        fair = {YES_NO: 1 / 2, OPEN: chance.get(category, 1), CHOICE: max(1 / 4, chance.get(category, 1 / 4))}[form]
        if form == CHOICE and category in ("order", "size"):
            fair = 1 / 2
        assert share < fair + 4 * (fair * (1 - fair) / counts.total()) ** 0.5 + 0.01, (category, form, counts)
