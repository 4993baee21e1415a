"""Training, stage two as it runs: projectors, embeddings and decoder learn to answer, the encoders' features being kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from calibration.attention import MOVING, Shown, few_places, looks_at_shapes, looks_back, looks_of_answers, motions_of_names
from calibration.encoders import IGNORE, MOTIONS, patch_targets
from calibration.features import FeatureStore
from calibration.language import NO_LOOKS, Branches, Looks, Outcome, branch_logits, pack, pad, visual_prefix
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
MOTION = 0.5  # weight of how well a word that names a shape tells how that moves, behind the first layer
WHOLE_FROM = 0.97  # share of the steps from which all image tokens are shown: before, a step takes a fifth of the time
BATCH, VALIDATED = 4, 20  # clips


@dataclasses.dataclass(frozen=True)
class Batch:
    """B clips: features image [B, 16, P, C] and pooled video [B, 2, 196, W], what each shows and which colour covers its image tokens
    [16, 144], conversations about them."""

    image: Tensor
    pooled: Tensor
    scenes: list[Scene]
    covered: list[np.ndarray]
    branches: Branches


class LanguageTraining:
    """Everything behind the encoders, on their kept features, where the model is."""

    def __init__(self, model: MobileVideoGPT, tokenizer: Tokenizer, train: FeatureStore, validation: FeatureStore):
        self.model, self.tokenizer, self.train, self.validation = model, tokenizer, train, validation
        self.device = next(model.parameters()).device
        self.words = {self.encode(f" {word}")[0]: word for word in (*COLOURS, *SHAPES, MOVING)}  # each is one token
        self.user = self.encode(USER)[1]  # the word behind the control token
        self.opening = opening_ids(self.encode)
        self.readout = nn.Linear(model.config.decoder.width, len(MOTIONS))  # thrown away afterwards
        nn.init.zeros_(self.readout.weight)  # not torch's own randomness, which the seed does not decide
        nn.init.zeros_(self.readout.bias)
        self.readout.to(self.device)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def run(self, schedule: Schedule, work: Path, seed: int) -> None:
        parts = {name: getattr(self.model, name) for name in ("image_projector", "video_projector", "token_embedding", "decoder")}
        stage = Stage("language", work, nn.ModuleDict({**parts, "readout": self.readout}), schedule, seed)
        for rng in stage.steps():
            batch = self._batch(self.train, rng.integers(len(self.train.clips), size=BATCH), rng)
            loss = self._loss(batch, rng, few=stage.step < WHOLE_FROM * schedule.steps)
            loss.backward()
            stage.report(loss.item())
            if stage.step % LOG_EVERY == 0:
                stage.log(validation=self._validate())

    def _batch(self, store: FeatureStore, clips: np.ndarray, rng: np.random.Generator) -> Batch:
        chosen = [store.clips.clips[clip] for clip in clips]
        return Batch(
            image=torch.stack([store.image(clip) for clip in clips]).float(),
            pooled=torch.stack([store.video(clip) for clip in clips]).float(),
            scenes=[clip.scene for clip in chosen],
            covered=[patch_targets(clip.scene, clip.tracks, IMAGE_POOL_SIDE)[..., 1].numpy() for clip in chosen],
            branches=pad([pack(_conversations(clip.scene, rng), self.encode) for clip in chosen]),
        )

    def _loss(self, batch: Batch, rng: np.random.Generator, few: bool) -> Tensor:
        """Of the answers' tokens, of what attention misses, of what names tell of motion; some clips' image or video tokens taken away."""
        draws = rng.random(len(batch.scenes))
        batch.image[torch.from_numpy(draws < WITHOUT_IMAGE)] = 0
        batch.pooled[torch.from_numpy(draws > 1 - WITHOUT_VIDEO)] = 0
        before, visual = len(self.opening), self.model.config.visual_tokens
        whole = np.arange(before + visual)
        kept = [few_places(before, visual, cover, rng) if few else whole for cover in batch.covered]
        outcome = self._run(batch, torch.from_numpy(np.stack(kept)).to(self.device), self._looks(batch, kept, back=few))
        losses = [F.cross_entropy(logits, wanted) for logits, wanted in (self._answers(batch, outcome), self._motions(batch, outcome))]
        return losses[0] + MOTION * losses[1] + LOOK * outcome.missed

    def _run(self, batch: Batch, kept: Tensor | None = None, looks: Looks = NO_LOOKS) -> Outcome:
        with torch.autocast(self.device.type, torch.bfloat16):
            prefix = visual_prefix(self.model, self.opening, batch.image.to(self.device), batch.pooled.to(self.device))
            return branch_logits(self.model, prefix, batch.branches, kept, looks)

    def _answers(self, batch: Batch, outcome: Outcome) -> tuple[Tensor, Tensor]:
        """Logits [N, V] of the tokens of all answers, and what they should be [N]."""
        targets = torch.from_numpy(batch.branches.targets).to(self.device)
        return outcome.logits[targets != IGNORE].float(), targets[targets != IGNORE]

    def _motions(self, batch: Batch, outcome: Outcome) -> tuple[Tensor, Tensor]:
        """The same of the motion of each shape that a word names: [N, motions], [N]."""
        of_clips = [motions_of_names(scene, ids, self.words) for scene, ids in zip(batch.scenes, batch.branches.ids)]
        targets = torch.from_numpy(np.stack(of_clips)).to(self.device)
        return self.readout(outcome.early[targets != IGNORE].float()), targets[targets != IGNORE]

    def _looks(self, batch: Batch, kept: list[np.ndarray], back: bool) -> Looks:
        """Where the tokens of several clips are to look. Without `back` the prefix is left to itself: of all its tokens to all would take
        gigabytes."""
        shown = [Shown(cover, places, len(self.opening)) for cover, places in zip(batch.covered, kept)]
        per_clip = list(zip(batch.scenes, shown, batch.branches.ids, batch.branches.targets))
        words = [looks_at_shapes(scene, clip, ids, self.words) for scene, clip, ids, _ in per_clip]
        answers = [looks_of_answers(scene, clip, ids, targets, self.words, self.user) for scene, clip, ids, targets in per_clip]
        looks = (words, answers, [looks_back(scene, clip) for scene, clip, *_ in per_clip] if back else None)
        return Looks(*(torch.from_numpy(np.stack(one)).to(self.device) if one else None for one in looks))

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Over some validation clips: the share of right answer tokens, and of names that tell the motion."""
        right: dict[str, list[Tensor]] = {"tokens": [], "motions": []}
        for start in range(0, min(VALIDATED, len(self.validation.clips)), BATCH):
            clips = np.arange(start, min(start + BATCH, len(self.validation.clips)))
            batch = self._batch(self.validation, clips, np.random.default_rng(start))
            outcome = self._run(batch)
            for name, (logits, wanted) in zip(right, (self._answers(batch, outcome), self._motions(batch, outcome))):
                right[name].append(logits.argmax(-1) == wanted)
        return {name: round(float(torch.cat(found).float().mean()), 4) for name, found in right.items()}


def _conversations(scene: Scene, rng: np.random.Generator) -> list[list[Question]]:
    """Questions about a scene in conversations of one or two turns."""
    left = questions_about(scene, rng, QUESTIONS)
    conversations = []
    while left:
        turns = 2 if len(left) > 1 and rng.random() < TWO_TURNS else 1
        conversations.append([left.pop() for _ in range(turns)])
    return conversations
