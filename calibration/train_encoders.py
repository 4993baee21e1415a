"""Training, stage one as it runs: each vision encoder on the clips, with readouts that are thrown away afterwards."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

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
)
from calibration.make_demo import demo_config, initial_weights, train_tokenizer
from calibration.scenes import CLIP_FRAMES
from calibration.store import ClipStore
from calibration.training import LOG_EVERY, Plan, Schedule, Stage
from export.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, ExportError, one_line
from export.model.clip import ClipVisionEncoder
from export.model.videomamba import VideoMambaEncoder

TOKENS = 8  # tokens of each picture, drawn anew each step, that have to tell the whole, beside their mean
HALF_UNTIL = 0.7  # share of the video encoder's steps in which a clip shows half of its patches, for the time's sake
IMAGE_BATCH, VIDEO_BATCH = 32, 2  # frames, clips


def train_image(encoder: ClipVisionEncoder, clips: ClipStore, schedule: Schedule, work: Path, seed: int) -> None:
    """What a frame shows."""
    readouts = nn.ModuleDict({
        "frame": Readouts(encoder.config.width, FRAME_READOUTS), "patch": Readouts(encoder.config.width, PATCH_READOUTS),
        "own_place": OwnPlace(encoder.config.width, encoder.config.grid),
    })  # fmt: skip
    device = encoder.class_embedding.device
    stage = Stage("image", work, nn.ModuleDict({"encoder": encoder, "readouts": readouts.to(device)}), schedule, seed)
    grid = encoder.config.grid
    targets = [(frame_targets(c.scene, c.tracks), patch_targets(c.scene, c.tracks, grid)[..., :3].to(torch.int8)) for c in clips.clips]
    for rng in stage.steps():
        chosen, numbers = rng.integers(len(clips), size=IMAGE_BATCH), rng.integers(CLIP_FRAMES, size=IMAGE_BATCH)
        frames = np.stack([clips.frames(clip)[number] for clip, number in zip(chosen, numbers)])
        wanted = torch.stack([targets[clip][0][number] for clip, number in zip(chosen, numbers)]).to(device)
        patches = torch.stack([targets[clip][1][number] for clip, number in zip(chosen, numbers)]).to(device).long()
        with torch.autocast(device.type, torch.bfloat16):
            features, tokens, patches = image_features(encoder, frames, patches, rng, TOKENS)
        loss, right = readouts["frame"].loss(features.float(), wanted)
        patch_loss, patch_right = readouts["patch"].patch_loss(tokens.float(), patches)
        place_loss, astray = readouts["own_place"](tokens.float())
        (loss + patch_loss + place_loss).backward()
        stage.report(loss.item() + patch_loss.item())
        if stage.step % LOG_EVERY == 0:
            stage.log(frame=_rounded(right), patch=_rounded(patch_right), patches_astray=round(astray.item(), 2))


def train_video(encoder: VideoMambaEncoder, clips: ClipStore, schedule: Schedule, work: Path, seed: int) -> None:
    """What happens in a clip."""
    with_fast_scan(encoder)
    width, grid = encoder.config.width, encoder.config.grid
    kinds = {"clip": CLIP_READOUTS, "place": PLACE_READOUTS, "patch": CLIP_PATCH_READOUTS}
    readouts = nn.ModuleDict({name: Readouts(width, kind) for name, kind in kinds.items()})
    device = encoder.class_token.device
    stage = Stage("video", work, nn.ModuleDict({"encoder": encoder, "readouts": readouts.to(device)}), schedule, seed)
    targets = [
        (clip_targets(c.scene), place_targets(c.scene, c.tracks), patch_targets(c.scene, c.tracks, grid)[..., [1, 3, 4]].to(torch.int8))
        for c in clips.clips
    ]  # fmt: skip
    for rng in stage.steps():
        losses, rights = [], []
        for clip in rng.integers(len(clips), size=VIDEO_BATCH):
            whole, place, patch = targets[clip]
            share = 0.5 if stage.step < HALF_UNTIL * schedule.steps else 1.0
            features, tokens, chosen, kept = video_features(encoder, clips.frames(clip), rng, TOKENS, share)
            means = tokens.mean(1, keepdim=True)
            loss, right = readouts["clip"].loss(features, whole[None].to(device))
            patch_loss, patch_right = readouts["patch"].patch_loss(tokens, patch[chosen][:, kept].to(device).long())
            loss = loss + patch_loss + readouts["place"].loss(means, place[chosen].to(device))[0]
            (loss / VIDEO_BATCH).backward()
            losses.append(loss.item())
            rights.append(torch.cat([right, patch_right]))
        stage.report(float(np.mean(losses)))
        if stage.step % LOG_EVERY == 0:
            stage.log(clip_and_patch=_rounded(torch.stack(rights).nanmean(0)))


def _rounded(shares: Tensor) -> list[float]:
    return [round(share, 3) for share in shares.tolist()]


def _encoder_process(name: str, plan: Plan, work: Path, seed: int, device: str) -> None:
    """One encoder's training in a process and on a core of its own, or both on one GPU."""
    torch.set_num_threads(1)
    model = initial_weights(demo_config(train_tokenizer()), seed).to(device)
    clips = plan.clips(work, seed)[0].open()
    try:
        if name == "image":
            train_image(model.image_encoder, clips, plan.image, work, seed)
        else:
            train_video(model.video_encoder, clips, plan.video, work, seed)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except ExportError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(error.exit_code)


def train_encoders(plan: Plan, work: Path, seed: int, device: str = "cpu") -> None:
    """Both encoders at once.

    Raises:
        ExportError: one of them failed; its own message stands above.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_encoder_process, args=(name, plan, work, seed, device)) for name in ("image", "video")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = {process.exitcode for process in processes}
    if EXIT_BAD_INPUT in codes:
        raise ExportError("an encoder cannot be trained: its own line stands above")
    if codes != {0}:
        raise ExportError("an encoder's training ended early: run the same command again to go on")
