"""A stage of training that can stop at any moment and go on: optimizers, schedule, saved state, log."""

from __future__ import annotations

import dataclasses
import json
import pickle
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from calibration.store import ClipStore
from export.errors import ExportError
from runtime_py.files import replacing, write_text

SAVE_EVERY_S = 60.0
CLIP_NORM = 1.0
LOG_EVERY = 100  # steps
SMOOTHING = 0.97  # of the loss that is shown


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Steps, and the learning rate over them: a warm-up, a plateau, and down in a straight line to a fiftieth."""

    steps: int
    rate: float
    warm_up: int = 50
    plateau: float = 0.4  # share of the steps until the rate begins to fall

    def at(self, step: int) -> float:
        progress = step / self.steps
        falling = 1.0 if progress < self.plateau else max(0.02, (1 - progress) / (1 - self.plateau))
        return self.rate * min(1.0, (step + 1) / self.warm_up) * falling


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many clips there are, and how long each stage takes."""

    train_clips: int
    validation_clips: int
    image: Schedule
    video: Schedule
    language: Schedule

    def clips(self, work: Path, seed: int) -> list[ClipStore]:
        """The clips to learn from, and those to validate on."""
        counts = {"train": self.train_clips, "validation": self.validation_clips}
        return [ClipStore(work / "clips", split, seed, count) for split, count in counts.items()]


class Stage:
    """Trains `modules` step by step. What is random in a step depends on the seed and the step alone, so a run that was interrupted
    goes on as if it had not been."""

    def __init__(self, name: str, folder: Path, modules: nn.Module, schedule: Schedule, seed: int, weight_decay: float = 0.02):
        self.name, self.modules, self.schedule, self.seed = name, modules, schedule, seed
        self.state_file, self.log_file = folder / f"{name}.pt", folder / f"{name}.jsonl"
        matrices = [p for n, p in modules.named_parameters() if _is_hidden_matrix(n, p)]
        chosen = {id(p) for p in matrices}
        others = [p for p in modules.parameters() if id(p) not in chosen and p.requires_grad]
        # Muon (Jordan et al., 2024) for hidden matrices, scaled so that AdamW's rates fit it; AdamW for the rest.
        self.optimizers = (
            torch.optim.Muon(matrices, lr=schedule.rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=schedule.rate, weight_decay=0.0, betas=(0.9, 0.98)),
        )
        self.step, self.loss, self.seconds = 0, float("nan"), 0.0
        if self.state_file.exists():
            self._resume()
        self._cut_log()

    @property
    def finished(self) -> bool:
        return self.step >= self.schedule.steps

    def steps(self) -> Iterator[np.random.Generator]:
        """Every step that is left, with its source of randomness; the caller computes a loss, calls backward, and `report`s it."""
        quiet = not sys.stderr.isatty()  # then the log's lines tell
        bar = tqdm(total=self.schedule.steps, initial=self.step, desc=self.name, unit="step", mininterval=2.0, disable=quiet)
        saved = last = time.perf_counter()
        with bar:
            while not self.finished:
                for optimizer in self.optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = self.schedule.at(self.step)
                yield np.random.default_rng([self.seed, self.step])
                nn.utils.clip_grad_norm_(self.modules.parameters(), CLIP_NORM)
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
                self.step += 1
                now = time.perf_counter()
                self.seconds, last = self.seconds + now - last, now
                bar.set_postfix(loss=f"{self.loss:.3f}")
                bar.update()
                if now - saved > SAVE_EVERY_S or self.finished:
                    self.save()
                    saved = time.perf_counter()

    def report(self, loss: float) -> None:
        """The loss of the step under way."""
        self.loss = loss if not np.isfinite(self.loss) else SMOOTHING * self.loss + (1 - SMOOTHING) * loss

    def log(self, **values: object) -> None:
        """A line in the stage's log."""
        line = {"stage": self.name, "step": self.step, "loss": round(self.loss, 4), "seconds": round(self.seconds), **values}
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        tqdm.write(json.dumps(line))

    def save(self) -> None:
        state = {
            "modules": self.modules.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step, "loss": self.loss, "seconds": self.seconds, "seed": self.seed, "steps": self.schedule.steps,
        }  # fmt: skip
        with replacing(self.state_file) as file:
            torch.save(state, file)

    def _resume(self) -> None:
        try:
            state = torch.load(self.state_file, map_location="cpu", weights_only=True)
            if (state["seed"], state["steps"]) != (self.seed, self.schedule.steps):
                raise ExportError(f"{self.state_file} is of another seed or number of steps: remove it, or choose another --work")
            self.modules.load_state_dict(state["modules"])
            for optimizer, kept in zip(self.optimizers, state["optimizers"]):
                optimizer.load_state_dict(kept)
        except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            remedy = "remove it, or choose another --work"
            raise ExportError(f"{self.state_file} does not hold this stage's state ({error}): {remedy}") from error
        self.step, self.loss, self.seconds = state["step"], state["loss"], state["seconds"]

    def _cut_log(self) -> None:
        """Leave out what an interrupted run did after its state was saved, which comes again, and another run's lines."""
        if self.log_file.exists():
            lines = self.log_file.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(self.log_file, "".join(line for line in lines if _steps_of(line) < self.step))


def _steps_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize  # cut short


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon trains a parameter: matrices between hidden states, no tables, readouts or heads."""
    outside = ("position", "A_log", "token_embedding", "readout", "head")
    return parameter.requires_grad and parameter.ndim == 2 and not any(part in name for part in outside)
