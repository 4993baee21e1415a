"""`python -m runtime_py.dump`: every stage of the model as a full array.

    python -m runtime_py.dump --bundle bundles/demo --frames frames.npy --ids ids.npy --out stages.npz
    python -m runtime_py.dump --checkpoint tiny/ --frames frames.npy --ids ids.npy --out stages.npz --new-tokens 24

frames: uint8 RGB [n, H, W, 3], n <= 16, padded to 16. ids: int64; the run of -200, of any length, stands for all visual tokens.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np

from export.arguments import ArgumentParser
from export.config import FRAMES
from export.errors import ExportError, PromptError, VideoError, command
from runtime_py.files import check_writable, replacing
from runtime_py.load import add_source_arguments, open_source
from runtime_py.stages import GREEDY_STEPS, Pixels, compute_stages


def read_array(path: Path, kind: type[ExportError]) -> np.ndarray:
    """A .npy file's array, never unpickled."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise kind(f"{path} cannot be read as a .npy array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise kind(f"{path} is an archive of arrays (.npz): save the one array with numpy.save")
    return array


def read_frames_array(path: Path) -> np.ndarray:
    """uint8 RGB frames [n, H, W, 3], 1 <= n <= 16."""
    frames = read_array(path, VideoError)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not 1 <= frames.shape[0] <= FRAMES or 0 in frames.shape:
        raise VideoError(
            f"{path} holds {frames.dtype} {list(frames.shape)}: frames are uint8 RGB [n, height, width, 3] with 1 to {FRAMES} frames"
        )
    return frames


def read_ids_array(path: Path) -> list[int]:
    """Token ids [n], integers."""
    ids = read_array(path, PromptError)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) or not len(ids):
        raise PromptError(f"{path} holds {ids.dtype} {list(ids.shape)}: ids are a list of int64, the visual placeholder is -200")
    return ids.tolist()


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m runtime_py.dump", description=__doc__)
    add_source_arguments(parser)
    parser.add_argument("--frames", type=Path, required=True, metavar="F.npy", help="uint8 RGB frames [n, H, W, 3]")
    parser.add_argument("--ids", type=Path, required=True, metavar="I.npy", help="int64 prompt ids with the -200 placeholder")
    parser.add_argument("--out", type=Path, required=True, metavar="S.npz", help="file to write")
    parser.add_argument("--new-tokens", type=int, default=GREEDY_STEPS, metavar="N", help=f"greedy steps (default: {GREEDY_STEPS})")
    args = parser.parse_args(argv)
    if args.new_tokens < 1:
        raise PromptError(f"--new-tokens {args.new_tokens}: give at least 1")
    check_writable(args.out)
    frames, ids = read_frames_array(args.frames), read_ids_array(args.ids)
    backend, _ = open_source(args)
    stages = compute_stages(backend, Pixels.of(list(frames)), ids, args.new_tokens)
    with replacing(args.out) as file:
        np.savez(file, **{name: value.numpy() for name, value in stages.values.items()})
    print(f"{args.out}: {len(stages.values)} stages from {backend.name}")


if __name__ == "__main__":
    sys.exit(main())
