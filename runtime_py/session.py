"""A conversation about one video: watch, ask, ask again. It knows no backend.

The decoder's cache holds the conversation so far; a later question prefills its own tokens only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from export.config import CHUNK_FRAMES
from export.model.prompt import first_turn, next_turn, split_at_visual_tokens, tokenize
from runtime_py.backends.base import GraphBackend
from runtime_py.sampling import Sampler
from runtime_py.stages import Pixels, check_fits, embed, prompt_embeds, visual_tokens
from runtime_py.timing import TimedBackend

MAX_NEW_TOKENS = 1024  # the release's limit


class Session:
    """Runs one conversation over a backend. `encode` turns text into ids; without it only ids can be asked."""

    def __init__(self, backend: GraphBackend, encode: Callable[[str], Sequence[int]] | None = None):
        self.backend = backend
        self.encode = encode
        self.stop_ids = frozenset(backend.config.stop_ids)
        self.stages_s: dict[str, float] = {}  # seconds of each graph while watching
        self._visual: Tensor | None = None  # [V, D]
        self._opening: list[int] | None = None  # the ids before the video, where the cache begins with them and the video
        # Tokens in the cache, and those of the answer that it does not hold yet. One value: an interrupt finds both old or both new.
        self._held: tuple[int, tuple[int, ...]] = (0, ())

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self._held[0]

    @property
    def full(self) -> bool:
        """Whether the conversation has as many tokens as the context."""
        position, unfed = self._held
        return position + len(unfed) >= self.backend.max_context

    def watch(self, pixels: Pixels) -> list[int]:
        """Take in a clip and begin a conversation. The pixels are not kept.

        Returns the key frames' indices, ascending, of 16: those beyond the frames that were sampled are padding.
        """
        self._visual, self._opening, self._held = None, None, (0, ())
        self.stages_s = {}
        picked: list[int] = []

        def record(name: str, value: Tensor) -> Tensor:
            if name == "selected_frames":
                picked.extend(int(chunk * CHUNK_FRAMES + i) for chunk, row in enumerate(value) for i in row)
            return value

        self._visual = visual_tokens(TimedBackend(self.backend, self.stages_s), pixels, record)
        return picked

    def prompt_ids(self, question: str) -> list[int]:
        """The ids of a question in words, as the conversation's next turn.

        Raises:
            PromptError: they do not fit the context.
        """
        if self.encode is None:
            raise ValueError("a session without a tokenizer is asked in ids: use answer()")
        text = next_turn(question) if self.position else first_turn(question)
        ids = tokenize(text, self.encode)
        self._check_fits(ids)
        return ids

    def ask(self, question: str, sampler: Sampler | None = None, max_new_tokens: int = MAX_NEW_TOKENS) -> Iterator[int]:
        """Ask in words; yields the answer's ids as they come."""
        return self.answer(self.prompt_ids(question), sampler, max_new_tokens)

    def answer(self, ids: Sequence[int], sampler: Sampler | None = None, max_new_tokens: int = MAX_NEW_TOKENS) -> Iterator[int]:
        """Prefill `ids` behind what the cache holds and yield the answer's ids until a stop id, the limit, or a full context.

        The first turn's ids hold a run of placeholders for the video. An iterator that is closed early or interrupted (Ctrl-C)
        leaves the conversation whole: what was yielded belongs to it, and a question whose answer never began does not.

        Raises:
            PromptError: before anything is computed, where the ids do not fit the context.
        """
        self._check_fits(ids)
        if self.position == 0:
            start, embeds = self._first_turn(ids)
            return self._generate(embeds, start, sampler or Sampler(), max_new_tokens, split_at_visual_tokens(ids)[0])
        embeds = embed(self.backend, [*self._held[1], *ids])
        return self._generate(embeds, self.position, sampler or Sampler(), max_new_tokens, self._opening)

    def start_over(self) -> None:
        """Begin another conversation about the same clip: its video is in the cache already, only the question is prefilled."""
        self._held = (0, ())

    def _first_turn(self, ids: Sequence[int]) -> tuple[int, Tensor]:
        """Where a first turn begins in the cache, and its embeddings: without the opening, where the cache holds it already."""
        if self._visual is None:
            raise ValueError("watch() a clip before the first question")
        before, after = split_at_visual_tokens(ids)
        if before == self._opening and after:
            return len(before) + self._visual.shape[0], embed(self.backend, after)
        self._opening = None  # until it is in the cache: an interrupt may come first
        return 0, prompt_embeds(self.backend, ids, self._visual)

    def _check_fits(self, ids: Sequence[int]) -> None:
        position, unfed = self._held
        if position == 0:
            new = sum(token >= 0 for token in ids) + self.backend.config.visual_tokens
        else:
            new = len(unfed) + len(ids)
        check_fits(self.backend, position, new)

    def _generate(self, embeds: Tensor, position: int, sampler: Sampler, max_new_tokens: int, opening: list[int] | None) -> Iterator[int]:
        for step in range(max_new_tokens):
            logits = self.backend.decode(embeds, position)
            self._opening = opening
            position += embeds.shape[0]
            token = sampler(logits)
            if token in self.stop_ids:
                self._held = (position, ())
                return
            self._held = (position, (token,))
            yield token
            if self.full or step + 1 == max_new_tokens:
                return
            embeds = embed(self.backend, [token])
