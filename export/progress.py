"""What a build is doing: a bar on a terminal, plain lines when piped."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm


class Progress:
    """Steps of known number, one after another. Lines that are to stay go through `say`."""

    def __init__(self, steps: int):
        self.steps = steps
        self.done = 0
        self._started = time.perf_counter()
        style = "{n_fmt}/{total_fmt} |{bar:20}| {elapsed} {desc}"
        self._bar = tqdm(total=steps, bar_format=style, leave=False) if sys.stderr.isatty() else None

    def begin(self, what: str) -> None:
        """Say which step comes next."""
        self._started = time.perf_counter()
        if self._bar is not None:
            self._bar.set_description_str(what)
        else:
            self.say(f"[{self.done + 1}/{self.steps}] {what} ...")

    def end(self, what: str) -> None:
        """The step is done."""
        self.done += 1
        if self._bar is not None:
            self._bar.update()
        self.say(f"[{self.done}/{self.steps}] {what} ({time.perf_counter() - self._started:.0f} s)")

    def step(self, what: str) -> None:
        """One of many small steps is done; piped, a twentieth of them is said."""
        self.done += 1
        if self._bar is not None:
            self._bar.set_description_str(what, refresh=False)
            self._bar.update()
        elif self.done % max(1, self.steps // 20) == 0:
            self.say(f"[{self.done}/{self.steps}] {what}")

    def say(self, line: str) -> None:
        """A line that stays on the screen."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
