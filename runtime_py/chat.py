"""`python -m runtime_py.chat`: questions about a video.

    python -m runtime_py.chat --bundle bundles/demo --video holiday.mp4 --prompt "What happens here?"
    python -m runtime_py.chat --bundle bundles/demo --video holiday.mp4 --start 12 --end 30
    python -m runtime_py.chat --bundle bundles/demo --video holiday.mp4 --cache watched/ --prompt "And then?"    # at once, the second time
    python -m runtime_py.chat --checkpoint Mobile-VideoGPT-0.5B --video holiday.mp4 --temperature 0.7 --top-p 0.9 --seed 1

Without --prompt it is a conversation: one question per line, /exit or the end of the input ends it, Ctrl-C ends an answer.
Answers go to stdout as they come; after each, its times and the peak memory go to stderr in one line.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer

from export.arguments import ArgumentParser
from export.errors import ExportError, PromptError, SnapshotError, VideoError, command, one_line
from runtime_py.load import add_source_arguments, find_source, load_tokenizer
from runtime_py.sampling import Sampler
from runtime_py.session import MAX_NEW_TOKENS, Session
from runtime_py.snapshot import VideoCache, video_fingerprint
from runtime_py.stages import Pixels
from runtime_py.streaming import TextStream
from runtime_py.timing import peak_rss_bytes
from runtime_py.video import read_frames

EXIT_COMMAND = "/exit"
CACHE_LIMIT_GB = 2.0  # some 50 videos at released size


@dataclasses.dataclass
class Speed:
    """Seconds of one answer: until its first token, and of the decoding steps after it."""

    first_token_s: float | None = None
    tokens: int = 0
    steps_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a token that took so long."""
        if self.first_token_s is None:
            self.first_token_s = seconds
        else:
            self.steps_s += seconds
        self.tokens += 1

    def line(self, video_s: dict[str, float], note: str = "") -> str:
        """The report. `video_s`: seconds per stage of the video's encoding, empty where it was paid before."""
        parts = [f"{self.tokens} tokens" + (f" ({note})" if note else "")]
        if self.first_token_s is not None:
            split = ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in (video_s | {"prefill": self.first_token_s}).items())
            waited_s = sum(video_s.values()) + self.first_token_s
            parts.insert(0, f"first token after {waited_s:.3f} s" + (f" ({split})" if video_s else ""))
        if self.steps_s:
            parts.append(f"{(self.tokens - 1) / self.steps_s:.1f} tokens/s")
        return "; ".join([*parts, f"peak memory {peak_rss_bytes() / 1e6:.0f} MB"])


@dataclasses.dataclass(frozen=True)
class Clip:
    """What is kept of a video: its pixels for the encoders, and the number and time (seconds) of each sampled frame, of `total`.

    `seconds` is what reading the frames and reducing them took.
    """

    pixels: Pixels
    indices: list[int]
    times_s: list[float]
    total: int
    warnings: list[str]
    seconds: dict[str, float]

    @classmethod
    def read(cls, path: Path, start_s: float | None = None, end_s: float | None = None) -> Clip:
        """Sample a video's frames and reduce them at once: in full they may be gigabytes. Errors: `VideoError`."""
        started = time.perf_counter()
        video = read_frames(path, start_s, end_s)
        read = time.perf_counter()
        pixels = Pixels.of(video.frames)
        seconds = {"read": read - started, "preprocess": time.perf_counter() - read}
        return cls(pixels, video.indices, video.times_s, video.total, video.warnings, seconds)

    def key_frames_line(self, picked: list[int]) -> str:
        """Which of the sampled frames the video encoder sees, by number and time; a short clip's may be padding."""
        shown = [f"{self.indices[i]} ({self.times_s[i]:.2f} s)" for i in picked if i < len(self.indices)]
        padding = len(picked) - len(shown)
        return f"key frames of {self.total}: " + ", ".join(shown + ([f"{padding} of padding"] if padding else []))


class Chat:
    """A session whose answers go to stdout, with a report on stderr after each."""

    def __init__(self, session: Session, tokenizer: Tokenizer, sampler: Sampler, max_new_tokens: int):
        self.session = session
        self.tokenizer = tokenizer
        self.sampler = sampler
        self.max_new_tokens = max_new_tokens
        self._video_s: dict[str, float] = {}  # reported with the first answer

    def recall(self, cache: VideoCache, video: str, read: Callable[[], Clip]) -> None:
        """Take a video from the cache where it was watched before; else `read` and watch it, and keep it there under `video`. A cache
        that cannot be written costs a warning, not the answer."""
        started = time.perf_counter()
        if cache.restore(self.session, video):
            self._video_s = {"taken from the cache": time.perf_counter() - started}
            print(f"watched before: taken from {cache.folder}", file=sys.stderr, flush=True)
            return
        self.watch(read())
        started = time.perf_counter()
        self.session.prefill_video()
        try:
            cache.keep(self.session, video)
        except (ExportError, OSError) as error:
            print(f"warning: the video is not kept in {cache.folder}: {one_line(error)}", file=sys.stderr, flush=True)
        self._video_s["prefill and keeping"] = time.perf_counter() - started

    def watch(self, clip: Clip) -> None:
        """Encode the video, and say which frames are its key frames."""
        for warning in clip.warnings:
            print(f"warning: {' '.join(warning.split())}", file=sys.stderr)
        picked = self.session.watch(clip.pixels)
        spent = self.session.stages_s
        projectors_s = spent["image_projector"] + spent["video_projector"]
        stages = ("loading", "image_encoder", "frame_scorer", "video_encoder")
        self._video_s = clip.seconds | {stage: spent[stage] for stage in stages} | {"projectors": projectors_s}
        print(clip.key_frames_line(picked), file=sys.stderr, flush=True)

    def answer(self, question: str) -> None:
        """Print one answer.

        Raises:
            PromptError: the question does not fit the context, or the answer was cut where the context ended.
            KeyboardInterrupt: Ctrl-C, with the line and the report finished; what was answered stays in the conversation.
        """
        speed, text = Speed(), TextStream(self.tokenizer)
        asked, forgotten = time.perf_counter(), self.session.forgotten
        ids = self.session.ask(question, self.sampler, self.max_new_tokens)
        if self.session.forgotten > forgotten:
            count = self.session.forgotten
            questions = "first question is" if count == 1 else f"first {count} questions are"
            print(f"note: the context is full: the {questions} forgotten, the video is not", file=sys.stderr, flush=True)
        try:
            while (token := next(ids, None)) is not None:
                speed.add(time.perf_counter() - asked)
                _show(text.step(token))
                asked = time.perf_counter()
        except KeyboardInterrupt:
            if speed.tokens:
                self._finish(text, speed, "interrupted")
            raise
        self._finish(text, speed, f"cut at --max-new-tokens {self.max_new_tokens}" if speed.tokens == self.max_new_tokens else "")
        if self.session.full:
            context = self.session.backend.max_context
            cut = "so this answer was cut; the next question goes on with the last turns"
            raise PromptError(f"the context of {context} tokens is full, {cut}")

    def _finish(self, text: TextStream, speed: Speed, note: str) -> None:
        """End the answer's line and report on it."""
        _show(text.flush() + "\n")
        print(speed.line(self._video_s, note), file=sys.stderr, flush=True)
        self._video_s = {}

    def prefill_ahead(self) -> Callable[[], None]:
        """Begin to put the video into the cache; what is returned waits until it is there. Somebody who types a question takes longer."""

        def prefill() -> None:
            started = time.perf_counter()
            with contextlib.suppress(ExportError):  # the question meets the same error, and reports it
                self.session.prefill_video()
                self._video_s["prefill ahead"] = time.perf_counter() - started

        working = threading.Thread(target=prefill)
        working.start()
        return working.join

    def converse(self) -> None:
        """Answer each line of stdin until it ends. What a question asks too much costs that question only."""
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        ready = self.prefill_ahead() if terminal else lambda: None
        if terminal:
            with contextlib.suppress(ImportError):  # not on Windows
                import readline  # noqa: F401  (gives `input` its line editing)
        while True:
            try:
                question = input("> " if terminal else "").strip()
            except EOFError:
                return
            if question == EXIT_COMMAND:
                return
            if not question:
                continue
            try:
                ready()
                self.answer(question)
            except PromptError as error:
                print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
            except KeyboardInterrupt:
                continue


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _check_arguments(args: argparse.Namespace) -> None:
    for name in ("start", "end"):
        seconds = getattr(args, name)
        if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
            raise VideoError(f"--{name} {seconds}: give seconds from 0 on")
    if not (math.isfinite(args.cache_limit) and args.cache_limit > 0):
        raise SnapshotError(f"--cache-limit {args.cache_limit}: give gigabytes above 0")
    if args.max_new_tokens < 1:
        raise PromptError(f"--max-new-tokens {args.max_new_tokens}: give at least 1")
    if args.prompt is not None and not args.prompt.strip():
        raise PromptError("--prompt is empty: ask a question, or leave --prompt out for a conversation")


def _accept_any_text() -> None:
    """Let no character that a terminal cannot show, and no byte that is not UTF-8, end a conversation."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _valid(text: str) -> str:
    """A command line's text with the bytes that are not UTF-8 replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m runtime_py.chat", description=__doc__)
    add_source_arguments(parser)
    parser.add_argument("--video", type=Path, required=True, metavar="FILE", help="any format that ffmpeg reads")
    parser.add_argument("--start", type=float, metavar="S", help="watch from this second on (default: the beginning)")
    parser.add_argument("--end", type=float, metavar="S", help="and up to this one (default: the end)")
    parser.add_argument("--prompt", metavar="TEXT", help="ask this and end (default: a conversation on stdin)")
    parser.add_argument("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, metavar="N", help="longest answer (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 takes the best token always (default: 0)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="above temperature 0: draw from the best tokens of this mass")
    parser.add_argument("--seed", type=int, metavar="N", help="above temperature 0: repeatable draws")
    cache_help = "keep the videos that were watched in this folder: a later question about one begins at once"
    parser.add_argument("--cache", type=Path, metavar="DIR", help=cache_help)
    parser.add_argument("--cache-limit", type=float, default=CACHE_LIMIT_GB, metavar="GB", help="of that folder (default: %(default)s)")
    args = parser.parse_args(argv)
    _check_arguments(args)
    sampler = Sampler(args.temperature, args.top_p, args.seed)
    _accept_any_text()
    load, tokenizer_file = find_source(args)
    encode, tokenizer = load_tokenizer(tokenizer_file, args.bundle or args.checkpoint)
    part = (args.video, args.start, args.end)
    cache = VideoCache(args.cache, int(args.cache_limit * 1e9)) if args.cache is not None else None
    clip, video = (Clip.read(*part), None) if cache is None else (None, video_fingerprint(*part))  # before the weights are read
    if cache is not None:
        cache.prepare()
    session = Session(load(), encode)
    chat = Chat(session, tokenizer, sampler, args.max_new_tokens)
    prompt = _valid(args.prompt) if args.prompt is not None else None
    if prompt is not None:
        session.prompt_ids(prompt)  # too long a question must not cost the encoding of the video first
    if cache is not None and video is not None:
        chat.recall(cache, video, lambda: Clip.read(*part))
    elif clip is not None:
        chat.watch(clip)
        del clip  # its pixels take 77 MB, which the conversation does not need
    if prompt is None:
        chat.converse()
    else:
        chat.answer(prompt)


if __name__ == "__main__":
    sys.exit(main())
