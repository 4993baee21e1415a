"""llama.cpp as a contender of `runtime_py.bench_decoder`: run by an environment of its own, which has llama-cpp-python and gguf.

    llama_worker.py write SIZES.json OUT.gguf      a model of these sizes with random weights, Q4_0 throughout, head and table tied
    llama_worker.py serve MODEL.gguf CONTEXT THREADS

`serve` answers the same lines as `runtime_py.decoder_worker`. Flash attention is on, the cache is float16.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

SEED = 0
MICRO_BATCH = 512  # llama.cpp's own default


def write(sizes: dict[str, Any], path: str) -> None:
    """A GGUF file of the architecture `qwen2`. Weights are random: speed does not depend on them."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(SEED)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(sizes["layers"])
    writer.add_context_length(sizes["max_positions"])
    writer.add_embedding_length(sizes["width"])
    writer.add_feed_forward_length(sizes["ffn_width"])
    writer.add_head_count(sizes["heads"])
    writer.add_head_count_kv(sizes["kv_heads"])
    writer.add_rope_freq_base(sizes["rope_theta"])
    writer.add_layer_norm_rms_eps(sizes["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"t{i}" for i in range(sizes["vocab"])])
    writer.add_token_types([gguf.TokenType.NORMAL] * sizes["vocab"])
    writer.add_token_merges(["t 0"])
    writer.add_eos_token_id(sizes["vocab"] - 1)

    def matrix(name: str, rows: int, columns: int) -> None:
        data = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(columns**-0.5)
        q4 = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(name, gguf.quants.quantize(data, q4), raw_dtype=q4)

    def vector(name: str, size: int, value: float) -> None:
        writer.add_tensor(name, np.full(size, value, np.float32))

    width, ffn, head = sizes["width"], sizes["ffn_width"], sizes["head_dim"]
    matrix("token_embd.weight", sizes["vocab"], width)
    vector("output_norm.weight", width, 1.0)
    for i in range(sizes["layers"]):
        vector(f"blk.{i}.attn_norm.weight", width, 1.0)
        vector(f"blk.{i}.ffn_norm.weight", width, 1.0)
        for name, rows in (("q", sizes["heads"] * head), ("k", sizes["kv_heads"] * head), ("v", sizes["kv_heads"] * head)):
            matrix(f"blk.{i}.attn_{name}.weight", rows, width)
            vector(f"blk.{i}.attn_{name}.bias", rows, 0.0)
        matrix(f"blk.{i}.attn_output.weight", width, sizes["heads"] * head)
        matrix(f"blk.{i}.ffn_gate.weight", ffn, width)
        matrix(f"blk.{i}.ffn_up.weight", ffn, width)
        matrix(f"blk.{i}.ffn_down.weight", width, ffn)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Llama:
    """A context over one model; tokens are arbitrary ids."""

    def __init__(self, path: str, context: int, threads: int):
        import llama_cpp

        self.lib = llama_cpp
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)  # kept: llama.cpp holds a pointer to it
        llama_cpp.llama_log_set(self.quiet, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, context, MICRO_BATCH
        params.n_threads = params.n_threads_batch = threads
        if "flash_attn_type" not in dict(params._fields_):  # ctypes takes any name, and llama.cpp would not hear of it
            raise SystemExit("this llama-cpp-python has no flash_attn_type: install the pinned one")
        params.flash_attn_type = 1  # enabled
        params.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.model or not self.context:
            raise SystemExit(f"llama.cpp cannot load {path}")

    def clear(self) -> None:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), False)

    def cut(self, position: int) -> None:
        """Forget what is behind `position`."""
        if not self.lib.llama_memory_seq_rm(self.lib.llama_get_memory(self.context), 0, position, -1):
            raise SystemExit("llama.cpp does not forget: its decoding would be measured behind another context")

    def decode(self, tokens: list[int]) -> float:
        """Seconds of one call."""
        ids = (self.lib.llama_token * len(tokens))(*tokens)
        started = time.perf_counter()
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(ids, len(tokens))):
            raise SystemExit("llama_decode failed")
        self.lib.llama_get_logits(self.context)  # waits
        return time.perf_counter() - started


def serve(llama: Llama) -> None:
    """Answer requests, a JSON object a line: {"prefill": N}, or {"decode": POSITION, "steps": N}; seconds, a list."""
    held = 0
    for line in sys.stdin:
        request = json.loads(line)
        if "prefill" in request:
            llama.clear()
            seconds = [llama.decode([1 + i % 1000 for i in range(request["prefill"])])]
            held = request["prefill"]
        else:
            if held < request["decode"]:
                llama.decode([1 + i % 1000 for i in range(request["decode"] - held)])
            else:
                llama.cut(request["decode"])
            seconds = [llama.decode([1 + i % 1000]) for i in range(request["steps"])]
            held = request["decode"] + request["steps"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        with open(sys.argv[2], encoding="utf-8") as file:
            write(json.load(file), sys.argv[3])
    else:
        serve(Llama(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
