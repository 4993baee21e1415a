"""Seconds per graph and the process's memory, for chat and bench."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from runtime_py.backends.base import GraphBackend, Graphs

Result = TypeVar("Result")
_IMPORTED = time.perf_counter()
SETTLE_S = 0.2  # the threads of whoever ran before spin for a while, and would take a core from the next


def take_turns(
    contenders: Mapping[str, Callable[[], float]], runs: int, say: Callable[[str], None] = lambda line: None
) -> dict[str, float]:
    """The median of what each contender returns (seconds) over `runs` rounds, after one that does not count.

    They take turns, so that what slows the machine for a while slows all of them. `say` gets a line after each round.
    """
    turns: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(runs + 1):
        for name, seconds in contenders.items():
            time.sleep(SETTLE_S)
            turns[name].append(seconds())
        shown = ", ".join(f"{name} {took[-1]:.4f}" for name, took in turns.items())
        say(f"{f'turn {turn} of {runs}' if turn else 'warm-up'}: {shown} s")
    return {name: statistics.median(took[1:]) for name, took in turns.items()}


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """`work` with a clock: the seconds of one call."""

    def seconds() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return seconds


class TimedBackend(Graphs):
    """A backend's graphs, with a clock: adds the seconds of each graph to `seconds`, under its name, and what it takes to load those that
    are not loaded yet under `loading`.

    Every call waits for its result, so that a GPU's time goes to the graph that took it.
    """

    def __init__(self, backend: GraphBackend, seconds: dict[str, float]):
        self._backend, self._seconds = backend, seconds
        self.config = backend.config
        self.max_context = backend.max_context
        backend.synchronize()

    def run(self, graph: str, *inputs: Tensor) -> Tensor:
        self.load((graph,))
        return self._timed(graph, lambda: self._backend.run(graph, *inputs))

    def decode(self, embeds: Tensor, position: int) -> Tensor:
        self.load(("decoder",))
        return self._timed("decoder", lambda: self._backend.decode(embeds, position))

    def load(self, graphs: Iterable[str]) -> None:
        self._timed("loading", lambda: self._backend.load(graphs))

    def release(self, graphs: Iterable[str]) -> None:
        self._backend.release(graphs)

    def _timed(self, name: str, work: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        output = work()
        self._backend.synchronize()
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started
        return output


def process_age_s() -> float:
    """Seconds since this process began; where the system does not say, since this module was imported."""
    stat, uptime = Path("/proc/self/stat"), Path("/proc/uptime")
    if stat.is_file() and uptime.is_file():
        began = int(stat.read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")  # field 22, in ticks since the system began
        return float(uptime.read_text().split()[0]) - began
    return time.perf_counter() - _IMPORTED


def peak_rss_bytes() -> int:
    """The most memory that this process has had resident, in bytes; files that are mapped and read count."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux's ru_maxrss also counts what the parent held when it forked this process; this line does not.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
