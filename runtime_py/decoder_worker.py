"""A bundle's decoder, or an eager model, as a contender of `runtime_py.bench_decoder`, in a process of its own.

    python -m runtime_py.decoder_worker BUNDLE_OR_CHECKPOINT THREADS

Requests come on stdin, a JSON object a line: {"prefill": N} takes N tokens into an empty cache, {"decode": POSITION, "steps": N} takes
N tokens, one by one, behind POSITION, {"answer": N} goes from the frames of a video to the Nth token of an answer. The reply is a line
with seconds and the process's peak memory: of each call; of an answer to its last token, to its first, and to the first of another
question about the same video.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.manifest import MANIFEST_FILE
from runtime_py.bench import Context, VideoPrompt, run_once
from runtime_py.load import alone, backend_of_bundle, backend_of_checkpoint
from runtime_py.timing import peak_rss_bytes


def main(source: str, threads: int) -> None:
    if (Path(source) / MANIFEST_FILE).is_file():
        backend = alone(backend_of_bundle(open_bundle(Path(source)), threads))
    else:
        backend = backend_of_checkpoint(open_checkpoint(source), threads=threads)
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
            if "answer" in request:
                run = run_once(backend, VideoPrompt.make(backend), request["answer"] - 1)  # the first comes with the prefill
                seconds = [run.answer_s, run.ttft_s, run.again_s]
            elif "prefill" in request:
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
