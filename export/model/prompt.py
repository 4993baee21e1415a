"""The prompt of the release: ChatML around the visual placeholders, tokenized piece by piece.

`<image>` stands for id -200; a run of it, of any length, is one placeholder for all visual tokens.
"""

from collections.abc import Callable, Sequence

from export.config import FRAMES, IMAGE_TOKENS_PLACEHOLDER
from export.errors import PromptError

Encode = Callable[[str], Sequence[int]]

IMAGE_TEXT = "<image>"
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
USER = "<|im_start|>user\n"
END_OF_TURN = "<|im_end|>"
ASSISTANT = "<|im_start|>assistant\n"


def first_turn(question: str) -> str:
    """The text of a conversation's first turn, up to where the answer begins."""
    return f"{SYSTEM}{USER}{IMAGE_TEXT * FRAMES}\n{escape(question)}{END_OF_TURN}\n{ASSISTANT}"


def next_turn(question: str) -> str:
    """The text after an answer, whose own end-of-turn token is not in the cache yet, up to the next answer."""
    return f"{END_OF_TURN}\n{USER}{escape(question)}{END_OF_TURN}\n{ASSISTANT}"


def escape(question: str) -> str:
    """A user's text with the control tokens taken out: it must not open a turn or stand for a picture."""
    for control in (IMAGE_TEXT, "<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        question = question.replace(control, " ")
    return question


def tokenize(text: str, encode: Encode) -> list[int]:
    """Ids of a prompt: each piece between `<image>` marks is tokenized on its own, each mark becomes -200."""
    ids: list[int] = []
    for i, piece in enumerate(text.split(IMAGE_TEXT)):
        if i:
            ids.append(IMAGE_TOKENS_PLACEHOLDER)
        ids.extend(encode(piece) if piece else [])
    return ids


def split_at_visual_tokens(ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """The ids before and after the run of placeholders."""
    ids = list(ids)
    places = [i for i, token in enumerate(ids) if token == IMAGE_TOKENS_PLACEHOLDER]
    if not places:
        raise PromptError(f"the prompt has no visual placeholder (id {IMAGE_TOKENS_PLACEHOLDER}): put one where the video belongs")
    first, last = places[0], places[-1]
    if last - first + 1 != len(places):
        raise PromptError(f"the visual placeholders (id {IMAGE_TOKENS_PLACEHOLDER}) must stand in one run")
    return ids[:first], ids[last + 1 :]


def opening_ids(encode: Encode) -> list[int]:
    """The ids before the visual tokens, the same in every first turn."""
    return split_at_visual_tokens(tokenize(first_turn(""), encode))[0]


def question_ids(question: str, encode: Encode) -> list[int]:
    """The ids behind the visual tokens of a first turn."""
    return split_at_visual_tokens(tokenize(first_turn(question), encode))[1]


def answer_ids(answer: str, encode: Encode) -> list[int]:
    """The ids of a whole answer, its end of turn among them."""
    return [*encode(answer), *encode(END_OF_TURN)]


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def multiple_choice(question: str, options: Sequence[str]) -> str:
    """A question with lettered options; the answer is a letter."""
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options)]
    return "\n".join([question, *lines, "Answer with the letter."])
