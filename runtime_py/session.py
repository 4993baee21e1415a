"""A conversation about one video: watch, ask, ask again. It knows no backend.

The decoder's cache holds the conversation so far; a later question prefills its own tokens only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch import Tensor

from export.model.prompt import first_turn, next_turn, tokenize
from runtime_py.backends.base import GraphBackend
from runtime_py.sampling import Sampler
from runtime_py.stages import Pixels, check_fits, embed, prompt_embeds, visual_tokens

MAX_NEW_TOKENS = 1024  # the release's limit


class Session:
    """Runs one conversation over a backend. `encode` turns text into ids; without it only ids can be asked."""

    def __init__(self, backend: GraphBackend, encode: Callable[[str], Sequence[int]] | None = None):
        self.backend = backend
        self.encode = encode
        self.stop_ids = frozenset(backend.config.stop_ids)
        self.stages_s: dict[str, float] = {}  # seconds of each graph while watching
        self.position = 0  # tokens in the cache
        self._visual: Tensor | None = None  # [V, D] until the first question takes them in
        self._unfed: list[int] = []  # tokens of the answer that the cache does not hold yet

    def watch(self, frames: Sequence[np.ndarray]) -> list[int]:
        """Take in a clip, uint8 RGB [H, W, 3] frames as sampled, and begin a conversation. Returns the key frames' indices."""
        self.position, self._unfed = 0, []
        self.stages_s = {}
        started = time.perf_counter()
        pixels = Pixels.of(frames)
        self.stages_s["preprocess"] = time.perf_counter() - started
        picked: list[int] = []

        def record(name: str, value: Tensor) -> Tensor:
            if name == "selected_frames":
                picked.extend(int(chunk * 8 + i) for chunk, row in enumerate(value) for i in row)
            return value

        self._visual = visual_tokens(_Timed(self.backend, self.stages_s), pixels, record)
        return picked

    def ask(self, question: str, sampler: Sampler | None = None, max_new_tokens: int = MAX_NEW_TOKENS) -> Iterator[int]:
        """Ask in words; yields the answer's ids as they come."""
        if self.encode is None:
            raise ValueError("a session without a tokenizer is asked in ids: use answer()")
        text = next_turn(question) if self.position else first_turn(question)
        return self.answer(tokenize(text, self.encode), sampler, max_new_tokens)

    def answer(self, ids: Sequence[int], sampler: Sampler | None = None, max_new_tokens: int = MAX_NEW_TOKENS) -> Iterator[int]:
        """Prefill `ids` behind what the cache holds and yield the answer's ids until a stop id, the limit, or a full context.

        The first turn's ids hold a run of placeholders for the video. An iterator that is closed early (Ctrl-C) leaves the
        conversation whole: what was yielded belongs to it.

        Raises:
            PromptError: before anything is computed, where the ids do not fit the context.
        """
        sampler = sampler or Sampler()
        if self.position == 0:
            if self._visual is None:
                raise ValueError("watch() a clip before the first question")
            text_tokens = sum(token >= 0 for token in ids)
            check_fits(self.backend, 0, text_tokens + self._visual.shape[0])
            embeds = prompt_embeds(self.backend, ids, self._visual)
        else:
            ids = self._unfed + list(ids)
            check_fits(self.backend, self.position, len(ids))
            embeds = embed(self.backend, ids)
        return self._generate(embeds, sampler, max_new_tokens)

    def _generate(self, embeds: Tensor, sampler: Sampler, max_new_tokens: int) -> Iterator[int]:
        for step in range(max_new_tokens):
            logits = self.backend.decode(embeds, self.position)
            self.position += embeds.shape[0]
            self._unfed = []
            token = sampler(logits)
            if token in self.stop_ids:
                return
            self._unfed = [token]
            yield token
            if self.position + 1 >= self.backend.max_context or step + 1 == max_new_tokens:
                return
            embeds = embed(self.backend, [token])


class _Timed:
    """A backend that notes the seconds of each graph."""

    def __init__(self, backend: GraphBackend, seconds: dict[str, float]):
        self._backend, self._seconds = backend, seconds
        self.config = backend.config

    def run(self, graph: str, *inputs: Tensor) -> Tensor:
        started = time.perf_counter()
        output = self._backend.run(graph, *inputs)
        self._backend.synchronize()
        self._seconds[graph] = time.perf_counter() - started
        return output
