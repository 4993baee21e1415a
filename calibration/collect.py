"""What a checkpoint's linears are fed with while it answers questions: the statistics that calibrated recipes read.

    python -m calibration.collect --checkpoint calibration/demo/checkpoint --clips synthetic --out calibration-demo
    python -m calibration.collect --checkpoint Amshaker/Mobile-VideoGPT-0.5B --clips my_clips/ --out calibration-half

--clips is a folder of videos. Where it holds an `annotations.json` (any form that runtime_py.evaluate reads), its questions and
answers are asked; otherwise each video is asked for a description, and the model's own answer is what it is fed with. The reference
model runs in float32. Statistics are sums, so memory does not grow with the clips; --memory bounds it by taking the layers in
several passes.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from calibration.clips import ANNOTATIONS, write_clips
from export.arguments import ArgumentParser, add_weight_arguments
from export.checkpoint import Checkpoint, open_checkpoint
from export.components import COMPONENTS
from export.config import MAX_CONTEXT
from export.errors import CalibrationError, VideoError, command, one_line
from export.model.prompt import Encode, answer_ids, opening_ids, question_ids
from export.progress import Progress
from export.quant.statistics import INDEX, index_text
from runtime_py.annotations import VIDEO_SUFFIXES, Item, by_clip, find_video, read_annotations
from runtime_py.backends.eager import EagerBackend
from runtime_py.evaluate import read_pixels
from runtime_py.load import backend_of_checkpoint, load_tokenizer
from runtime_py.sampling import Sampler
from runtime_py.stages import Pixels, embed, visual_tokens

WATCHED = tuple(name for name in COMPONENTS if name not in ("frame_scorer", "token_embedding"))
SYNTHETIC = "synthetic"
DEFAULT_QUESTION = "What happens in this video?"
ANSWER_TOKENS = 64  # of the model's own answer, where none is given
# Of the decoder's statistics: 2,402 visual tokens would drown the few that ask and answer.
TEXT_SHARE = 0.5
SYNTHETIC_CLIPS, SYNTHETIC_QUESTIONS = 128, 8


class Accumulator:
    """The sums of one input of linears: rows come in with a weight each."""

    def __init__(self, width: int):
        self.gram = torch.zeros(width, width, dtype=torch.float64)
        self.sum_abs = torch.zeros(width, dtype=torch.float64)
        self.max_abs = torch.zeros(width)
        self.weight = 0.0

    def add(self, rows: Tensor, weight: float) -> None:
        """Rows [n, in], `weight` each."""
        rows = rows.detach().float().reshape(-1, rows.shape[-1])
        self.gram += (rows.T @ rows).double() * weight
        self.sum_abs += rows.abs().sum(0).double() * weight
        self.max_abs = torch.maximum(self.max_abs, rows.abs().amax(0))
        self.weight += weight * len(rows)

    def tensors(self) -> dict[str, Tensor]:
        """As `export.quant.statistics` describes them."""
        if not self.weight:
            raise CalibrationError("a layer saw no input: this is a fault of calibration.collect")
        gram = (self.gram / self.weight).float()
        return {"gram": gram, "mean_abs": (self.sum_abs / self.weight).float(), "max_abs": self.max_abs}

    @staticmethod
    def bytes(width: int) -> int:
        return 8 * width * width + 12 * width


class Watch:
    """Hooks on linears that feed accumulators. Linears that are fed with the same tensor share one, found out on a first clip."""

    def __init__(self, layers: dict[str, nn.Linear]):
        self.layers = layers
        self.weight = 1.0  # of a row in what runs now
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def groups(self, run: Callable[[], None]) -> list[list[str]]:
        """The layers by the input that they share, as one run shows."""
        inputs: list[weakref.ref[Tensor]] = []  # no input is kept alive for this: a dead one is nobody's any more
        seen: dict[str, int] = {}  # layer -> its input's place there

        def note(name: str) -> Callable:
            def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                if name not in seen:
                    known = (place for place, kept in enumerate(inputs) if kept() is args[0])
                    seen[name] = next(known, len(inputs))
                    if seen[name] == len(inputs):
                        inputs.append(weakref.ref(args[0]))

            return hook

        self._hook(self.layers, note)
        run()
        self.release()
        unseen = [name for name in self.layers if name not in seen]
        if unseen:
            raise CalibrationError(f"{unseen[0]} is never run: this is a fault of calibration.collect")
        groups: dict[int, list[str]] = {}
        for name in self.layers:
            groups.setdefault(seen[name], []).append(name)
        return list(groups.values())

    def collect(self, groups: Sequence[Sequence[str]]) -> dict[str, Accumulator]:
        """Begin to watch the first layer of each group; its accumulators by name."""
        sums = {names[0]: Accumulator(self.layers[names[0]].in_features) for names in groups}

        def note(name: str) -> Callable:
            return lambda _, inputs: sums[name].add(inputs[0], self.weight)

        self._hook(sums, note)
        return sums

    def release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _hook(self, names: Iterator[str] | dict, note: Callable[[str], Callable]) -> None:
        self._handles = [self.layers[name].register_forward_pre_hook(note(name)) for name in names]


def run_clip(backend: EagerBackend, encode: Encode, pixels: Pixels, items: Sequence[Item], watch: Watch) -> None:
    """Ask the questions about one clip, answers fed in, behind one visual prefix; rows are weighted so that each clip counts alike."""
    watch.weight = 1.0
    visual = visual_tokens(backend, pixels)
    prefix = torch.cat([embed(backend, opening_ids(encode)), visual])
    watch.weight = (1 - TEXT_SHARE) / len(prefix)
    backend.decode(prefix, 0)
    for item in items:
        question = question_ids(item.prompt, encode)
        answer = answer_ids(item.said, encode) if item.said else None
        watch.weight = TEXT_SHARE / (len(items) * (len(question) + len(answer or [None] * ANSWER_TOKENS)))
        logits = backend.decode(embed(backend, question), len(prefix))
        position = len(prefix) + len(question)
        tokens = iter(answer) if answer is not None else None
        for _ in range(ANSWER_TOKENS if answer is None else len(answer)):
            token = next(tokens) if tokens is not None else Sampler()(logits)
            if position >= backend.max_context or (tokens is None and token in backend.config.stop_ids):
                break
            logits = backend.decode(embed(backend, [token]), position)
            position += 1


def linears(backend: EagerBackend, components: Sequence[str]) -> dict[str, nn.Linear]:
    """The linears of components by "component/layer", named as the exported twins name them."""
    found = {}
    for component in components:
        module = getattr(backend.model, component)
        found |= {f"{component}/{_in_the_twin(name)}": layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    return found


def _in_the_twin(layer: str) -> str:
    """The name of an eager linear in the graph: the video encoder's has its mixers in a list of their own."""
    return re.sub(r"^layers\.(\d+)\.mixer\.", r"mixers.\1.", layer)


def passes(groups: Sequence[Sequence[str]], layers: dict[str, nn.Linear], memory_bytes: int) -> list[list[Sequence[str]]]:
    """The groups in batches whose accumulators fit in `memory_bytes`; one that alone does not is a batch of its own."""
    batches: list[list[Sequence[str]]] = []
    room = 0
    for group in groups:
        size = Accumulator.bytes(layers[group[0]].in_features)
        if not batches or size > room:
            batches.append([])
            room = memory_bytes
        batches[-1].append(group)
        room -= size
    return batches


def collect(
    checkpoint: Checkpoint, clips: Sequence[tuple[Path, Sequence[Item]]], out: Path, components: Sequence[str], memory_bytes: int
) -> None:
    """Run the reference over the clips and write the folder, which appears when it is complete.

    Raises:
        CalibrationError: `out` stands there already, or a clip cannot be asked.
    """
    from safetensors.torch import save

    if out.exists():
        raise CalibrationError(f"{out} stands there already: choose another --out, or remove it")
    encode, _ = load_tokenizer(checkpoint.tokenizer_file, checkpoint.name)
    backend = backend_of_checkpoint(checkpoint, max_context=MAX_CONTEXT)
    layers = linears(backend, components)
    watch = Watch(layers)

    def run(clip: tuple[Path, Sequence[Item]]) -> None:
        path, items = clip
        run_clip(backend, encode, read_pixels(path, items[0]), items, watch)

    first = (clips[0][0], clips[0][1][:1])
    groups = watch.groups(lambda: run(first))
    batches = passes(groups, layers, memory_bytes)
    progress = Progress(len(batches) * len(clips))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.partial-", dir=out.parent) as folder:
        files, hashes = {}, {}
        for batch in batches:
            sums = watch.collect(batch)
            for clip in clips:
                run(clip)
                progress.step(f"{clip[0].name}: {len(batch)} inputs")
            watch.release()
            for names in batch:
                data = save(sums[names[0]].tensors())
                file = f"{names[0].replace('/', '.')}.safetensors"
                (Path(folder) / file).write_bytes(data)
                hashes[file] = hashlib.sha256(data).hexdigest()
                files |= dict.fromkeys(names, file)
            del sums
        progress.close()
        text = index_text(
            checkpoint_fingerprint=checkpoint.fingerprint(),
            checkpoint=checkpoint.name,
            clips=len(clips),
            questions=sum(len(items) for _, items in clips),
            prompts=sorted({item.prompt for _, items in clips for item in items})[:100],
            text_share=TEXT_SHARE,
            layers=files,
            sha256=hashes,
        )
        (Path(folder) / INDEX).write_text(text, encoding="utf-8")
        Path(folder).chmod(0o755)
        Path(folder).rename(out)
        Path(folder).mkdir()  # for the context manager to remove


def clips_of(folder: Path, limit: int | None = None) -> list[tuple[Path, list[Item]]]:
    """The first videos of a folder, with the questions that its annotations ask about them, or one that is asked of all. Those that
    cannot be read are left out, with a warning: met in the middle of a long run, one would cost all of it.

    Raises:
        CalibrationError: there are none.
    """
    readable = []
    for path, items in _named_clips(folder, limit):
        try:
            read_pixels(path, items[0])
            readable.append((path, items))
        except VideoError as error:
            print(f"warning: a clip is left out: {one_line(error)}", file=sys.stderr, flush=True)
    if not readable:
        raise CalibrationError(f"--clips {folder}: none of its videos can be read")
    return readable


def _named_clips(folder: Path, limit: int | None) -> list[tuple[Path, list[Item]]]:
    if not folder.is_dir():
        raise CalibrationError(f"--clips {folder} is no folder: give one of videos, or {SYNTHETIC}")
    annotations = folder / ANNOTATIONS
    if annotations.exists():
        return [(find_video(folder, items[0].video), items) for items in by_clip(read_annotations(annotations))[:limit]]
    videos = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES[1:])
    if not videos:
        raise CalibrationError(f"--clips {folder} has no videos ({', '.join(VIDEO_SUFFIXES[1:])})")
    return [(path, [Item(number, path.name, DEFAULT_QUESTION, "")]) for number, path in enumerate(videos[:limit])]


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m calibration.collect", description=__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="DIR_OR_HUB_ID")
    parser.add_argument("--clips", required=True, metavar=f"DIR|{SYNTHETIC}", help="a folder of videos, or clips that this program draws")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N clips")
    parser.add_argument("--components", nargs="+", default=["decoder"], metavar="C", help="whose linears are watched (default: decoder)")
    parser.add_argument("--memory", type=float, default=4.0, metavar="GB", help="for the sums (default: %(default)s)")
    add_weight_arguments(parser)
    args = parser.parse_args(argv)
    unknown = [name for name in args.components if name not in WATCHED]
    if unknown:
        raise CalibrationError(f"--components {unknown[0]}: choose from {', '.join(WATCHED)}, which have linears")
    if args.limit is not None and args.limit < 1 or args.memory <= 0:
        raise CalibrationError("--limit and --memory have to be above 0")
    checkpoint = open_checkpoint(args.checkpoint, args.clip, args.videomamba, args.base)
    with tempfile.TemporaryDirectory() as drawn:
        folder = Path(args.clips)
        if args.clips == SYNTHETIC:
            folder = Path(drawn)
            write_clips(folder, "validation", args.limit or SYNTHETIC_CLIPS, SYNTHETIC_QUESTIONS)
        clips = clips_of(folder, args.limit)
        collect(checkpoint, clips, args.out, args.components, int(args.memory * 1e9))
    print(f"{args.out}: {len(clips)} clips, {sum(len(items) for _, items in clips)} questions")


if __name__ == "__main__":
    sys.exit(main())
