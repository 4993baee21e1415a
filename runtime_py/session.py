"""A conversation about one video: watch, ask, ask again. It knows no backend.

The decoder's cache holds the conversation so far; a later question prefills its own tokens only. What stands before the first
question, the system's words and the video, is the same in every conversation: it is prefilled once, others begin behind it
(`start_over`), and `runtime_py.snapshot` keeps it across processes.

When a question does not leave room for an answer any more, the oldest turns are forgotten: the video stays, and as many of the last
turns as leave that room; `forgotten` counts the others. What is kept is fed in as the ids that were fed and chosen before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from torch import Tensor

from export.config import CHUNK_FRAMES, IMAGE_TOKENS_PLACEHOLDER
from export.model.prompt import Encode, next_turn, opening_ids, question_ids, split_at_visual_tokens, tokenize
from runtime_py.backends.base import GraphBackend
from runtime_py.sampling import Sampler
from runtime_py.stages import VISION, Pixels, check_fits, embed, fits, prompt_embeds, visual_tokens
from runtime_py.timing import TimedBackend

MAX_NEW_TOKENS = 1024  # the release's limit
ANSWER_ROOM = 128  # tokens that forgetting leaves for an answer


@dataclasses.dataclass(frozen=True)
class Turn:
    """A question and its answer, as ids. `first`: how the question reads behind the video, `later`: behind another answer; one of
    them is missing where the question was asked in ids."""

    first: tuple[int, ...] | None
    later: tuple[int, ...] | None
    answer: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Held:
    """What the cache holds, as one value, so that an interrupt finds it old or new: its tokens, those of the last answer that it does
    not hold yet, and the conversation."""

    position: int = 0
    unfed: tuple[int, ...] = ()
    turns: tuple[Turn, ...] = ()


@dataclasses.dataclass(frozen=True)
class State:
    """A session but for the cache's contents: the conversation, the ids before the video where the cache begins with them and the video,
    the turns that did not fit any more, and the video's tokens [V, D]."""

    held: Held
    opening: tuple[int, ...] | None
    forgotten: int
    visual: Tensor

    @property
    def filled(self) -> int:
        """Tokens of the cache that mean something."""
        prefix = len(self.opening) + self.visual.shape[0] if self.opening is not None else 0
        return max(self.held.position, prefix)


class Session:
    """Runs one conversation over a backend. `encode` turns text into ids; without it only ids can be asked.

    The graphs that watched a clip are freed until the next one, which loads them again in a quarter of a second (at the released
    size): a conversation runs in half the memory. `keep_encoders`: where one clip follows another.
    """

    def __init__(self, backend: GraphBackend, encode: Encode | None = None, keep_encoders: bool = False):
        self.backend = backend
        self.encode = encode
        self.keep_encoders = keep_encoders
        self.stop_ids = frozenset(backend.config.stop_ids)
        self.stages_s: dict[str, float] = {}  # seconds of each graph while watching
        self.forgotten = 0  # turns of this conversation that did not fit any more
        self._visual: Tensor | None = None  # [V, D]
        self._opening: tuple[int, ...] | None = None  # the ids before the video, where the cache begins with them and the video
        self._held = Held()

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self._held.position

    @property
    def full(self) -> bool:
        """Whether the conversation has as many tokens as the context."""
        return self._held.position + len(self._held.unfed) >= self.backend.max_context

    def state(self) -> State:
        """What another process needs to go on, beside the cache's contents."""
        return State(self._held, self._opening, self.forgotten, self._watched())

    def resume(self, state: State) -> None:
        """Go on where another session's `state` says; the cache holds what that one's held."""
        self._held, self._opening, self.forgotten, self._visual = state.held, state.opening, state.forgotten, state.visual

    def watch(self, pixels: Pixels) -> list[int]:
        """Take in a clip and begin a conversation. The pixels are not kept.

        Returns the key frames' indices, ascending, of 16: those beyond the frames that were sampled are padding.
        """
        self._visual, self._opening = None, None
        self.start_over()
        self.stages_s = {}
        picked: list[int] = []

        def record(name: str, value: Tensor) -> Tensor:
            if name == "selected_frames":
                picked.extend(int(chunk * CHUNK_FRAMES + i) for chunk, row in enumerate(value) for i in row)
            return value

        self._visual = visual_tokens(TimedBackend(self.backend, self.stages_s), pixels, record)
        if not self.keep_encoders:
            self.backend.release(VISION)
        return picked

    def prefill_video(self) -> None:
        """Put the system's words and the video into the cache, ahead of the first question: while it is still being asked, say."""
        if self._opening is not None or self._held.position:
            return
        opening = opening_ids(self._tokenizer())
        check_fits(self.backend, 0, len(opening) + self.backend.config.visual_tokens)
        self.backend.decode(prompt_embeds(self.backend, [*opening, IMAGE_TOKENS_PLACEHOLDER], self._watched()), 0)
        self._opening = tuple(opening)

    def prompt_ids(self, question: str) -> list[int]:
        """The ids of a question in words, as the conversation's next turn.

        Raises:
            PromptError: they do not fit the context, even where all earlier turns are forgotten.
        """
        return self._prompt(self._turn(question))

    def ask(self, question: str, sampler: Sampler | None = None, max_new_tokens: int = MAX_NEW_TOKENS) -> Iterator[int]:
        """Ask in words; yields the answer's ids as they come. Where the question leaves no room for an answer (ANSWER_ROOM tokens, or
        `max_new_tokens`), the oldest turns are forgotten first."""
        turn = self._turn(question)
        ids = self._prompt(turn)
        whole = self.position > 0 or not self._held.turns  # else a first token behind what was kept never came
        room = min(ANSWER_ROOM, max_new_tokens)
        if whole and self._fits(ids, room if self._held.turns else 1):
            return self._answer(ids, turn, sampler, max_new_tokens)
        kept, ids = self._shortened(turn, room)
        self.forgotten += len(self._held.turns) - len(kept)
        self._held = Held(turns=kept)
        return self._answer(ids, turn, sampler, max_new_tokens)

    def answer(self, ids: Sequence[int], sampler: Sampler | None = None, max_new_tokens: int = MAX_NEW_TOKENS) -> Iterator[int]:
        """Prefill `ids` behind what the cache holds and yield the answer's ids until a stop id, the limit, or a full context.

        The first turn's ids hold a run of placeholders for the video. An iterator that is closed early or interrupted (Ctrl-C)
        leaves the conversation whole: what was yielded belongs to it, and a question whose answer never began does not.

        Raises:
            PromptError: before anything is computed, where the ids do not fit the context.
        """
        self._check_fits(ids)
        if self.position:
            return self._answer(ids, Turn(None, tuple(ids)), sampler, max_new_tokens)
        self._held = Held()
        return self._answer(ids, Turn(tuple(split_at_visual_tokens(ids)[1]), None), sampler, max_new_tokens)

    def start_over(self) -> None:
        """Begin another conversation about the same clip: its video is in the cache already, only the question is prefilled."""
        self._held, self.forgotten = Held(), 0

    def _answer(self, ids: Sequence[int], turn: Turn, sampler: Sampler | None, max_new_tokens: int) -> Iterator[int]:
        if self.position == 0:
            start, embeds = self._first_turn(ids)
            opening = tuple(split_at_visual_tokens(ids)[0])
            return self._generate(embeds, start, turn, sampler or Sampler(), max_new_tokens, opening)
        embeds = embed(self.backend, [*self._held.unfed, *ids])
        return self._generate(embeds, self.position, turn, sampler or Sampler(), max_new_tokens, self._opening)

    def _turn(self, question: str) -> Turn:
        encode = self._tokenizer()
        return Turn(tuple(question_ids(question, encode)), tuple(tokenize(next_turn(question), encode)))

    def _prompt(self, turn: Turn) -> list[int]:
        """The ids of `turn` as the conversation's next; errors as `prompt_ids`."""
        from_the_beginning = self._from_the_beginning(turn)
        ids = list(turn.later or ()) if self.position else from_the_beginning
        if not self._fits(ids):
            check_fits(self.backend, 0, self._tokens(from_the_beginning))
        return ids

    def _from_the_beginning(self, first: Turn, later: Sequence[Turn] = ()) -> list[int]:
        """The ids of a whole conversation, its last answer included."""
        ids = [*opening_ids(self._tokenizer()), IMAGE_TOKENS_PLACEHOLDER, *(first.first or ()), *first.answer]
        for one in later:
            ids += [*(one.later or ()), *one.answer]
        return ids

    def _shortened(self, turn: Turn, room: int) -> tuple[tuple[Turn, ...], list[int]]:
        """As many of the last turns as leave `room` behind `turn`, and the ids of all that from the beginning on."""
        for forgotten in range(len(self._held.turns) + 1):
            kept = self._held.turns[forgotten:]
            first, *later = (*kept, turn)
            if first.first is None or any(one.later is None for one in later):
                continue
            ids = self._from_the_beginning(first, later)
            if not kept or fits(self.backend, 0, self._tokens(ids), room):
                return kept, ids
        raise AssertionError("a turn in words fits by itself: prompt_ids checks it")

    def _first_turn(self, ids: Sequence[int]) -> tuple[int, Tensor]:
        """Where a first turn begins in the cache, and its embeddings: without the opening, where the cache holds it already."""
        visual = self._watched()
        before, after = split_at_visual_tokens(ids)
        if tuple(before) == self._opening and after:
            return len(before) + visual.shape[0], embed(self.backend, after)
        self._opening = None  # until it is in the cache: an interrupt may come first
        return 0, prompt_embeds(self.backend, ids, visual)

    def _tokenizer(self) -> Encode:
        if self.encode is None:
            raise ValueError("a session without a tokenizer is asked in ids: use answer()")
        return self.encode

    def _watched(self) -> Tensor:
        if self._visual is None:
            raise ValueError("watch() a clip before the first question")
        return self._visual

    def _tokens(self, ids: Sequence[int]) -> int:
        """Tokens that a first turn's ids take in the cache."""
        return sum(token >= 0 for token in ids) + self.backend.config.visual_tokens

    def _fits(self, ids: Sequence[int], room: int = 1) -> bool:
        return fits(self.backend, *self._growth(ids), room)

    def _check_fits(self, ids: Sequence[int]) -> None:
        check_fits(self.backend, *self._growth(ids))

    def _growth(self, ids: Sequence[int]) -> tuple[int, int]:
        """Tokens in the cache, and how many come behind them."""
        if self.position == 0:
            return 0, self._tokens(ids)
        return self.position, len(self._held.unfed) + len(ids)

    def _generate(
        self, embeds: Tensor, position: int, turn: Turn, sampler: Sampler, max_new_tokens: int, opening: tuple[int, ...] | None
    ) -> Iterator[int]:
        earlier = self._held.turns
        for step in range(max_new_tokens):
            logits = self.backend.decode(embeds, position)
            self._opening = opening
            position += embeds.shape[0]
            token = sampler(logits)
            if token in self.stop_ids:
                self._held = Held(position, (), (*earlier, turn))
                return
            turn = dataclasses.replace(turn, answer=(*turn.answer, token))
            self._held = Held(position, (token,), (*earlier, turn))
            yield token
            if self.full or step + 1 == max_new_tokens:
                return
            embeds = embed(self.backend, [token])
