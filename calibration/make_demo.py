"""What `calibration.train` begins with: a small Mobile-VideoGPT in released layout, untrained, with a tokenizer of its own.

Small enough for a repository, complete enough for every command: all parts, 224x224, 16 frames, 2,402 visual tokens. Its
weights are random and seeded.

    python -m calibration.make_demo --out DIR [--seed 0]
"""

from __future__ import annotations

import hashlib
import itertools
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from export.arguments import ArgumentParser
from export.checkpoint import save_checkpoint
from export.config import ETP, ClipConfig, DecoderConfig, ModelConfig, ProjectorConfig, VideoMambaConfig
from export.errors import ExportError, command
from export.model.mobile_videogpt import MobileVideoGPT

DEFAULT_OUT = Path(__file__).parent / "demo" / "checkpoint"
VOCABULARY = 1024  # special tokens included; the model's vocabulary is the tokenizer's rounded up to whole groups of 32
VOCABULARY_MULTIPLE = 32
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")
# Qwen2's split: contractions, words with one leading character, single digits, punctuation, line breaks, spaces.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # fmt: skip

CLIP_WIDTH, VIDEOMAMBA_WIDTH, DECODER_WIDTH = 128, 64, 128
UNTRAINED = """# Untrained demo checkpoint

A small Mobile-VideoGPT in the released layout, written by `python -m calibration.make_demo --seed {seed}`. **Its weights are
random**, its answers mean nothing. `python -m calibration.train` begins with it.
"""
README = """{about}
{parameters:.2f} million parameters in float16; a byte-level BPE of {tokens} tokens, trained on sentences that the same program
generates. Nothing in it comes from another model or data set; its licence is this repository's.
"""


def demo_config(tokenizer: Tokenizer) -> ModelConfig:
    """The demo's sizes. CLIP stores one layer more than the three that run."""
    vocab = math.ceil(tokenizer.get_vocab_size() / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    return ModelConfig(
        clip=ClipConfig(width=CLIP_WIDTH, depth=3, heads=2, mlp_width=512, patch_size=16),
        videomamba=VideoMambaConfig(width=VIDEOMAMBA_WIDTH, depth=3, d_inner=128, d_state=16, d_conv=4, dt_rank=4, patch_size=16),
        image_projector=ProjectorConfig(ETP, 2, CLIP_WIDTH, DECODER_WIDTH),
        video_projector=ProjectorConfig(ETP, 2, VIDEOMAMBA_WIDTH, DECODER_WIDTH),
        decoder=DecoderConfig(width=DECODER_WIDTH, layers=3, heads=4, kv_heads=2, head_dim=32, ffn_width=384, vocab=vocab, tied=True),
        stop_ids=tuple(tokenizer.token_to_id(token) for token in STOP_TOKENS),
    )


def initial_weights(config: ModelConfig, seed: int) -> MobileVideoGPT:
    """A model whose weights are a function of (seed, name, shape) alone and keep activations of order one."""
    model = MobileVideoGPT(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(_initial(name, tuple(parameter.shape), seed)))
    return model.eval()


def _initial(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little")
    rng = np.random.Generator(np.random.Philox(key))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "A_log":  # S4D-real: A = -1, -2, ...
        return np.broadcast_to(np.log(np.arange(1, shape[1] + 1)), shape).astype(np.float32)
    if leaf == "D" or ("norm" in name and leaf == "weight"):
        return np.ones(shape, np.float32)
    if name.endswith("dt_proj.bias"):  # softplus(bias) log-uniform; Mamba's 0.001 to 0.1 would forget a frame before the next one
        dt = np.exp(rng.uniform(math.log(2e-4), math.log(0.05), shape))
        return (dt + np.log(-np.expm1(-dt))).astype(np.float32)
    if leaf == "bias":
        return np.zeros(shape, np.float32)
    if "position_embedding" in name:
        return smooth_positions(shape, rng)
    small = "token_embedding" in name or leaf.startswith("class_")
    scale = 0.02 if small else 1 / math.sqrt(math.prod(shape[1:]))
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def smooth_positions(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Position embeddings [.., N, C] that change slowly over a square grid (one more row, the class token's, stands first) or over time.

    An encoder has to tell near from far before it can tell where something goes, which random rows would not let it for long.
    """
    rows, width = shape[-2:]
    side = math.isqrt(rows - 1)
    if side * side == rows - 1:
        places = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
        places = np.concatenate([np.zeros((1, 2)), places])
    else:
        places = np.linspace(-1, 1, rows)[:, None]
    waves = np.concatenate([places, np.sin(2 * places), np.cos(2 * places), np.sin(4 * places)], axis=1)  # [N, features]
    embeddings = 0.5 * waves @ rng.standard_normal((waves.shape[1], width)) / math.sqrt(waves.shape[1] / 2)
    return embeddings.reshape(shape).astype(np.float32)


def train_tokenizer() -> Tokenizer:
    """A byte-level BPE, split as Qwen2's is, without normalisation: any text comes back as it was."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


COLOURS = "red green blue yellow orange purple white black grey pink brown cyan".split()
SHAPES = "circle square triangle star cross ring diamond rectangle ball box".split()
MOTIONS = "moves rolls slides drifts jumps falls rises turns grows shrinks bounces stops".split()
DIRECTIONS = (
    "to the left", "to the right", "up", "down", "from left to right", "from right to left", "from top to bottom", "from bottom to top",
    "across the screen", "towards the corner", "around the middle", "out of the picture", "into view",
)  # fmt: skip
PLACES = "in the middle|at the top|at the bottom|on the left side|on the right side|in the corner|in the background".split("|")
PEOPLE = "a man|a woman|a child|a dog|a cat|a bird|a car|a bicycle|two people|a group of people|the person".split("|")
ACTIONS = (
    "walking|running|sitting|standing|talking|cooking|eating|drinking|reading|writing|dancing|playing music|playing a game|"
    "driving|swimming|throwing something|opening a door|holding a phone|looking at the camera|cleaning the table"
).split("|")
SCENES = "in a kitchen|on a street|in a park|at the beach|in a room|on a stage|in an office|near a house|in the water|at night".split("|")
TIMES = "at the beginning|at the end|then|after that|for a few seconds|during the whole video|slowly|quickly|suddenly".split("|")
THINGS = (
    "apple bag banana bench boat book bottle bowl box bread bridge bus button cake chair clock cloud coat computer cup curtain desk "
    "drum engine fence fire fish flag floor flower forest fork fruit garden glass grass guitar hammer hand hat head horse keyboard "
    "kitchen knife ladder lamp letter light machine mirror mountain newspaper paper pencil piano plant plate pocket river road rope "
    "shadow shirt shoe sky snow spoon stone sugar sun tower train tree truck umbrella vegetable wall wheel window wind yard"
).split()
QUALITIES = "big small tall short round flat heavy light old new wet dry clean dirty empty full broken wooden plastic beautiful".split()
NUMBERS = "one two three four five six seven eight nine ten many several".split()
QUESTIONS = (
    "What happens in this video?", "What is shown in the video?", "Describe the video in detail.", "Can you describe this video?",
    "What colour is the shape?", "Which shape is it?", "What is the object?", "In which direction does it move?", "Where does it go?",
    "How many objects are there?", "Is it moving?", "Does the object move at the end?", "What happens first, and what happens next?",
    "Who is in the video?", "What are they doing?", "Why do you think so?", "Please answer with one word.", "Answer yes or no.",
)  # fmt: skip
PHRASES = (
    "Yes, it does.", "No, it does not.", "Yes.", "No.", "I am not sure.", "There is nothing else in the video.", "It stays where it is.",
    "You are a helpful assistant.", "The camera does not move.", "The background is dark and grainy.", "The background is bright.",
    "This video shows a scene without any people.", "I don't see that, but it's possible that they're outside of the picture.",
    "It can't be seen clearly, because the frame is too dark.", "They'll start again, and we've seen it before; that's all I'd say.",
    "system\nuser\nassistant\n", "0 1 2 3 4 5 6 7 8 9", "The answer is:", "(no)", '"yes"', "a, b, and c - not d!",
)  # fmt: skip


def sentences() -> Iterator[str]:
    """Plain English about videos, shapes, colours and motion: what the vocabulary is made from, in a fixed order."""
    yield from QUESTIONS * 20
    yield from PHRASES * 20
    for colour, shape, motion in itertools.product(COLOURS, SHAPES, MOTIONS):
        yield f"A {colour} {shape} {motion}."
    for shape, motion, direction in itertools.product(SHAPES, MOTIONS, DIRECTIONS):
        yield f"The {shape} {motion} {direction}."
    for colour, shape in itertools.product(COLOURS, SHAPES):
        yield f"Is the {shape} {colour}? Yes, the {shape} is {colour}. What colour is the {shape}? It is {colour}."
        for place in PLACES:
            yield f"There is a {colour} {shape} {place}. Do you see a {colour} {shape} {place}?"
    for number, shape in itertools.product(NUMBERS, SHAPES):
        yield f"There are {number} {shape}s in the video."
    for quality, thing in itertools.product(QUALITIES, THINGS):
        yield f"Someone takes the {quality} {thing} and puts it near another {thing}."
    for who, action, scene, time in itertools.product(PEOPLE, ACTIONS, SCENES, TIMES):
        yield f"The video shows {who} {action} {scene} {time}."


def write_demo(model: MobileVideoGPT, tokenizer: Tokenizer, out: Path, about: str, files: Mapping[str, str] | None = None) -> None:
    """Write a checkpoint's folder: config.json, model.safetensors, tokenizer.json, README.md, and `files` (name to text).

    Raises:
        ExportError: they cannot be written; what stood in `out` stays as it was.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    texts = {
        "tokenizer.json": tokenizer.to_str(pretty=True),
        "README.md": README.format(about=about, parameters=parameters, tokens=tokenizer.get_vocab_size()),
        **(files or {}),
    }
    out = out.resolve()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.partial-", dir=out.parent) as folder:
            partial = Path(folder)
            save_checkpoint(model, partial, dtype=torch.float16)
            for name, text in texts.items():
                (partial / name).write_text(text, encoding="utf-8")
            out.mkdir(exist_ok=True)
            for file in partial.iterdir():
                file.replace(out / file.name)
    except OSError as error:
        raise ExportError(f"{out} cannot be written ({error.strerror}): choose another folder with --out") from error


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m calibration.make_demo", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default: %(default)s)")
    arguments = parser.parse_args(argv)
    tokenizer = train_tokenizer()
    model = initial_weights(demo_config(tokenizer), arguments.seed)
    write_demo(model, tokenizer, arguments.out, UNTRAINED.format(seed=arguments.seed))
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    sys.exit(main())
