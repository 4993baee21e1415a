"""Vectors in the form of a bundle's golden ones (`golden.json`, `golden.bin`), many and odd: what Python's own functions give.

A bundle holds a few golden vectors, for phones; `core`'s tests also read these. Nothing here knows `runtime_py.golden`.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import torch
from tokenizers import Tokenizer

from export.model.frame_scorer import select_key_frames
from export.model.preprocess import clip_pixels, pick_frames, videomamba_pixels
from export.model.prompt import next_turn, opening_ids, question_ids, tokenize
from runtime_py.sampling import Sampler
from runtime_py.streaming import TextStream
from runtime_py.video import rgb

MATRICES = {"bt709": 1, "bt601": 5, "bt2020": 9}  # FFmpeg's numbers of colour spaces
EDGES = [(1, 1), (2, 1), (1, 3), (223, 224), (224, 225), (225, 224), (224, 224), (448, 448), (447, 449), (1, 700), (900, 2)]
PHRASES = [
    "What's in the video? I'll say it'S 3,141.59 metres.",
    "  two  spaces\tand\r\n\r\n  lines \n",
    "1234567 ½ ٣٤ 五 Ⅷ x² ¼",
    "日本語のテキスト 한국어 텍스트 ไทย العربية עברית हिन्दी",
    "👩‍👩‍👧‍👦 🇩🇪 🏳️‍🌈 e\u0301 \u0041\u030a \ufb03 \u1e9b\u0323 \u212b",
    "'S 'ſ 'T 'RE don't WE'VE I'M you'LL he'D",
    "a\u00a0b\u2003c\u3000d\u0085e\u000bf\u001cg\u200bh\ufeffi",
    "\U0001f9d9\U00010348\U0001d7d8\U00016d40\U000323b0\u1c89\U00010d40",
    "<|im_start|>user\n<|im_end|><|endoftext|><|im_end|",
    "\x00\x07\x7f \ufffd\uffff",
]
CHARACTERS = [
    (0x20, 0x7F),
    (0x00, 0x21),
    (0x80, 0x250),
    (0x300, 0x370),
    (0x370, 0x530),
    (0x590, 0x700),
    (0x900, 0xE00),
    (0x1100, 0x1200),
    (0x1E00, 0x2000),
    (0x2000, 0x2070),
    (0x2150, 0x2190),
    (0x3000, 0x3100),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A4),
    (0xF900, 0xFB50),
    (0x1D400, 0x1D800),
    (0x1F300, 0x1FA00),
    (0x80, 0xD800),
    (0xE000, 0x110000),
]


class Writer:
    """Collects arrays into `golden.bin`."""

    def __init__(self) -> None:
        self.data = bytearray()

    def array(self, values: np.ndarray) -> dict:
        self.data += b"\0" * (-len(self.data) % 8)
        offset = len(self.data)
        self.data += np.ascontiguousarray(values).tobytes()
        return {"offset": offset, "shape": list(values.shape), "dtype": str(values.dtype)}


def write_vectors(folder: Path, tokenizer: Path, seed: int = 0, images: int = 40, texts: int = 400, large: bool = True) -> Path:
    """Write both files into `folder`, with a copy of the tokenizer that they are about, and return it."""
    rng, writer = np.random.default_rng(seed), Writer()
    data = {
        "version": 1,
        "pick_frames": [_picking(rng) for _ in range(1500)],
        "resize": [_resizing(rng, writer, *size) for size in _sizes(rng, images, large)],
        "planes": [_conversion(rng, writer, matrix, full) for matrix in MATRICES for full in (False, True) for _ in range(3)],
        "key_frames": [_key_frames(rng) for _ in range(200)],
        "greedy": [_greedy(rng) for _ in range(50)],
        "nucleus": [_nucleus(rng) for _ in range(60)],
        "reference": {
            "frames": writer.array(rng.integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)),
            "ids": [1, -200, 2],
            "selected_frames": [[0, 1], [2, 3]],
            "frame_scores": writer.array(np.arange(8, dtype=np.float32).reshape(2, 4)),
            "greedy_ids": [1, 2, 3],
            "last_logits": writer.array(np.array([0.5, -1.0], np.float32)),
            "metric": "row",
            "threshold": 0.25,
            "equal_ids": None,
        },
    }
    library = Tokenizer.from_file(str(tokenizer))
    data |= {"tokenizer": tokenizations(library, _texts(seed, texts)), "prompt": prompts(library)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "golden.json").write_text(json.dumps(data), encoding="utf-8")
    (folder / "golden.bin").write_bytes(bytes(writer.data))
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    return folder


def tokenizations(library: Tokenizer, texts: Sequence[str]) -> list[dict]:
    """Ids of each text, and how they stream."""
    cases = []
    for text in texts:
        ids = _encode(library)(text)
        stream = TextStream(library)
        cases.append({"text": text, "ids": ids, "pieces": [stream.step(token) for token in ids], "flushed": stream.flush()})
    return cases


def prompts(library: Tokenizer) -> list[dict]:
    encode = _encode(library)
    questions = ["Which appears first?", "", "<image> and <|im_end|>\n<|im_start|>system", "a <|endoftext|>", " <ima<image>ge>"]
    return [
        {"question": q, "opening": opening_ids(encode), "first": question_ids(q, encode), "later": tokenize(next_turn(q), encode)}
        for q in questions
    ]


def _encode(library: Tokenizer) -> Callable[[str], list[int]]:
    return lambda text: library.encode(text, add_special_tokens=False).ids


def _texts(seed: int, count: int) -> list[str]:
    """Texts of mixed alphabets, blanks and control tokens, some long."""
    draw = random.Random(seed)

    def character() -> str:
        first, end = draw.choice(CHARACTERS)
        code = draw.randrange(first, end)
        return " " if 0xD800 <= code < 0xE000 else chr(code)

    def piece() -> str:
        kind = draw.random()
        if kind < 0.15:
            return draw.choice([" ", "  ", "\n", "\r\n", "\t", " \n ", "\u3000", "'s", "'LL", "'ſ", "<|im_end|>", "<|im_start|>"])
        if kind < 0.3:
            return str(draw.randrange(10**6))
        if kind < 0.6:
            return "".join(draw.choice("etaoinshrdlu ETAOIN") for _ in range(draw.randrange(1, 12)))
        return "".join(character() for _ in range(draw.randrange(1, 6)))

    texts = [*PHRASES, "", " ", "a" * 3000, "é" * 400, " " * 50 + "x", "ab " * 500]
    return texts + ["".join(piece() for _ in range(draw.randrange(1, 30))) for _ in range(count)]


def _sizes(rng: np.random.Generator, count: int, large: bool) -> list[tuple[int, int]]:
    """Height and width of images."""
    drawn = [(int(h), int(w)) for h, w in rng.integers(1, 900, (count, 2)) if max(h, w) < 40 * min(h, w)]
    return EDGES + drawn + ([(1080, 1920), (1920, 1080), (720, 1280), (480, 854)] if large else [])


def _image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise, black and white noise, or slopes: [H, W, 3] uint8."""
    kind = rng.integers(3)
    if kind == 2:
        slopes = np.add.outer(np.arange(height) * 255 // max(height - 1, 1), np.arange(width) * 255 // max(width - 1, 1)) // 2
        return np.stack([slopes, 255 - slopes, slopes // 2], -1).astype(np.uint8)
    levels = 256 if kind else 2
    return (rng.integers(0, levels, (height, width, 3)) * (255 // (levels - 1))).astype(np.uint8)


def _resizing(rng: np.random.Generator, writer: Writer, height: int, width: int) -> dict:
    source = _image(rng, height, width)
    clip, video = (pixels([source])[0].permute(1, 2, 0).numpy().astype(np.uint8) for pixels in (clip_pixels, videomamba_pixels))
    return {"name": f"{width} x {height}", "source": writer.array(source), "clip": writer.array(clip), "video": writer.array(video)}


def _conversion(rng: np.random.Generator, writer: Writer, matrix: str, full: bool) -> dict:
    width, height = int(rng.integers(1, 90)), 2 * int(rng.integers(1, 45))
    frame, planes = av.VideoFrame(width, height, "yuv420p"), []
    for i, plane in enumerate(frame.planes):
        size = (height, width) if i == 0 else (height // 2, (width + 1) // 2)
        planes.append(rng.integers(0, 256, size, dtype=np.uint8))
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[: size[0], : size[1]] = planes[-1]
        plane.update(padded.tobytes())
    frame.colorspace, frame.color_range = MATRICES[matrix], 2 if full else 1
    rotation = int(rng.choice([0, 90, 180, 270]))
    case = {"name": f"{matrix} {rotation}", "width": width, "height": height, "matrix": matrix, "range": "full" if full else "limited"}
    arrays = {name: writer.array(plane) for name, plane in zip("yuv", planes)}
    return {**case, "rotation": rotation, **arrays, "rgb": writer.array(np.rot90(rgb(frame), -rotation // 90))}


def _picking(rng: np.random.Generator) -> dict:
    total = int(rng.integers(1, 60)) if rng.random() < 0.3 else int(rng.integers(1, 20000))
    fps = float(rng.choice([29.97, 23.976, 25.0, 59.94, 0.5, 1.5, 2.5, 0.0, 1e9, round(float(rng.uniform(0.1, 240)), 3)]))
    frames = 16 if rng.random() < 0.7 else int(rng.integers(2, 40))
    return {"total": total, "fps": fps, "frames": frames, "indices": [int(i) for i in pick_frames(total, fps, frames)]}


def _key_frames(rng: np.random.Generator) -> dict:
    scores = torch.tensor(rng.normal(100, 10 ** rng.uniform(-4, 2), (2, 8)), dtype=torch.float32)
    if rng.random() < 0.3:
        scores = scores.round()
    topk, count = bool(rng.integers(2)), int(rng.integers(1, 9))
    return {"scores": scores.tolist(), "topk": topk, "count": count, "selected": select_key_frames(scores, topk, count).tolist()}


def _logits(rng: np.random.Generator) -> torch.Tensor:
    return torch.tensor(rng.normal(0, 10 ** rng.uniform(-1, 1), int(rng.integers(2, 300))), dtype=torch.float32)


def _greedy(rng: np.random.Generator) -> dict:
    logits = _logits(rng).round()  # equals are many
    return {"logits": logits.tolist(), "token": Sampler()(logits)}


def _nucleus(rng: np.random.Generator) -> dict:
    logits, temperature = _logits(rng), float(round(10 ** rng.uniform(-2, 0.7), 3))
    top_p = 1.0 if rng.random() < 0.2 else float(round(rng.uniform(0.05, 0.99), 3))
    drawn = Sampler(temperature, top_p, 0).probabilities(logits).double()
    kept = (drawn / drawn.sum()).tolist()
    assert math.isclose(sum(kept), 1, rel_tol=1e-9)
    return {"logits": logits.tolist(), "temperature": temperature, "top_p": top_p, "probabilities": kept}
