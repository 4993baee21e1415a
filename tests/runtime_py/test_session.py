"""A conversation over the decoder's cache must be what one prefill of all of it would be, however its answers ended."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.errors import BundleError, PromptError
from export.model.prompt import first_turn, next_turn, opening_ids, question_ids, tokenize
from runtime_py.backends.eager import EagerBackend
from runtime_py.load import backend_of_bundle, load_tokenizer
from runtime_py.session import ANSWER_ROOM, Session
from runtime_py.stages import VISION, Pixels, compute_stages

DEMO = Path(__file__).parents[2] / "calibration" / "demo" / "checkpoint"
PIXELS = Pixels.of(list(np.random.default_rng(0).integers(0, 256, (16, 60, 80, 3), dtype=np.uint8)))
FIRST = [10, 11, 12, *[-200] * 16, 13, 14]
SECOND = [20, 21, 22, 23]
THIRD = [30, 31]


class Spy:
    """A backend that notes what is asked of it, computes the pictures' graphs once, and can be made to fail."""

    def __init__(self, backend: EagerBackend):
        self.backend, self.config, self.max_context = backend, backend.config, backend.max_context
        self.decoded: list[int] = []  # tokens of each decoder call
        self.logits: list[torch.Tensor] = []
        self.ran: list[str] = []
        self.fail_at = -1  # decoder call
        self._kept: dict[str, torch.Tensor] = {}

    def run(self, graph, *inputs):
        self.ran.append(graph)
        if graph == "token_embedding":
            return self.backend.run(graph, *inputs)
        if graph not in self._kept:
            self._kept[graph] = self.backend.run(graph, *inputs)
        return self._kept[graph]

    def decode(self, embeds, position):
        self.decoded.append(embeds.shape[0])
        if len(self.decoded) - 1 == self.fail_at:
            self.backend.decode(embeds, position)  # the cache is written, and then the interrupt arrives
            raise KeyboardInterrupt
        self.logits.append(self.backend.decode(embeds, position).clone())
        return self.logits[-1]

    def load(self, graphs):
        self.backend.load(graphs)

    def release(self, graphs):
        self.backend.release(graphs)

    def synchronize(self):
        self.backend.synchronize()

    def forget(self):
        self.decoded.clear(), self.logits.clear(), self.ran.clear()
        self.fail_at, self.max_context = -1, self.backend.max_context


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint(DEMO)


@pytest.fixture(scope="module")
def shared_spy(checkpoint):
    return Spy(EagerBackend(checkpoint))


@pytest.fixture(scope="module")
def bundle_spy(demo_bundle):
    return Spy(backend_of_bundle(open_bundle(demo_bundle)))


@pytest.fixture
def spy(shared_spy):
    shared_spy.forget()
    return shared_spy


@pytest.fixture
def session(spy):
    session = Session(spy)
    session.watch(PIXELS)
    return session


def says(*ids):
    """A sampler that answers these ids, whatever the logits."""
    script = iter(ids)
    return lambda logits: next(script)


def interrupted(*ids):
    """The same, and then Ctrl-C falls into the choice of a token."""

    script = iter(ids)

    def choose(logits):
        if (token := next(script, None)) is None:
            raise KeyboardInterrupt
        return token

    return choose


def stop(session):
    return min(session.stop_ids)


def answer(session, ids, sampler=None, take=None, **options):
    """The answer's ids, at most `take` of them, in the way that chat leaves an answer: by exhausting or dropping the iterator."""
    said = []
    with contextlib.suppress(KeyboardInterrupt):
        for token in session.answer(ids, sampler, **options):
            said.append(token)
            if len(said) == take:
                break
    return said


ENDINGS = {  # how a first answer ended: the turn, how many ids it said, and how many of them the cache does not hold yet
    "stop": (lambda s: answer(s, FIRST, says(50, 51, 52, stop(s))), 3, 0),
    "stop at once": (lambda s: answer(s, FIRST, says(stop(s))), 0, 0),
    "limit": (lambda s: answer(s, FIRST, says(50, 51, 52), max_new_tokens=3), 3, 1),
    "dropped": (lambda s: answer(s, FIRST, says(50, 51, 52, 53), take=3), 3, 1),
    "interrupted in sampling": (lambda s: answer(s, FIRST, interrupted(50, 51, 52)), 3, 1),
}


EIGHT_BITS = 0.05  # of the largest logit: activations that go to the next of 255 steps after sums in another order


def same_choice(turns: torch.Tensor, once: torch.Tensor) -> bool:
    """Logits within the tolerance, and the same best id unless the two best of `once` lie within it."""
    tolerance = EIGHT_BITS * float(once.abs().max())
    best, second = once.topk(2).values.tolist()
    near_tie = best - second <= tolerance
    return float((turns - once).abs().max()) <= tolerance and (near_tie or bool(turns.argmax() == once.argmax()))


def check_later_turn(spy, ending, rounds=False):
    """A third question in turns against one prefill of all that was said; `rounds`: activations are rounded on the way."""
    begin, length, _ = ENDINGS[ending]
    session = Session(spy)
    session.watch(PIXELS)
    said = begin(session)
    assert said == [50, 51, 52][:length]
    answer(session, SECOND, says(60, 61, stop(session)))
    spy.forget()
    third = answer(session, THIRD, max_new_tokens=5)
    in_turns = list(spy.logits)
    assert spy.decoded[0] == len(THIRD)  # its own tokens only

    spy.forget()
    fresh = Session(spy)
    fresh.watch(PIXELS)
    forced = says(*third, stop(fresh)) if rounds else None
    assert answer(fresh, [*FIRST, *said, *SECOND, 60, 61, *THIRD], forced, max_new_tokens=5) == third
    assert spy.decoded[0] == spy.config.visual_tokens + 5 + length + len(SECOND) + 2 + len(THIRD)
    assert len(in_turns) == len(spy.logits) == len(third) + (len(third) < 5)
    for step, (turns, once) in enumerate(zip(in_turns, spy.logits)):
        if rounds:
            assert same_choice(turns, once), step
        else:
            torch.testing.assert_close(turns, once, atol=1e-4, rtol=1e-4, msg=f"step {step}")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_later_turn_equals_one_prefill_of_the_whole_conversation(spy, ending):
    check_later_turn(spy, ending)


@pytest.mark.parametrize("ending", ENDINGS)
def test_so_it_does_from_a_bundle_whose_cache_is_inside_its_graph(bundle_spy, ending):
    bundle_spy.forget()
    check_later_turn(bundle_spy, ending, rounds=True)


@pytest.mark.parametrize("bundle", ["demo_fused", pytest.param("tiny_coreml_int4", marks=pytest.mark.full)])
def test_turns_equal_one_prefill_step_by_step_up_to_ties(bundle, request):
    """Of bundles that round on the way: three turns against their ids at once, the same answer fed to both."""
    spy = Spy(backend_of_bundle(open_bundle(request.getfixturevalue(f"{bundle}_bundle"))))
    session = Session(spy)
    session.watch(PIXELS)
    answer(session, FIRST, says(50, 51, 52, stop(session)))
    answer(session, SECOND, says(60, 61), max_new_tokens=2)
    spy.forget()
    answer(session, THIRD, says(70, 71, 72, stop(session)))
    in_turns = list(spy.logits)
    fresh = Session(spy)
    fresh.watch(PIXELS)
    spy.forget()
    answer(fresh, [*FIRST, 50, 51, 52, *SECOND, 60, 61, *THIRD], says(70, 71, 72, stop(fresh)))
    assert len(in_turns) == len(spy.logits) == 4
    assert all(same_choice(turns, once) for turns, once in zip(in_turns, spy.logits))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_second_question_prefills_only_its_own_tokens(session, spy, ending):
    begin, _, unfed = ENDINGS[ending]
    begin(session)
    before = session.position
    spy.forget()
    answer(session, SECOND, says(60, 61, stop(session)))
    assert spy.decoded == [unfed + len(SECOND), 1, 1]
    assert set(spy.ran) == {"token_embedding"}
    assert session.position == before + sum(spy.decoded)


@pytest.mark.parametrize("turn", ["first", "second"])
@pytest.mark.parametrize("call", [0, 2])  # the prefill, a later step
def test_an_interrupt_inside_the_decoder_loses_nothing_that_was_said(session, spy, turn, call):
    earlier = [] if turn == "first" else [*FIRST, *answer(session, FIRST, says(50, stop(session)))]
    spy.decoded.clear()
    spy.fail_at = call
    question = SECOND if earlier else FIRST
    said = answer(session, question, says(70, 71, 72, 73))
    assert said == [70, 71][:call]
    spy.forget()
    asked = [*question, *said] if said else []  # a question whose answer never began is not part of it
    then = SECOND if earlier or asked else FIRST
    resumed = answer(session, then, max_new_tokens=3)
    in_turns = list(spy.logits)

    spy.forget()
    fresh = Session(spy)
    fresh.watch(PIXELS)
    assert answer(fresh, [*earlier, *asked, *then], max_new_tokens=3) == resumed
    for turns, once in zip(in_turns, spy.logits, strict=True):
        torch.testing.assert_close(turns, once, atol=1e-4, rtol=1e-4)


def test_every_stop_id_ends_an_answer_and_is_not_part_of_it(session):
    assert len(session.stop_ids) >= 2
    questions = iter([FIRST, SECOND, THIRD])
    for end in sorted(session.stop_ids):
        assert answer(session, next(questions), says(80, 81, end, 82)) == [80, 81]


def test_the_answer_ends_where_the_context_is_full(session, spy):
    spy.max_context = spy.config.visual_tokens + 5 + 6  # the video, the question, and room for six
    assert answer(session, FIRST, says(*range(50, 90))) == [50, 51, 52, 53, 54, 55]
    assert session.full
    held = session.position
    spy.forget()
    spy.max_context = held + 1
    with pytest.raises(PromptError, match="context"):
        session.answer(SECOND)
    assert session.position == held and not spy.ran and not spy.decoded
    spy.max_context = held + 20  # nothing was lost: with room the conversation goes on
    assert answer(session, SECOND, says(60, stop(session))) == [60]
    assert spy.decoded == [1 + len(SECOND), 1]


def test_a_question_that_does_not_fit_costs_nothing(session, spy):
    spy.max_context = spy.config.visual_tokens + 5
    spy.ran.clear()
    with pytest.raises(PromptError, match="context"):
        session.answer(FIRST)
    assert not spy.ran and not spy.decoded
    spy.max_context += 1
    assert answer(session, FIRST, says(50, 51)) == [50]  # room for one token, and one is given


def test_a_model_that_breaks_down_leaves_the_conversation_as_it_was(session):
    answer(session, FIRST, says(50, 51), max_new_tokens=2)
    held = session.position

    def broken(logits):
        raise BundleError("not finite")

    with pytest.raises(BundleError):
        list(session.answer(SECOND, broken))
    assert session.position == held


def test_key_frames_are_those_of_the_stages(session, spy):
    stages = compute_stages(spy, PIXELS, FIRST, steps=1)
    selected = stages.values["selected_frames"]  # within chunks of 8
    assert session.watch(PIXELS) == [*selected[0].tolist(), *(selected[1] + 8).tolist()]
    assert session.stages_s.keys() == {"loading", *VISION}
    assert all(seconds > 0 for seconds in session.stages_s.values())


def test_watching_again_begins_anew(session, spy):
    begun = answer(session, FIRST, max_new_tokens=2)
    answer(session, SECOND, says(60), max_new_tokens=1)
    session.watch(PIXELS)
    assert session.position == 0 and not session.full
    spy.forget()
    assert answer(session, FIRST, max_new_tokens=2) == begun
    assert spy.decoded[0] == spy.config.visual_tokens + 5


def test_words_are_asked_in_the_release_template(checkpoint, spy):
    encode, _ = load_tokenizer(checkpoint.tokenizer_file, DEMO)
    session = Session(spy, encode)
    session.watch(PIXELS)
    list(session.ask("What moves?", says(50, 51), max_new_tokens=2))
    list(session.ask("Where to?", says(60), max_new_tokens=1))
    first = [token for token in tokenize(first_turn("What moves?"), encode) if token >= 0]
    second = tokenize(next_turn("Where to?"), encode)
    assert spy.decoded == [len(first) + spy.config.visual_tokens, 1, 1 + len(second)]
    assert session.prompt_ids("And then?") == tokenize(next_turn("And then?"), encode)
    with pytest.raises(PromptError, match="context"):
        session.prompt_ids("word " * 4096)


@pytest.fixture
def encode(checkpoint):
    return load_tokenizer(checkpoint.tokenizer_file, DEMO)[0]


WORDS = ("What moves?", "Where to?", "How many shapes are there?", "Which appears first?")


LONG = "word " * 3 * ANSWER_ROOM


def talk(session, *questions):
    """Questions and answers of five ids each."""
    for i, question in enumerate(questions):
        list(session.ask(question, says(*range(50 + 10 * i, 55 + 10 * i), stop(session))))


@pytest.fixture
def talked(spy, encode):
    """A long question and two short ones, in a context that a fourth does not fit."""
    session = Session(spy, encode)
    session.watch(PIXELS)
    talk(session, LONG, *WORDS[:2])
    spy.forget()
    spy.max_context = session.position + 5
    return session


def test_when_the_context_is_full_the_oldest_turns_are_forgotten_and_the_video_stays(talked, spy, encode):
    said = list(talked.ask(WORDS[2], max_new_tokens=3))
    in_turns = list(spy.logits)
    behind = [*question_ids(WORDS[0], encode), *range(60, 65), *tokenize(next_turn(WORDS[1]), encode), *range(70, 75)]
    behind += tokenize(next_turn(WORDS[2]), encode)
    assert talked.forgotten == 1 and spy.decoded[0] == len(behind) and set(spy.ran) == {"token_embedding"}
    spy.forget()
    fresh = Session(spy, encode)
    fresh.watch(PIXELS)
    assert answer(fresh, [*opening_ids(encode), -200, *behind], max_new_tokens=3) == said
    for turns, once in zip(in_turns, spy.logits, strict=True):
        torch.testing.assert_close(turns, once, atol=1e-4, rtol=1e-4)


def test_a_question_that_fits_but_leaves_no_room_for_an_answer_makes_room(talked, spy, encode):
    """Else its answer would be cut after a word or two, with turns in the cache that could have gone. A short answer needs less room."""
    question = tokenize(next_turn(WORDS[2]), encode)
    spy.max_context = talked.position + len(question) + ANSWER_ROOM - 1
    answer_ids = says(*range(50, 55), stop(talked))
    assert len(list(talked.ask(WORDS[2], answer_ids, max_new_tokens=ANSWER_ROOM - 1))) == 5
    assert talked.forgotten == 0
    spy.max_context = talked.position + len(question) + ANSWER_ROOM - 1
    list(talked.ask(WORDS[2], says(*range(50, 55), stop(talked))))
    assert talked.forgotten == 1


def test_as_many_of_the_last_turns_are_kept_as_leave_room_for_an_answer(talked, spy, encode):
    """The second turn, without which there would be room, stays where it just fits with it, and goes where it just does not."""
    kept = [*opening_ids(encode), *question_ids(WORDS[0], encode), *range(60, 65), *tokenize(next_turn(WORDS[1]), encode), *range(70, 75)]
    needed = VISUAL + len(kept) + len(tokenize(next_turn(WORDS[2]), encode)) + ANSWER_ROOM
    for room, forgotten in ((0, 1), (-1, 2)):
        held = talked._held
        spy.max_context = needed + room
        list(talked.ask(WORDS[2], says(stop(talked))))
        assert talked.forgotten == forgotten
        talked._held, talked.forgotten = held, 0


def test_where_no_turn_leaves_room_for_an_answer_all_are_forgotten(talked, spy, encode):
    spy.max_context = VISUAL + len(opening_ids(encode)) + len(question_ids(WORDS[2], encode)) + 5
    list(talked.ask(WORDS[2], says(stop(talked))))
    assert talked.forgotten == 3 and spy.decoded == [len(question_ids(WORDS[2], encode))]
    held = talked.position
    with pytest.raises(PromptError, match="do not fit"):  # what would not fit an empty conversation costs nothing
        talked.ask(LONG)
    assert talked.position == held and talked.forgotten == 3


def test_a_conversation_about_another_clip_has_forgotten_nothing(talked):
    list(talked.ask(WORDS[2], says(stop(talked))))
    talked.start_over()
    assert talked.forgotten == 0


def test_an_interrupt_while_turns_are_fed_in_again_loses_none_of_them(talked, spy, encode):
    spy.fail_at = 0
    with pytest.raises(KeyboardInterrupt):
        list(talked.ask(WORDS[2]))
    spy.forget()
    list(talked.ask(WORDS[3], says(stop(talked))))
    behind = [*question_ids(WORDS[0], encode), *range(60, 65), *tokenize(next_turn(WORDS[1]), encode), *range(70, 75)]
    assert talked.forgotten == 1 and spy.decoded == [len(behind) + len(tokenize(next_turn(WORDS[3]), encode))]


def test_the_video_can_be_prefilled_before_the_question(spy, encode):
    session = Session(spy, encode)
    session.watch(PIXELS)
    spy.forget()
    session.prefill_video()
    session.prefill_video()
    assert spy.decoded == [len(opening_ids(encode)) + VISUAL]
    spy.forget()
    said = list(session.ask(WORDS[0], max_new_tokens=3))
    assert spy.decoded[0] == len(question_ids(WORDS[0], encode))
    fresh = Session(spy, encode)
    fresh.watch(PIXELS)
    assert list(fresh.ask(WORDS[0], max_new_tokens=3)) == said


def test_a_session_asked_out_of_order_says_so(spy):
    with pytest.raises(ValueError, match="watch"):
        Session(spy).answer(FIRST)
    with pytest.raises(ValueError, match="tokenizer"):
        Session(spy).ask("What moves?")


OTHER = [10, 11, 12, *[-200] * 16, 15, 16, 17]
VISUAL = 2402


def test_another_conversation_begins_behind_the_same_video(session, spy):
    answer(session, FIRST, says(50, 51, stop(session)))
    answer(session, SECOND, says(52, stop(session)))
    spy.forget()
    session.start_over()
    answer(session, OTHER, says(60, stop(session)))
    assert spy.decoded[0] == 3 and "image_encoder" not in spy.ran  # its own words alone
    behind = spy.logits[0]
    fresh = Session(spy)
    fresh.watch(PIXELS)
    spy.forget()
    answer(fresh, OTHER, says(60, stop(fresh)))
    assert spy.decoded[0] == 3 + VISUAL + 3
    assert torch.allclose(behind, spy.logits[0], atol=1e-4 * float(behind.abs().max()))


def test_a_later_turn_of_the_other_conversation_sees_only_it(session, spy):
    def ask_twice(session: Session) -> torch.Tensor:
        answer(session, OTHER, says(60, stop(session)))
        spy.forget()
        answer(session, SECOND, says(stop(session)))
        return spy.logits[0]

    answer(session, FIRST, says(50, 51, stop(session)))
    session.start_over()
    behind = ask_twice(session)
    fresh = Session(spy)
    fresh.watch(PIXELS)
    alone = ask_twice(fresh)
    assert torch.allclose(behind, alone, atol=1e-4 * float(alone.abs().max()))


@pytest.mark.parametrize("ids", [[9, 11, 12, *OTHER[3:]], [10, 11, *OTHER[3:]]], ids=["other words before it", "fewer words before it"])
def test_a_conversation_that_opens_otherwise_prefills_the_video_again(ids, session, spy):
    answer(session, FIRST, says(50, stop(session)))
    session.start_over()
    spy.forget()
    answer(session, ids, says(60, stop(session)))
    assert spy.decoded[0] == len([i for i in ids if i >= 0]) + VISUAL


def test_a_video_whose_prefill_was_interrupted_is_not_taken_for_held(session, spy):
    spy.fail_at = 0
    answer(session, FIRST, says(50))
    session.start_over()
    spy.forget()
    answer(session, OTHER, says(60, stop(session)))
    assert spy.decoded[0] == 3 + VISUAL + 3


def test_another_clip_is_prefilled_anew(session, spy):
    answer(session, FIRST, says(50, stop(session)))
    session.watch(PIXELS)
    spy.forget()
    answer(session, OTHER, says(60, stop(session)))
    assert spy.decoded[0] == 3 + VISUAL + 3
