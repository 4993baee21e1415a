"""Training, stage two as it runs: projectors, embeddings and decoder learn to answer, the encoders' features being kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from calibration.attention import MOVING, Shown, few_places, looks_at_shapes, looks_back, looks_of_answers
from calibration.encoders import patch_targets
from calibration.features import FeatureStore
from calibration.language import NO_LOOKS, Branches, Looks, branch_logits, pack, pad, visual_prefix
from calibration.questions import Question, questions_about
from calibration.scenes import COLOURS, SHAPES, Scene
from calibration.training import LOG_EVERY, Schedule, Stage
from export.config import IMAGE_POOL_SIDE
from export.model.mobile_videogpt import MobileVideoGPT
from export.model.prompt import USER, opening_ids

QUESTIONS = 20  # about a clip in one step
TWO_TURNS = 0.3  # share of conversations with a second question
WITHOUT_IMAGE = WITHOUT_VIDEO = 0.1  # shares of clips where one branch says nothing: the other has to learn it too
LOOK = 0.3  # weight of what attention misses, see calibration/attention.py
WHOLE_FROM = 0.97  # share of the steps from which all image tokens are shown: before, a step takes a fifth of the time
BATCH, VALIDATED = 4, 20  # clips


class LanguageTraining:
    """Everything behind the encoders, on their kept features."""

    def __init__(self, model: MobileVideoGPT, tokenizer: Tokenizer, train: FeatureStore, validation: FeatureStore):
        self.model, self.tokenizer, self.train, self.validation = model, tokenizer, train, validation
        self.words = {self.encode(f" {word}")[0]: word for word in (*COLOURS, *SHAPES, MOVING)}  # each is one token
        self.user = self.encode(USER)[1]  # the word behind the control token
        self.opening = opening_ids(self.encode)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def run(self, schedule: Schedule, work: Path, seed: int) -> None:
        parts = {name: getattr(self.model, name) for name in ("image_projector", "video_projector", "token_embedding", "decoder")}
        stage = Stage("language", work, nn.ModuleDict(parts), schedule, seed)
        for rng in stage.steps():
            clips = rng.integers(len(self.train.clips), size=BATCH)
            loss, _ = self._loss(self.train, clips, rng, taught=True, few=stage.step < WHOLE_FROM * schedule.steps)
            loss.backward()
            stage.report(loss.item())
            if stage.step % LOG_EVERY == 0:
                stage.log(validation=self._validate())

    def _loss(
        self, store: FeatureStore, clips: np.ndarray, rng: np.random.Generator, taught: bool, few: bool = False
    ) -> tuple[Tensor, Tensor]:
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
        whole = np.arange(len(self.opening) + self.model.config.visual_tokens)
        kept = [few_places(len(self.opening), self.model.config.visual_tokens, cover, rng) if few else whole for cover in covered]
        looks = self._looks([clip.scene for clip in scenes], covered, kept, branches, len(self.opening), back=few) if taught else NO_LOOKS
        with torch.autocast("cpu", torch.bfloat16):
            prefix = visual_prefix(self.model, self.opening, image, pooled)
            places = torch.from_numpy(np.stack(kept))
            logits, missed = branch_logits(self.model, prefix, branches, places, looks)
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
    def _validate(self) -> dict[str, float]:
        """The share of right answer tokens over some validation clips."""
        right = []
        for start in range(0, min(VALIDATED, len(self.validation.clips)), BATCH):
            clips = np.arange(start, min(start + BATCH, len(self.validation.clips)))
            right.append(self._loss(self.validation, clips, np.random.default_rng(start), taught=False)[1])
        return {"tokens": round(float(torch.cat(right).float().mean()), 4)}


def _conversations(scene: Scene, rng: np.random.Generator) -> list[list[Question]]:
    """Questions about a scene in conversations of one or two turns."""
    left = questions_about(scene, rng, QUESTIONS)
    conversations = []
    while left:
        turns = 2 if len(left) > 1 and rng.random() < TWO_TURNS else 1
        conversations.append([left.pop() for _ in range(turns)])
    return conversations
