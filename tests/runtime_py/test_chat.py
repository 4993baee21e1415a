"""`chat` from end to end, on the demo checkpoint and the sample clip: what it prints, what it survives, and what it refuses."""

import errno
import io
import itertools
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from export.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from runtime_py import chat
from runtime_py.backends.eager import EagerBackend
from runtime_py.session import Session
from runtime_py.stages import Pixels
from runtime_py.streaming import TextStream

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "calibration" / "demo"
CLIP = DEMO / "sample.mp4"
TOKENIZER = DEMO / "checkpoint" / "tokenizer.json"
REPORT = re.compile(r"first token after (\d+\.\d+) s( \(.*?\))?; (\d+) tokens( \(.*?\))?(; \d+\.\d tokens/s)?; peak memory (\d+) MB")
SPLIT = ("read", "preprocess", "loading", "image_encoder", "frame_scorer", "video_encoder", "projectors", "prefill")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(TOKENIZER))


@pytest.fixture(scope="module")
def flat_checkpoint(tmp_path_factory):
    """The demo checkpoint with logits that are all zero: greedily it says id 0 for ever, sampled it says anything."""
    model = open_checkpoint(DEMO / "checkpoint").load()
    model.decoder.norm.weight.zero_()
    return with_tokenizer(tmp_path_factory.mktemp("flat") / "checkpoint", model)


@pytest.fixture(scope="module")
def short_checkpoint(tmp_path_factory, flat_checkpoint):
    """The same with a context of 2,475 tokens: the video, a question, and some forty."""
    folder = tmp_path_factory.mktemp("short") / "checkpoint"
    shutil.copytree(flat_checkpoint, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 2475}))
    return folder


def with_tokenizer(folder: Path, model) -> Path:
    save_checkpoint(model, folder)
    shutil.copy(TOKENIZER, folder)
    return folder


prefill_ahead = chat.Chat.prefill_ahead


class Terminal(io.StringIO):
    """Text in place of a person at a terminal."""

    def isatty(self):
        return True


def arguments(*options, checkpoint=DEMO / "checkpoint", video=CLIP) -> list[str]:
    return ["--checkpoint", str(checkpoint), "--video", str(video), *map(str, options)]


def reports(err: str) -> list[re.Match]:
    return [match for line in err.splitlines() if (match := REPORT.fullmatch(line))]


def asked(monkeypatch, lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))


def test_one_question_from_the_command_line():
    command = [sys.executable, "-m", "runtime_py.chat", *arguments("--prompt", "What moves?", "--max-new-tokens", 8)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    key_frames, report = done.stderr.splitlines()
    assert re.fullmatch(r"key frames of 192: \d+ \(\d\.\d\d s\)(, \d+ \(\d\.\d\d s\)){7}", key_frames)
    match = REPORT.fullmatch(report)
    split = dict(part.split() for part in match[2].strip(" ()").split(", "))
    assert tuple(split) == SPLIT
    assert sum(map(float, split.values())) == pytest.approx(float(match[1]), abs=0.01)
    assert 1 <= int(match[3]) <= 8 and int(match[6]) > 50


def test_a_bundle_answers_like_a_checkpoint(demo_bundle, capsys):
    argv = ["--bundle", str(demo_bundle), "--video", str(CLIP), "--prompt", "What moves?", "--max-new-tokens", "4"]
    assert chat.main(argv) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("\n") and len(reports(captured.err)) == 1


def test_key_frames_come_with_their_numbers_and_times():
    pixels = Pixels(torch.empty(0), torch.empty(0))
    clip = chat.Clip(pixels, [3 * i for i in range(10)], [10 + i / 2 for i in range(10)], 30, [], {})
    assert clip.key_frames_line([0, 2, 5, 7, 8, 9, 12, 13]) == (
        "key frames of 30: 0 (10.00 s), 6 (11.00 s), 15 (12.50 s), 21 (13.50 s), 24 (14.00 s), 27 (14.50 s), 2 of padding"
    )


def test_a_clip_of_two_frames_is_watched_with_padding(tmp_path, capsys):
    with av.open(str(tmp_path / "short.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in (40, 200):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert chat.main(arguments("--prompt", "What?", "--max-new-tokens", 2, video=tmp_path / "short.mp4")) == 0
    assert "of padding" in capsys.readouterr().err


def test_a_span_is_what_is_watched(capsys):
    assert chat.main(arguments("--prompt", "What?", "--max-new-tokens", 1, "--start", 2, "--end", 4)) == 0
    line = capsys.readouterr().err.splitlines()[0]
    times = [float(seconds) for seconds in re.findall(r"\((\d+\.\d+) s\)", line)]
    assert line.startswith("key frames of 48: ") and len(times) == 8 and all(2 <= seconds < 4 for seconds in times)


def test_a_conversation_pays_for_the_video_once(flat_checkpoint, monkeypatch, capsys):
    asked(monkeypatch, "What moves?\n\n   \nWhere to?\n")
    assert chat.main(arguments("--max-new-tokens", 3, checkpoint=flat_checkpoint)) == 0
    captured = capsys.readouterr()
    assert captured.out == "!!!\n!!!\n"  # one answer for each question, none for empty lines, and no prompt in a pipe
    first, second = reports(captured.err)
    assert first[2] and not second[2]


def test_exit_ends_a_conversation(monkeypatch, capsys):
    asked(monkeypatch, "/exit\nWhat moves?\n")
    assert chat.main(arguments()) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and not reports(captured.err)


def test_a_seed_repeats_an_answer(flat_checkpoint, capsys):
    said = []
    for seed in (1, 1, 2):
        options = ("--prompt", "What?", "--max-new-tokens", 20, "--temperature", 1, "--top-p", 0.9, "--seed", seed)
        assert chat.main(arguments(*options, checkpoint=flat_checkpoint)) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]


def test_what_is_not_utf8_is_asked_all_the_same(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"What \xff\xfe moves?\n"), "utf-8"))
    assert chat.main(arguments("--max-new-tokens", 1)) == 0
    assert chat.main(arguments("--max-new-tokens", 1, "--prompt", "What \udcff\udcfe moves?")) == 0  # as Python hands such arguments over
    assert capsys.readouterr().err.count("peak memory") == 2


def test_what_the_terminal_cannot_show_becomes_a_question_mark(flat_checkpoint, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    options = ("--prompt", "What?", "--max-new-tokens", 100, "--temperature", 1, "--seed", 1)  # half characters among the hundred
    assert chat.main(arguments(*options, checkpoint=flat_checkpoint)) == 0
    assert b"?" in written.getvalue()


def test_frames_go_before_the_weights_come_and_pixels_before_the_conversation(monkeypatch, capsys):
    kept = {}
    read_frames, load, ask = chat.read_frames, Checkpoint.load, Session.ask

    def reading(*arguments):
        video = read_frames(*arguments)
        kept["frames"] = [weakref.ref(frame) for frame in video.frames]
        return video

    def loading(*arguments, **options):
        kept["at loading"] = [frame() is not None for frame in kept["frames"]]
        return load(*arguments, **options)

    def watching(self, clip):
        kept["pixels"] = weakref.ref(clip.pixels)
        return watch(self, clip)

    def asking(self, *arguments):
        kept["at the question"] = kept["pixels"]() is not None
        return ask(self, *arguments)

    watch = chat.Chat.watch
    monkeypatch.setattr(chat, "read_frames", reading)
    monkeypatch.setattr(Checkpoint, "load", loading)
    monkeypatch.setattr(chat.Chat, "watch", watching)
    monkeypatch.setattr(Session, "ask", asking)
    asked(monkeypatch, "Why?\n")
    assert chat.main(arguments("--max-new-tokens", 1)) == 0
    assert kept["at loading"] == [False] * 16 and kept["at the question"] is False


def test_with_a_cache_too_a_missing_video_costs_no_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Checkpoint, "load", lambda *_, **__: pytest.fail("weights were read"))
    assert chat.main(arguments("--cache", tmp_path / "cache", video=tmp_path / "none.mp4")) == 2
    assert "none.mp4 cannot be read" in capsys.readouterr().err and not (tmp_path / "cache").exists()


def test_a_damaged_video_is_watched_with_a_warning(tmp_path, capsys):
    whole = CLIP.read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    assert chat.main(arguments("--prompt", "What?", "--max-new-tokens", 1, video=tmp_path / "half.mp4")) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("warning: ") and "ends early" in lines[0] and lines[1].startswith("key frames")


def test_a_full_context_ends_the_answer_and_not_the_conversation(short_checkpoint, monkeypatch, capsys):
    asked(monkeypatch, "Why?\nAnd now?\n")
    assert chat.main(arguments(checkpoint=short_checkpoint)) == 0
    captured = capsys.readouterr()
    first, second = captured.out.splitlines()
    assert len(first) > 5 and len(second) > 5  # the video is kept, the first question is not
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and all("context" in line and "cut" in line for line in errors)
    assert [line for line in captured.err.splitlines() if line.startswith("note: ")] == [
        "note: the context is full: the first question is forgotten, the video is not"
    ]


def test_a_video_that_was_watched_before_is_answered_about_at_once(short_checkpoint, tmp_path, capsys):
    """The second process reads no frame and runs no encoder; a damaged file is watched again."""
    cache = ["--cache", str(tmp_path / "watched")]
    run = lambda: chat.main(arguments("--prompt", "Why?", "--max-new-tokens", 3, *cache, checkpoint=short_checkpoint))  # noqa: E731
    assert run() == 0
    first = capsys.readouterr()
    assert "key frames" in first.err and "prefill and keeping" in first.err
    assert run() == 0
    second = capsys.readouterr()
    assert second.out == first.out and "watched before" in second.err and "image_encoder" not in second.err
    (file,) = (tmp_path / "watched").iterdir()
    file.write_bytes(b"damaged")
    assert run() == 0
    third = capsys.readouterr()
    assert third.out == first.out and "key frames" in third.err
    assert run() == 0 and "watched before" in capsys.readouterr().err  # it was written anew
    assert chat.main(arguments(*cache, "--cache-limit", "0", checkpoint=short_checkpoint)) == 2
    assert "--cache-limit 0" in capsys.readouterr().err


def test_a_cache_that_fails_costs_a_warning_and_one_that_cannot_be_costs_no_work(short_checkpoint, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(chat.VideoCache, "keep", full)
    options = ("--prompt", "Why?", "--max-new-tokens", 3, "--cache")
    assert chat.main(arguments(*options, tmp_path / "full", checkpoint=short_checkpoint)) == 0
    captured = capsys.readouterr()
    assert captured.out and "warning: the video is not kept" in captured.err and "No space left" in captured.err
    (tmp_path / "file").touch()
    monkeypatch.setattr(Checkpoint, "load", lambda *_, **__: pytest.fail("weights were read"))
    assert chat.main(arguments(*options, tmp_path / "file", checkpoint=short_checkpoint)) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_the_video_is_prefilled_while_the_question_is_typed(short_checkpoint, monkeypatch, capsys):
    """What then is answered is the same, and only the question's own tokens are waited for."""
    decoded, answers = [], []
    decode = EagerBackend.decode
    monkeypatch.setattr(EagerBackend, "decode", lambda self, x, at: decoded.append(x.shape[0]) or decode(self, x, at))
    for ahead in (False, True):
        monkeypatch.setattr(chat.Chat, "prefill_ahead", prefill_ahead if ahead else lambda self: lambda: None)
        monkeypatch.setattr(sys, "stdin", Terminal("Why?\n"))
        monkeypatch.setattr(sys, "stdout", Terminal())
        decoded.clear()
        assert chat.main(arguments("--max-new-tokens", 3, checkpoint=short_checkpoint)) == 0
        answers.append(sys.stdout.getvalue())
    assert answers[0] == answers[1] and decoded[0] > 2402 > 100 > decoded[1]
    assert "prefill ahead" in capsys.readouterr().err


def test_too_long_a_question_leaves_the_conversation_as_it_was(short_checkpoint, monkeypatch, capsys):
    asked(monkeypatch, f"{'Why? ' * 100}\nWhy?\n")
    assert chat.main(arguments("--max-new-tokens", 3, checkpoint=short_checkpoint)) == 0
    captured = capsys.readouterr()
    assert [line[:6] for line in captured.err.splitlines()] == ["key fr", "error:", "first "]
    assert reports(captured.err)[0][2]  # the first answer is still the first


def test_a_single_answer_that_is_cut_by_the_context_says_so(short_checkpoint, capsys):
    assert chat.main(arguments("--prompt", "Why?", checkpoint=short_checkpoint)) == 2
    captured = capsys.readouterr()
    assert len(captured.out) > 5
    assert [line for line in captured.err.splitlines() if line.startswith("error: ")] == [captured.err.splitlines()[-1]]


def test_ctrl_c_ends_an_answer_and_not_the_conversation(flat_checkpoint):
    command = [sys.executable, "-m", "runtime_py.chat", *arguments("--max-new-tokens", 600, checkpoint=flat_checkpoint)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, cwd=ROOT, bufsize=0, **pipes) as process:
        try:
            process.stdin.write(b"Why?\n")
            begun = process.stdout.read(1)  # it streams: the answer's first character is here, the rest is not said yet
            process.send_signal(signal.SIGINT)
            cut = process.stdout.readline()
            out, err = process.communicate(b"And now?\n", timeout=60)
        finally:
            process.kill()
    assert begun == b"!" and len(cut) < 600
    assert process.returncode == 0, err
    first, second = reports(err.decode())
    assert first[4] == " (interrupted)" and int(first[3]) == len(begun + cut) - 1
    assert second[3] == "600" and out == b"!" * 600 + b"\n"


def test_ctrl_c_in_a_single_answer_ends_the_command(flat_checkpoint):
    command = [sys.executable, "-m", "runtime_py.chat", *arguments("--prompt", "Why?", checkpoint=flat_checkpoint)]
    with subprocess.Popen(command, cwd=ROOT, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            begun = process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert (begun + out).endswith(b"!\n") and err.decode().splitlines()[-1] == "interrupted" and b"Traceback" not in err


def test_ctrl_c_at_the_prompt_ends_the_conversation(monkeypatch, capsys):
    lines = iter(["What?"])

    def read(prompt):
        for line in lines:
            return line
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", read)
    assert chat.main(arguments("--max-new-tokens", 1)) == 130
    assert len(reports(capsys.readouterr().err)) == 1


BAD_INPUT = {
    "no video": (["--video", "/no/such/video.mp4"], "/no/such/video.mp4"),
    "a text file": (["--video", __file__], "test_chat.py"),
    "a negative start": (["--start", "-1"], "--start"),
    "a start that is no number": (["--start", "nan"], "--start"),
    "an endless end": (["--end", "inf"], "--end"),
    "a negative end": (["--end", "-0.5"], "--end"),
    "an end before the start": (["--start", "3", "--end", "2"], "span"),
    "a start beyond the end": (["--start", "100"], "8.000 s long"),
    "no tokens": (["--max-new-tokens", "0"], "--max-new-tokens"),
    "half a token": (["--max-new-tokens", "0.5"], "--max-new-tokens"),
    "a cold temperature": (["--temperature", "-1"], "temperature"),
    "no mass": (["--temperature", "1", "--top-p", "0"], "top-p"),
    "a negative seed": (["--seed", "-1"], "seed"),
    "an empty question": (["--prompt", " \n"], "--prompt"),
    "an unknown option": (["--loud"], "--loud"),
    "no such checkpoint": (["--checkpoint", "/no/such/checkpoint"], "/no/such/checkpoint"),
    "a bundle too": (["--bundle", "bundles/demo"], "--bundle"),
    "no threads": (["--threads", "0"], "--threads"),
    "an unknown device": (["--device", "tpu"], "--device"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_before_any_weight_is_read(monkeypatch, capsys, case):
    monkeypatch.setattr(Checkpoint, "load", lambda *_, **__: pytest.fail("weights were read"))
    options, says = BAD_INPUT[case]
    assert one_error(arguments("--prompt", "What?", *options), capsys).count(says)


def one_error(argv: list[str], capsys) -> str:
    """The one line on stderr of a command that fails with exit code 2."""
    assert chat.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_without_a_tokenizer_it_refuses_at_once(tiny_checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(Checkpoint, "load", lambda *_, **__: pytest.fail("weights were read"))
    line = one_error(arguments(checkpoint=tiny_checkpoint, video="/no/such/video.mp4"), capsys)
    assert "tokenizer.json" in line and "dump" in line


def test_a_damaged_tokenizer_is_one_line(tmp_path, capsys):
    shutil.copytree(DEMO / "checkpoint", tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "tokenizer.json").write_text('{"version": "1.0"}')
    assert "tokenizer.json" in one_error(arguments(checkpoint=tmp_path / "checkpoint"), capsys)


def test_too_long_a_prompt_is_refused_before_the_video_is_encoded(short_checkpoint, monkeypatch, capsys):
    monkeypatch.setattr("runtime_py.session.Session.watch", lambda *_: pytest.fail("the video was encoded"))
    assert "context" in one_error(arguments("--prompt", "Why? " * 100, checkpoint=short_checkpoint), capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_one_line(capsys):
    assert "cuda" in one_error(arguments("--prompt", "What?", "--device", "cuda"), capsys)


def streams(count: int, vocabulary: int, tokenizer: Tokenizer):
    """Ids of any kind: random ones, text of many scripts, and such text with ids lost."""
    random_ids = random.Random(7)
    texts = ["a plain line\n", "Größe €", "日本語", "नमस्ते", "👩‍👩‍👧‍👦 and 🇳🇱", "\ufffd", "<|im_end|>"]
    for kind in itertools.islice(itertools.cycle(range(3)), count):
        written = tokenizer.encode("".join(random_ids.choices(texts, k=5))).ids
        if kind == 0:
            yield [random_ids.randrange(vocabulary) for _ in range(40)]
        else:
            yield [token for token in written if kind == 1 or random_ids.random() < 0.8]


def test_streamed_pieces_make_the_whole_text(tokenizer):
    for ids in streams(150, tokenizer.get_vocab_size(), tokenizer):
        stream = TextStream(tokenizer)
        pieces = [stream.step(token) for token in ids] + [stream.flush()]
        assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)


def test_half_a_character_waits_for_its_other_half(tokenizer):
    ids = tokenizer.encode("🙂x").ids
    stream = TextStream(tokenizer)
    pieces = [stream.step(token) for token in ids]
    assert len(ids) > 2 and pieces[-2:] == ["🙂", "x"] and not any(pieces[:-2])
    half = TextStream(tokenizer)
    assert [half.step(token) for token in ids[:-2]] == [""] * (len(ids) - 2)
    assert set(half.flush()) == {"\ufffd"}
    assert half.flush() == ""


def test_special_tokens_have_no_text(tokenizer):
    stream = TextStream(tokenizer)
    ids = tokenizer.encode("a<|im_end|>b").ids
    assert "".join([*map(stream.step, ids), stream.flush()]) == "ab"
