"""A bundle's decoder as a contender of `runtime_py.bench_decoder`, in a process of its own.

    python -m runtime_py.decoder_worker BUNDLE THREADS

Requests come on stdin, a JSON object a line: {"prefill": N} takes N tokens into an empty cache, {"decode": POSITION, "steps": N} takes
N tokens, one by one, behind POSITION. The answer is a line with the seconds of each call and the process's peak memory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from export.bundle import open_bundle
from runtime_py.bench import Context
from runtime_py.load import alone, backend_of_bundle
from runtime_py.timing import peak_rss_bytes


def main(bundle: str, threads: int) -> None:
    backend = alone(backend_of_bundle(open_bundle(Path(bundle)), threads))
    context = Context.make(backend, backend.max_context).filling  # [S, D]
    held = 0

    def decode(position: int, tokens: int) -> float:
        embeds = context[position : position + tokens]
        started = time.perf_counter()
        backend.decode(embeds, position)
        return time.perf_counter() - started

    for line in sys.stdin:
        request = json.loads(line)
        with torch.inference_mode():
            if "prefill" in request:
                held = request["prefill"]
                seconds = [decode(0, held)]
            else:
                position = request["decode"]
                if held < position:
                    decode(held, position - held)
                seconds = [decode(position + i, 1) for i in range(request["steps"])]
                held = position + request["steps"]
        print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak_rss_bytes()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
