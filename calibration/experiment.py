"""The decoder with other weights, held against itself: what the comparisons of roundings and of layers share.

Only the decoder's linears are rounded, in the eager model; vision, embeddings and activations stay float32. The questions are others
than those that the statistics were collected on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from calibration.clips import write_clips
from calibration.collect import SYNTHETIC, clips_of, linears
from export.arguments import add_weight_arguments
from export.checkpoint import open_checkpoint
from export.errors import CalibrationError
from export.model.prompt import Encode
from export.quant.statistics import CalibrationFolder, InputStatistics, open_calibration
from runtime_py.agreement import Agreement, Asked, answer_distributions, compare
from runtime_py.backends.eager import EagerBackend
from runtime_py.evaluate import read_pixels
from runtime_py.load import backend_of_checkpoint, load_tokenizer
from runtime_py.stages import visual_tokens

DEFAULT_CLIPS, DEFAULT_QUESTIONS = 16, 8
TEST_SEED = 1  # of the synthetic clips asked about


@dataclasses.dataclass
class Experiment:
    """An eager model, the questions, and what the float model says to them."""

    backend: EagerBackend
    calibration: CalibrationFolder
    encode: Encode
    clips: Sequence[tuple[Tensor, Sequence[Asked]]]  # visual tokens [V, D], questions with answers

    def __post_init__(self) -> None:
        self._linears = {name.removeprefix("decoder/"): module for name, module in linears(self.backend, ["decoder"]).items()}
        self.weights: dict[str, Tensor] = {name: module.weight.detach() for name, module in self._linears.items()}
        self._expected = self._distributions()

    def statistics(self, layer: str) -> InputStatistics:
        return self.calibration.statistics("decoder", layer)

    def agreement(self, rounded: Mapping[str, Tensor]) -> Agreement:
        """How the decoder with these weights agrees with the float one; the layers that are not named keep theirs."""
        for name, module in self._linears.items():
            # Parameters of their own: a tied table stays float.
            module.weight = nn.Parameter(rounded.get(name, self.weights[name]), requires_grad=False)
        try:
            return compare(self._expected, self._distributions())
        finally:
            for name, module in self._linears.items():
                module.weight = nn.Parameter(self.weights[name], requires_grad=False)

    def _distributions(self) -> list[list[tuple[Tensor, list[int]]]]:
        return [list(answer_distributions(self.backend, self.encode, visual, asked)) for visual, asked in self.clips]


def add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="DIR_OR_HUB_ID")
    parser.add_argument("--calibration", type=Path, required=True, metavar="DIR", help="from calibration.collect")
    parser.add_argument("--clips", required=True, metavar=f"DIR|{SYNTHETIC}", help="with annotations.json; not those of the calibration")
    parser.add_argument("--limit", type=int, default=DEFAULT_CLIPS, metavar="N", help="clips (default: %(default)s)")
    add_weight_arguments(parser)


@contextlib.contextmanager
def experiment(args: argparse.Namespace) -> Iterator[Experiment]:
    """What the arguments ask for.

    Raises:
        CalibrationError: no statistics of this checkpoint, or questions without answers.
    """
    if args.limit < 1:
        raise CalibrationError(f"--limit {args.limit}: give at least 1")
    checkpoint = open_checkpoint(args.checkpoint, args.clip, args.videomamba, args.base)
    calibration = open_calibration(args.calibration, checkpoint.fingerprint())
    encode, _ = load_tokenizer(checkpoint.tokenizer_file, checkpoint.name)
    with tempfile.TemporaryDirectory() as drawn, torch.inference_mode():
        folder = Path(args.clips)
        if args.clips == SYNTHETIC:
            folder = Path(drawn)
            write_clips(folder, "test", args.limit, DEFAULT_QUESTIONS, TEST_SEED)
        found = clips_of(folder, args.limit)
        if not all(item.said for _, items in found for item in items):
            raise CalibrationError(f"--clips {args.clips}: answers are needed; put questions with answers into an annotations.json there")
        backend = backend_of_checkpoint(checkpoint)
        for layer in linears(backend, ["decoder"]):
            calibration.file_of(layer)  # now, not hours later
        clips = [
            (visual_tokens(backend, read_pixels(path, items[0])), [(item.prompt, item.said) for item in items]) for path, items in found
        ]
        yield Experiment(backend, calibration, encode, clips)
