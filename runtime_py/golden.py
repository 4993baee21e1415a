"""Golden vectors: what a host in another language has to compute, as the Python runtime does. Every bundle carries them.

`golden.json` names the cases, `golden.bin` holds the arrays: little-endian, C order, each at a multiple of 8 bytes. The apps' tests read
them, and the apps' self-test runs the reference's frames through a phone.

    pick_frames   which frames of a clip are sampled              resize      both encoders' pixels of a picture
    planes        a decoder's YUV planes to upright RGB           key_frames  the choice from scores, ties included
    tokenizer     ids of texts, and their text while streamed     prompt      the ids around the video, and of a later turn
    greedy, nucleus   the choice of a token from logits           reference   the whole, as the eager model computes it
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace
from tokenizers import Tokenizer

from export.config import CHUNK_KEY_FRAMES, FRAMES
from export.model.frame_scorer import select_key_frames
from export.model.preprocess import clip_pixels, pick_frames, videomamba_pixels
from export.model.prompt import Encode, next_turn, opening_ids, question_ids, tokenize
from export.tolerances import Tolerance
from runtime_py.load import load_tokenizer
from runtime_py.reference import Reference
from runtime_py.sampling import Sampler
from runtime_py.streaming import TextStream
from runtime_py.video import rgb

GOLDEN_JSON, GOLDEN_BIN = "golden.json", "golden.bin"
VERSION = 1
ALIGNMENT = 8  # bytes
SEED = 0

CLIPS = (
    (1, 30.0), (7, 30.0), (16, 1.0), (33, 2.5), (40, 29.97), (300, 29.97), (479, 30.0), (480, 29.5), (481, 30.5), (3001, 59.94),
    (90_000, 25.0),
)  # frames, frames a second
# Height, width. Pillow resizes a tall picture's columns first, any other's rows, and the order shows in the last bit.
PICTURES = {"landscape": (240, 426), "portrait": (301, 227), "tall": (520, 230), "small": (48, 64), "square": (224, 224)}
MATRICES = {"bt601": Colorspace.ITU601, "bt709": Colorspace.ITU709, "bt2020": Colorspace.BT2020}
RANGES = {"limited": ColorRange.MPEG, "full": ColorRange.JPEG}
PLANES_SIZE = (22, 34)  # height, width; even heights are all that H.264 and HEVC have
ROTATIONS = (0, 90, 180, 270)
TEXTS = (
    "", " ", "Which appears first, the circle or the square?", "What  happens\there?\r\n\n And   then?\n",
    "It's 12345 o'clock, they'RE 3.5 km off.", "naïve café, Ångström, e\u0301 n\u0303",
    "日本語の動画、何が起きていますか？", "Что происходит? שלום ١٢٣",
    "emoji 👩‍👩‍👧 🇫🇮 🙂!!", "a<image>b", "\u00a0\u2009\u3000 spaces\u200bzero",
    "x" * 70 + " " * 9 + "()[]{}<>||&&::;;", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0001f9ff ǅ ⅷ ½ ²",
)  # fmt: skip
QUESTIONS = ("Which appears first, the circle or the square?", "Is it\nred?  <|im_end|> Or blue?", "何色ですか")
GREEDY = ([0.5], [1.0, 3.0, 3.0, 2.0], [-9.0, -8.5])
NUCLEI = ((1.0, 1.0), (0.7, 0.9), (1.5, 0.5), (1e-3, 0.9), (0.8, 1e-9))  # temperature, top-p


class Arrays:
    """Bytes of `golden.bin` as they are put in, and where each array stands."""

    def __init__(self) -> None:
        self.data = bytearray()

    def put(self, array: np.ndarray) -> dict[str, object]:
        """The place of an array of uint8, float32 or int64."""
        self.data.extend(bytes(-len(self.data) % ALIGNMENT))
        place = {"offset": len(self.data), "shape": list(array.shape), "dtype": str(array.dtype)}
        self.data.extend(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return place


def golden(
    reference: Reference, bound: Tolerance, equal_ids: int | None, tokenizer_file: Path | None, topk: bool
) -> dict[str, bytes]:
    """The two files by name. `bound`: that of `last_logits`; `equal_ids`: greedy steps in which the bundle gave the reference's id on the
    building machine, None where it did not run there; without a tokenizer its cases are left out."""
    rng, arrays = np.random.default_rng(SEED), Arrays()
    cases: dict[str, object] = {
        "version": VERSION,
        "pick_frames": [{"total": total, "fps": fps, "frames": FRAMES, "indices": pick_frames(total, fps)} for total, fps in CLIPS],
        "resize": [resize_case(name, _picture(*size, rng), arrays) for name, size in PICTURES.items()],
        "planes": planes_cases(rng, arrays),
        "key_frames": [key_frames_case(scores, topk) for scores in _scores(rng) for topk in (True, False)],
    }
    if tokenizer_file is not None:
        encode, tokenizer = load_tokenizer(tokenizer_file, tokenizer_file)
        cases["tokenizer"] = [tokenizer_case(text, encode, tokenizer) for text in TEXTS]
        cases["prompt"] = [prompt_case(question, encode) for question in QUESTIONS]
    cases["greedy"] = [{"logits": logits, "token": Sampler()(torch.tensor(logits))} for logits in GREEDY]
    logits = (rng.standard_normal(24) * 1.5).astype(np.float32)
    cases["nucleus"] = [nucleus_case(logits, temperature, top_p) for temperature, top_p in NUCLEI]
    cases["reference"] = reference_case(reference, bound, arrays) | {"equal_ids": equal_ids}
    text = json.dumps(cases, ensure_ascii=True, allow_nan=False) + "\n"
    return {GOLDEN_JSON: text.encode(), GOLDEN_BIN: bytes(arrays.data)}


def resize_case(name: str, picture: np.ndarray, arrays: Arrays) -> dict[str, object]:
    """A picture, uint8 RGB [H, W, 3], and what each encoder sees of it, uint8 [224, 224, 3]."""
    clip, video = (_first_frame(pixels([picture])) for pixels in (clip_pixels, videomamba_pixels))
    return {"name": name, "source": arrays.put(picture), "clip": arrays.put(clip), "video": arrays.put(video)}


def planes_cases(rng: np.random.Generator, arrays: Arrays) -> list[dict[str, object]]:
    """Planes as a phone's decoder hands them out, Y [H, W], U and V [(H + 1) / 2, (W + 1) / 2], and the upright RGB of the Python runtime;
    rotation in degrees clockwise, for display."""
    height, width = PLANES_SIZE
    half = ((height + 1) // 2, (width + 1) // 2)
    y, u, v = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in (PLANES_SIZE, half, half))
    planes = {name: arrays.put(plane) for name, plane in zip("yuv", (y, u, v))}
    cases = []
    for number, (matrix, range_) in enumerate((matrix, range_) for matrix in MATRICES for range_ in RANGES):
        for rotation in ROTATIONS if number == 0 else (0,):
            decoded = rgb(yuv_frame((y, u, v), MATRICES[matrix], RANGES[range_]))
            upright = np.ascontiguousarray(np.rot90(decoded, -rotation // 90))  # rot90 turns the other way
            name = f"{matrix} {range_}" + (f" turned by {rotation}" if rotation else "")
            about = {"name": name, "width": width, "height": height, "matrix": matrix, "range": range_, "rotation": rotation}
            cases.append(about | planes | {"rgb": arrays.put(upright)})
    return cases


def yuv_frame(planes: Sequence[np.ndarray], matrix: Colorspace, range_: ColorRange) -> av.VideoFrame:
    """A frame of 4:2:0 planes [H, W], [(H + 1) / 2, (W + 1) / 2] twice, uint8."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, "yuv420p")
    frame.time_base, frame.pts = Fraction(1, 25), 0
    for plane, values in zip(frame.planes, planes):
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[: values.shape[0], : values.shape[1]] = values
        plane.update(padded.tobytes())
    frame.colorspace, frame.color_range = matrix, range_
    return frame


def key_frames_case(scores: np.ndarray, topk: bool) -> dict[str, object]:
    """float32 scores [2, 8] and the chosen frames of each row."""
    selected = select_key_frames(torch.from_numpy(scores), topk)
    return {"scores": scores.astype(np.float64).tolist(), "topk": topk, "count": CHUNK_KEY_FRAMES, "selected": selected.tolist()}


def tokenizer_case(text: str, encode: Encode, tokenizer: Tokenizer) -> dict[str, object]:
    """A text, its ids, and what each of them adds to the text while they are streamed."""
    ids, stream = list(encode(text)), TextStream(tokenizer)
    return {"text": text, "ids": ids, "pieces": [stream.step(token) for token in ids], "flushed": stream.flush()}


def prompt_case(question: str, encode: Encode) -> dict[str, object]:
    """The ids before the video, those of a question behind it, and those of the question as a later turn."""
    first, later = question_ids(question, encode), tokenize(next_turn(question), encode)
    return {"question": question, "opening": opening_ids(encode), "first": first, "later": later}


def nucleus_case(logits: np.ndarray, temperature: float, top_p: float) -> dict[str, object]:
    """float32 logits [V], and the probabilities with which a token is drawn."""
    probabilities = Sampler(temperature, top_p).probabilities(torch.from_numpy(logits)).double()
    drawn = probabilities / probabilities.sum()
    values = {"logits": logits.astype(np.float64).tolist(), "probabilities": drawn.tolist()}
    return {"temperature": temperature, "top_p": top_p} | values


def reference_case(reference: Reference, bound: Tolerance, arrays: Arrays) -> dict[str, object]:
    """The probe and what the eager model makes of it. The error of `last_logits` is the norm of the difference by the norm of the
    reference (metric "row"), or the largest difference by the largest magnitude ("max")."""
    stages: Mapping[str, torch.Tensor] = reference.stages
    return {
        "frames": arrays.put(reference.frames),
        "ids": reference.ids.tolist(),
        "selected_frames": stages["selected_frames"].tolist(),
        "frame_scores": arrays.put(stages["frame_scores"].float().numpy()),
        "greedy_ids": stages["greedy_ids"].tolist(),
        "last_logits": arrays.put(stages["last_logits"].float().numpy()),
        "metric": bound.metric,
        "threshold": bound.chained,
    }


def _picture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A picture with slopes, edges and noise: uint8 RGB [H, W, 3]."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    slopes = np.stack([rows / height, columns / width, (rows + columns) / (height + width)], axis=-1)
    squares = ((rows // 13 + columns // 17) % 2)[..., None]
    return np.clip(160 * slopes + 60 * squares + rng.integers(0, 36, (height, width, 3)), 0, 255).astype(np.uint8)


def _first_frame(pixels: torch.Tensor) -> np.ndarray:
    """[16, 3, 224, 224] in 0..255 -> the first, uint8 [224, 224, 3]."""
    return pixels[0].permute(1, 2, 0).numpy().astype(np.uint8)


def _scores(rng: np.random.Generator) -> list[np.ndarray]:
    """Ordinary scores, ties, near ties on both sides of the tolerance, and equal ones: float32 [2, 8]."""
    ordinary = rng.random((2, 8)) * 3
    ties = np.array([[1, 2, 2, 1, 2, 2, 2, 1], [3, 3, 1, 1, 1, 1, 2, 2]])
    near = 1 + np.array([[0, 2e-6, 9e-6, 3e-5, 1e-5, 2e-5, 8e-6, 4e-5], [5e-5, 4e-5, 3e-5, 2e-5, 1e-5, 0, -1e-5, -2e-5]])
    return [scores.astype(np.float32) for scores in (ordinary, ties, near, np.ones((2, 8)), -ordinary)]
