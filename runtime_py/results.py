"""What models answered to questions about videos: the file that keeps it, the table and the summary that compare models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from export.errors import AnnotationError
from runtime_py.annotations import Item
from runtime_py.files import write_text
from runtime_py.scoring import paired_difference, wilson, words


@dataclasses.dataclass(frozen=True)
class Result:
    """One question and what a model said to it."""

    number: int
    answer: str
    right: bool
    f1: float


class ResultFile:
    """One model's answers, a line each behind a line that says whose they are; what is there already is read, not asked again."""

    def __init__(self, path: Path, identity: str, questions: str):
        self.path = path
        self.header = {"model": identity, "questions": questions}
        self.results: dict[int, Result] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            header = json.loads(lines[0]) if lines else self.header
            for line in lines[1:]:
                if line.endswith("\n"):  # the last one may have been cut short
                    result = Result(**json.loads(line))
                    self.results[result.number] = result
        except (OSError, ValueError, TypeError) as error:
            raise AnnotationError(f"{self.path} is no file of results ({error}): move it away, or choose another --out") from error
        if header != self.header:
            raise AnnotationError(f"{self.path} holds answers of another model or to other questions: choose another --out")
        self._rewrite()

    def _rewrite(self) -> None:
        """Without a line that was cut short, so that what follows begins a line of its own."""
        lines = [json.dumps(self.header), *(json.dumps(dataclasses.asdict(result)) for result in self.results.values())]
        write_text(self.path, "\n".join(lines) + "\n")

    def open(self) -> TextIO:
        if not self.path.exists():
            self._rewrite()
        return self.path.open("a", encoding="utf-8")


def word_f1_of_open(items: Sequence[Item], answered: Mapping[int, Result]) -> float | None:
    """The mean word F1 of the answers to questions without options, but for those of yes and no; None where there are none."""
    open_answers = [answered[item.number].f1 for item in items if not item.options and words(item.answer) not in (["yes"], ["no"])]
    return float(np.mean(open_answers)) if open_answers else None


def by_task(items: Sequence[Item]) -> dict[str, list[int]]:
    """The questions' numbers by task, "-" where a file names none."""
    tasks: dict[str, list[int]] = {}
    for item in items:
        tasks.setdefault(item.task or "-", []).append(item.number)
    return dict(sorted(tasks.items()))


def table(items: Sequence[Item], results: dict[str, dict[int, Result]]) -> str:
    """Per cent right by task and in all, a column a model, and each model's difference from the first with its 95 % interval."""
    names = list(results)
    tasks = by_task(items)
    width = max(len("open, word F1"), *(len(task) + 8 for task in tasks))
    lines = [f"{'task':<{width}}" + "".join(f"{name[-18:]:>20}" for name in names)]
    for task, numbers in tasks.items():
        cells = [100 * sum(results[name][i].right for i in numbers) / len(numbers) for name in names]
        lines.append(f"{f'{task} ({len(numbers)})':<{width}}" + "".join(f"{cell:>18.1f} %" for cell in cells))
    shares = [wilson(sum(r.right for r in results[name].values()), len(items)) for name in names]
    lines.append(f"{f'all, of {len(items)}':<{width}}" + "".join(f"{100 * share.share:>18.2f} %" for share in shares))
    intervals = [f"{100 * share.low:.1f} to {100 * share.high:.1f} %" for share in shares]
    lines.append(f"{'95 %':<{width}}" + "".join(f"{interval:>20}" for interval in intervals))
    f1 = [word_f1_of_open(items, results[name]) for name in names]
    if f1[0] is not None:
        lines.append(f"{'open, word F1':<{width}}" + "".join(f"{100 * value:>18.1f} %" for value in f1 if value is not None))
    right = {name: {number: r.right for number, r in results[name].items()} for name in names}
    clusters = {item.number: item.clip for item in items}
    for name in names[1:]:
        d = paired_difference(right[name], right[names[0]], clusters)
        interval = f"95 % {100 * d.low:+.2f} to {100 * d.high:+.2f}"
        lines.append(f"{name} - {names[0]}: {100 * d.share:+.2f} points, {interval}, paired by question")
    return "\n".join(lines)


def summary(items: Sequence[Item], results: dict[str, dict[int, Result]]) -> dict:
    """The same as JSON."""
    report: dict = {"questions": len(items), "models": {}}
    clusters = {item.number: item.clip for item in items}
    first: dict[int, bool] | None = None
    for name, answered in results.items():
        right = {number: result.right for number, result in answered.items()}
        tasks = {task: sum(right[number] for number in numbers) / len(numbers) for task, numbers in by_task(items).items()}
        entry = {"accuracy": dataclasses.asdict(wilson(sum(right.values()), len(right))), "tasks": tasks}
        entry["word_f1"] = word_f1_of_open(items, answered)
        if first is None:
            first = right
        else:
            entry["difference"] = dataclasses.asdict(paired_difference(right, first, clusters))
        report["models"][name] = entry
    return report
