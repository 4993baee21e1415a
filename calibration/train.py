"""`python -m calibration.train`: the demo checkpoint, trained on clips that this project draws. Two to three hours on two CPU cores.

    python -m calibration.train --out calibration/demo/checkpoint

Clips are drawn and encoded as H.264; each encoder learns alone what a clip shows (the image encoder and the video encoder at the
same time, a core each); their features are kept; projectors, embeddings and decoder learn to answer questions. Every part is saved
in --work as it goes, and a run that was interrupted goes on where it stopped. The same seed gives the same clips, steps and
questions; weights may differ in their last digits between machines, and from there on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from calibration.attention import MOVING, Shown, few_places, looks_at_shapes, looks_back, looks_of_answers
from calibration.encoders import (
    CLIP_PATCH_READOUTS,
    CLIP_READOUTS,
    FRAME_READOUTS,
    PATCH_READOUTS,
    PLACE_READOUTS,
    OwnPlace,
    Readouts,
    clip_targets,
    frame_targets,
    image_features,
    patch_targets,
    place_targets,
    video_features,
    with_fast_scan,
)  # fmt: skip
from calibration.features import FeatureStore
from calibration.language import NO_LOOKS, Branches, Looks, branch_logits, pack, pad, visual_prefix
from calibration.make_demo import DEFAULT_OUT, demo_config, initial_weights, train_tokenizer, write_demo
from calibration.questions import Question, questions_about
from calibration.scenes import COLOURS, SHAPES, Scene
from calibration.store import ClipStore
from calibration.training import Schedule, Stage
from export.arguments import ArgumentParser
from export.config import IMAGE_POOL_SIDE
from export.errors import ExportError, command
from export.model.mobile_videogpt import MobileVideoGPT
from export.model.prompt import USER, opening_ids
from export.progress import Progress

TRAIN_CLIPS, VALIDATION_CLIPS = 4000, 200
TOKENS = 8  # tokens of each picture, drawn anew each step, that have to tell the whole, beside their mean
QUESTIONS = 20  # about a clip in one step
TWO_TURNS = 0.3  # share of conversations with a second question
WITHOUT_IMAGE = WITHOUT_VIDEO = 0.1  # shares of clips where one branch says nothing: the other has to learn it too
ABOUT = """# Demo checkpoint

A small Mobile-VideoGPT in the released layout that answers questions about clips of moving shapes, trained by
`python -m calibration.train --seed {seed}`. It knows nothing else. The logs of its three stages stand beside it.
"""
LOG_EVERY = 100  # steps
LOOK = 0.3  # weight of what attention misses, see calibration/attention.py
IMAGE = Schedule(steps=2400, rate=3e-3)
VIDEO = Schedule(steps=10_000, rate=2e-3, plateau=0.2)
LANGUAGE = Schedule(steps=5000, rate=1.5e-3, plateau=0.2)
HALF_UNTIL = 0.7  # share of the video encoder's steps in which a clip shows half of its patches, for the time's sake
WHOLE_FROM = 0.97  # share of the decoder's steps from which it is shown all image tokens: before, a step takes a fifth of the time
IMAGE_BATCH, VIDEO_BATCH, LANGUAGE_BATCH = 32, 2, 4  # frames, clips, clips


class Training:
    """The whole training in one folder of work."""

    def __init__(self, work: Path, seed: int):
        self.work, self.seed = work, seed
        self.tokenizer = train_tokenizer()
        self.words = {self.encode(f" {word}")[0]: word for word in (*COLOURS, *SHAPES, MOVING)}  # each is one token
        self.user = self.encode(USER)[1]  # the word behind the control token
        self.model = initial_weights(demo_config(self.tokenizer), seed)
        self.train = ClipStore(work / "clips", "train", seed, TRAIN_CLIPS)
        self.validation = ClipStore(work / "clips", "validation", seed, VALIDATION_CLIPS)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def make_clips(self) -> None:
        for store in (self.validation, self.train):
            missing = store.missing()
            progress = Progress(len(missing))
            for shard in store.make(os.cpu_count() or 1) if missing else ():
                progress.step(f"{store.split} clips {shard.start} to {shard.stop - 1}")
            progress.close()
            store.open()

    def train_image(self) -> None:
        """Stage one, what a frame shows."""
        encoder = self.model.image_encoder
        readouts = nn.ModuleDict({
            "frame": Readouts(encoder.config.width, FRAME_READOUTS), "patch": Readouts(encoder.config.width, PATCH_READOUTS),
            "own_place": OwnPlace(encoder.config.width, encoder.config.grid),
        })  # fmt: skip
        stage = Stage("image", self.work, nn.ModuleDict({"encoder": encoder, "readouts": readouts}), IMAGE, self.seed)
        grid = encoder.config.grid
        targets = [
            (frame_targets(c.scene, c.tracks), patch_targets(c.scene, c.tracks, grid)[..., :3].to(torch.int8)) for c in self.train.clips
        ]
        for rng in stage.steps():
            clips, numbers = rng.integers(len(self.train), size=IMAGE_BATCH), rng.integers(16, size=IMAGE_BATCH)
            frames = np.stack([self.train.frames(clip)[number] for clip, number in zip(clips, numbers)])
            wanted = torch.stack([targets[clip][0][number] for clip, number in zip(clips, numbers)])
            patches = torch.stack([targets[clip][1][number] for clip, number in zip(clips, numbers)]).long()
            with torch.autocast("cpu", torch.bfloat16):
                features, tokens, patches = image_features(encoder, frames, patches, rng, TOKENS)
            loss, right = readouts["frame"].loss(features.float(), wanted)
            patch_loss, patch_right = readouts["patch"].patch_loss(tokens.float(), patches)
            place_loss, astray = readouts["own_place"](tokens.float())
            (loss + patch_loss + place_loss).backward()
            stage.report(loss.item() + patch_loss.item())
            if stage.step % LOG_EVERY == 0:
                stage.log(frame=_rounded(right), patch=_rounded(patch_right), patches_astray=round(astray.item(), 2))

    def train_video(self) -> None:
        """Stage one, what happens in a clip."""
        encoder = with_fast_scan(self.model.video_encoder)
        width, grid = encoder.config.width, encoder.config.grid
        kinds = {"clip": CLIP_READOUTS, "place": PLACE_READOUTS, "patch": CLIP_PATCH_READOUTS}
        readouts = nn.ModuleDict({name: Readouts(width, kind) for name, kind in kinds.items()})
        stage = Stage("video", self.work, nn.ModuleDict({"encoder": encoder, "readouts": readouts}), VIDEO, self.seed)
        targets = [
            (clip_targets(c.scene), place_targets(c.scene, c.tracks), patch_targets(c.scene, c.tracks, grid)[..., [1, 3, 4]].to(torch.int8))
            for c in self.train.clips
        ]  # fmt: skip
        for rng in stage.steps():
            losses, rights = [], []
            for clip in rng.integers(len(self.train), size=VIDEO_BATCH):
                whole, place, patch = targets[clip]
                share = 0.5 if stage.step < HALF_UNTIL * VIDEO.steps else 1.0
                features, tokens, chosen, kept = video_features(encoder, self.train.frames(clip), rng, TOKENS, share)
                means = tokens.mean(1, keepdim=True)
                loss, right = readouts["clip"].loss(features, whole[None])
                patch_loss, patch_right = readouts["patch"].patch_loss(tokens, patch[chosen][:, kept].long())
                loss = loss + patch_loss + readouts["place"].loss(means, place[chosen])[0]
                (loss / VIDEO_BATCH).backward()
                losses.append(loss.item())
                rights.append(torch.cat([right, patch_right]))
            stage.report(float(np.mean(losses)))
            if stage.step % LOG_EVERY == 0:
                stage.log(clip_and_patch=_rounded(torch.stack(rights).nanmean(0)))

    def make_features(self) -> tuple[FeatureStore, FeatureStore]:
        """Run the trained encoders, frozen, over all clips."""
        for name in ("image", "video"):
            state = torch.load(self.work / f"{name}.pt", weights_only=True)["modules"]
            encoder = getattr(self.model, f"{name}_encoder")
            encoder.load_state_dict({key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")})
            encoder.requires_grad_(False)
        stores = FeatureStore(self.work / "features", self.train), FeatureStore(self.work / "features", self.validation)
        progress = Progress(2 * sum(len(store.clips.shards()) for store in stores))
        with_fast_scan(self.model.video_encoder)
        for store in stores:
            for shards in (store.make_image(self.model.image_encoder), store.make_video(self.model.video_encoder)):
                for shard in shards:
                    progress.step(f"features of {store.clips.split} clips {shard.start} to {shard.stop - 1}")
        progress.close()
        train, validation = stores
        return train.open(), validation.open()

    def train_language(self, train: FeatureStore, validation: FeatureStore) -> None:
        """Stage two: everything behind the encoders."""
        model = self.model
        parts = {name: getattr(model, name) for name in ("image_projector", "video_projector", "token_embedding", "decoder")}
        stage = Stage("language", self.work, nn.ModuleDict(parts), LANGUAGE, self.seed)
        before = opening_ids(self.encode)
        for rng in stage.steps():
            clips = rng.integers(len(train.clips), size=LANGUAGE_BATCH)
            few = stage.step < WHOLE_FROM * LANGUAGE.steps
            loss, _ = self._language_loss(model, before, train, clips, rng, taught=True, few=few)
            loss.backward()
            stage.report(loss.item())
            if stage.step % LOG_EVERY == 0:
                stage.log(validation=self._validate(model, before, validation))

    def _language_loss(
        self,
        model: MobileVideoGPT,
        before: list[int],
        store: FeatureStore,
        clips: np.ndarray,
        rng: np.random.Generator,
        taught: bool,
        few: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross entropy of the answers' tokens, and for each of them whether the best guess is right. `taught`: with what attention
        misses, and with some clips' image or video tokens taken away."""
        image = torch.stack([store.image(clip) for clip in clips]).float()  # [B, 16, P, C]
        pooled = torch.stack([store.video(clip) for clip in clips]).float()  # [B, 2, 196, W]
        if taught:
            draws = rng.random(len(clips))
            image[torch.from_numpy(draws < WITHOUT_IMAGE)] = 0
            pooled[torch.from_numpy(draws > 1 - WITHOUT_VIDEO)] = 0
        scenes = [store.clips.clips[clip] for clip in clips]
        branches = pad([pack(_conversations(clip.scene, rng), self.encode) for clip in scenes])
        targets = torch.from_numpy(branches.targets)
        covered = [patch_targets(clip.scene, clip.tracks, IMAGE_POOL_SIDE)[..., 1].numpy() for clip in scenes]  # [16, 144]: colours
        whole = np.arange(len(before) + model.config.visual_tokens)
        kept = [few_places(len(before), model.config.visual_tokens, cover, rng) if few else whole for cover in covered]
        looks = self._looks([clip.scene for clip in scenes], covered, kept, branches, len(before), back=few) if taught else NO_LOOKS
        with torch.autocast("cpu", torch.bfloat16):
            prefix = visual_prefix(model, before, image, pooled)
            places = torch.from_numpy(np.stack(kept))
            logits, missed = branch_logits(model, prefix, branches, places, looks)
        said = targets >= 0
        logits = logits[said].float()
        return F.cross_entropy(logits, targets[said]) + LOOK * missed, logits.argmax(-1) == targets[said]

    def _looks(
        self, scenes: list[Scene], covered: list[np.ndarray], kept: list[np.ndarray], branches: Branches, before: int, back: bool
    ) -> Looks:
        """Where the tokens of several clips are to look; what they cover and which are kept, for each. Without `back` the prefix is left to
        itself: of all its tokens to all would take gigabytes."""
        shown = [Shown(cover, places, before) for cover, places in zip(covered, kept)]
        per_clip = list(zip(scenes, shown, branches.ids, branches.targets))
        words = [looks_at_shapes(scene, clip, ids, self.words) for scene, clip, ids, _ in per_clip]
        answers = [looks_of_answers(scene, clip, ids, targets, self.words, self.user) for scene, clip, ids, targets in per_clip]
        looks = (words, answers, [looks_back(scene, clip) for scene, clip, *_ in per_clip] if back else None)
        return Looks(*(torch.from_numpy(np.stack(one)) if one else None for one in looks))

    @torch.inference_mode()
    def _validate(self, model: MobileVideoGPT, before: list[int], store: FeatureStore) -> dict[str, float]:
        """The share of right answer tokens over some validation clips."""
        right = []
        for start in range(0, 20, LANGUAGE_BATCH):
            clips = np.arange(start, start + LANGUAGE_BATCH)
            right.append(self._language_loss(model, before, store, clips, np.random.default_rng(start), taught=False)[1])
        return {"tokens": round(float(torch.cat(right).float().mean()), 4)}

    def write(self, out: Path) -> None:
        state = torch.load(self.work / "language.pt", weights_only=True)["modules"]
        self.model.load_state_dict(state, strict=False)
        files = {f"{name}.jsonl": (self.work / f"{name}.jsonl").read_text(encoding="utf-8") for name in ("image", "video", "language")}
        write_demo(self.model, self.tokenizer, out, ABOUT.format(seed=self.seed), files)


def _conversations(scene: Scene, rng: np.random.Generator) -> list[list[Question]]:
    """Questions about a scene in conversations of one or two turns."""
    left = questions_about(scene, rng, QUESTIONS)
    conversations = []
    while left:
        turns = 2 if len(left) > 1 and rng.random() < TWO_TURNS else 1
        conversations.append([left.pop() for _ in range(turns)])
    return conversations


def _rounded(shares: torch.Tensor) -> list[float]:
    return [round(share, 3) for share in shares.tolist()]


def _encoder_process(name: str, work: Path, seed: int) -> None:
    """One encoder's training in a process and on a core of its own."""
    torch.set_num_threads(1)
    training = Training(work, seed)
    training.train.open()
    with contextlib.suppress(KeyboardInterrupt):
        {"image": training.train_image, "video": training.train_video}[name]()


def train_encoders(work: Path, seed: int) -> None:
    """Both encoders at once.

    Raises:
        ExportError: one of them failed; its own message stands above.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_encoder_process, args=(name, work, seed)) for name in ("image", "video")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise ExportError("an encoder's training ended early: run the same command again to go on")


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m calibration.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help="checkpoint folder to write (default: %(default)s)")
    work_help = "folder for clips and states, 13 GB; remove it afterwards (default: %(default)s)"
    parser.add_argument("--work", type=Path, default=Path("build/training"), metavar="DIR", help=work_help)
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    training = Training(args.work, args.seed)
    training.make_clips()
    train_encoders(args.work, args.seed)
    training.train_language(*training.make_features())
    training.write(args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    sys.exit(main())
