"""An answer's text while its ids arrive."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class TextStream:
    """Ids in, text out, in pieces that hold whole characters only. All pieces together are the text of all ids.

    Bytes that do not yet make a character wait for the next ids; special tokens have no text.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._given = 0  # characters

    def step(self, token: int) -> str:
        """The text that this id completes, often the empty string."""
        self._ids.append(token)
        return self._give(self._stream.step(self._tokenizer, token) or "")

    def flush(self) -> str:
        """What still waits when no id follows: bytes that stayed half a character become U+FFFD."""
        return self._give(self._tokenizer.decode(self._ids, skip_special_tokens=True)[self._given :])

    def _give(self, text: str) -> str:
        self._given += len(text)
        return text
