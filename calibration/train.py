"""`python -m calibration.train`: the demo checkpoint, trained on clips that this project draws. About two hours on two CPU cores.

    python -m calibration.train --out calibration/demo/checkpoint
    python -m calibration.train --out calibration/demo/checkpoint --device cuda

Clips are drawn and encoded as H.264; each encoder learns alone what a clip shows (the image encoder and the video encoder at the
same time, a core each); their features are kept; projectors, embeddings and decoder learn to answer questions. Every part is saved
in --work as it goes, and a run that was interrupted goes on where it stopped. The same seed gives the same clips, steps and
questions; weights may differ in their last digits between machines, and from there on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import torch

from calibration.encoders import with_fast_scan
from calibration.features import FeatureStore
from calibration.make_demo import DEFAULT_OUT, demo_config, initial_weights, train_tokenizer, write_demo
from calibration.train_encoders import train_encoders
from calibration.train_language import LanguageTraining
from calibration.training import Plan, Schedule
from export.arguments import ArgumentParser
from export.errors import ExportError, command
from export.model.mobile_videogpt import MobileVideoGPT
from export.progress import Progress

STAGES = ("image", "video", "language")
ABOUT = """# Demo checkpoint

A small Mobile-VideoGPT in the released layout that answers questions about clips of moving shapes, trained by
`python -m calibration.train --seed {seed}`. It knows nothing else. The logs of its three stages stand beside it.
"""
PLAN = Plan(
    train_clips=4000,
    validation_clips=200,
    image=Schedule(steps=2400, rate=3e-3),
    video=Schedule(steps=10_000, rate=2e-3, plateau=0.2),
    language=Schedule(steps=5000, rate=1.5e-3, plateau=0.2),
)


def make_clips(plan: Plan, work: Path, seed: int) -> None:
    """Draw and encode what is not there yet."""
    for store in plan.clips(work, seed):
        missing = store.missing()
        progress = Progress(len(missing))
        for shard in store.make(os.cpu_count() or 1) if missing else ():
            progress.step(f"{store.split} clips {shard.start} to {shard.stop - 1}")
        progress.close()


def make_features(model: MobileVideoGPT, plan: Plan, work: Path, seed: int) -> list[FeatureStore]:
    """Run the trained encoders, frozen, over all clips: of the training, of the validation. Features of other encoders, or of another
    seed's clips, are removed."""
    which = hashlib.sha256(str(seed).encode())
    for name in ("image", "video"):
        state = torch.load(work / f"{name}.pt", map_location="cpu", weights_only=True)["modules"]
        weights = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
        encoder = getattr(model, f"{name}_encoder")
        encoder.load_state_dict(weights)
        encoder.requires_grad_(False)
        for value in weights.values():
            which.update(value.numpy().tobytes())
    with_fast_scan(model.video_encoder)
    features = work / "features" / which.hexdigest()[:16]
    for other in set((work / "features").glob("*")) - {features}:
        shutil.rmtree(other)
    stores = [FeatureStore(features, clips.open()) for clips in plan.clips(work, seed)]
    progress = Progress(2 * sum(len(store.clips.shards()) for store in stores))
    for store in stores:
        for shards in (store.make_image(model.image_encoder), store.make_video(model.video_encoder)):
            for shard in shards:
                progress.step(f"features of {store.clips.split} clips {shard.start} to {shard.stop - 1}")
    progress.close()
    return [store.open() for store in stores]


def train(plan: Plan, work: Path, out: Path, seed: int, device: str = "cpu") -> None:
    """Every stage that is not finished, and the checkpoint."""
    make_clips(plan, work, seed)
    train_encoders(plan, work, seed, device)
    tokenizer = train_tokenizer()
    model = initial_weights(demo_config(tokenizer), seed).to(device)
    LanguageTraining(model, tokenizer, *make_features(model, plan, work, seed)).run(plan.language, work, seed)
    files = {f"{name}.jsonl": (work / f"{name}.jsonl").read_text(encoding="utf-8") for name in STAGES}
    write_demo(model.cpu(), tokenizer, out, ABOUT.format(seed=seed), files)


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m calibration.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help="checkpoint folder to write (default: %(default)s)")
    work_help = "folder for clips and states, 13 GB; remove it afterwards (default: %(default)s)"
    parser.add_argument("--work", type=Path, default=Path("build/training"), metavar="DIR", help=work_help)
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ExportError("--device cuda: PyTorch sees no CUDA device here: leave it out, the CPU takes about two hours")
    args.work.mkdir(parents=True, exist_ok=True)
    train(PLAN, args.work, args.out, args.seed, args.device)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    sys.exit(main())
