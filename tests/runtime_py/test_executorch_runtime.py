"""A bundle under ExecuTorch's own runtime: when graphs are loaded, with how many threads, and what a graph that fails says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.config import GRAPHS, IMAGE_TOKENS_PLACEHOLDER
from export.errors import BackendError, BundleError
from export.ops import native
from runtime_py import bench
from runtime_py.backends.executorch import ExecutorchBackend
from runtime_py.load import backend_of_bundle
from runtime_py.session import Session
from runtime_py.stages import VISION, Pixels
from tests.numerics import DEMO, max_error

ROOT = Path(__file__).parents[2]
IDS = torch.arange(4)
ANOTHER_ROUNDING = 0.05  # of the largest logit: activations of 8 bits, some of which go to the next step after sums in another order


@pytest.fixture
def backend(tiny_bundle):
    return ExecutorchBackend(open_bundle(tiny_bundle))


def test_a_graph_that_fails_is_named_in_one_line(backend):
    with pytest.raises(BundleError, match=r"graph image_projector on inputs \[3, 3\]") as caught:
        backend.run("image_projector", torch.zeros(3, 3))
    assert "0x" in str(caught.value) and "\n" not in str(caught.value)  # ExecuTorch's own code is in it


def test_load_loads_every_graph_once(backend, monkeypatch):
    loaded = []
    load = ExecutorchBackend._load
    monkeypatch.setattr(ExecutorchBackend, "_load", lambda self, graph: loaded.append(graph) or load(self, graph))
    backend.run("token_embedding", IDS)
    assert loaded == ["token_embedding"]
    backend.load(GRAPHS)
    backend.load(GRAPHS)
    assert sorted(loaded) == sorted(GRAPHS)
    backend.run("token_embedding", IDS)
    assert len(loaded) == len(GRAPHS)


def test_what_watched_is_freed_until_the_next_clip(backend):
    """And gives the same then; a session that is told to keeps it, the decoder stays as it is."""
    pixels = Pixels.of(list(np.random.default_rng(0).integers(0, 256, (16, 60, 80, 3), dtype=np.uint8)))
    session = Session(backend)
    backend.load(GRAPHS)
    decoder = backend._method("decoder")
    session.watch(pixels)
    assert set(backend._methods) == {"token_embedding", "decoder"} and backend._method("decoder") is decoder
    first = list(session.answer([5, IMAGE_TOKENS_PLACEHOLDER, 9], max_new_tokens=4))
    session.watch(pixels)
    assert list(session.answer([5, IMAGE_TOKENS_PLACEHOLDER, 9], max_new_tokens=4)) == first
    Session(backend, keep_encoders=True).watch(pixels)
    assert set(backend._methods) == set(GRAPHS)


def test_rows_of_the_embedding_come_as_they_are_asked_for(backend):
    """Nothing holds the table's file in memory, also where ExecuTorch may lock what it maps; what is read is the same."""
    first = backend.run("token_embedding", IDS).clone()
    path = str(backend.bundle.graph_path("token_embedding").resolve())
    mapped = Path("/proc/self/smaps").read_text().split(path)[1:]
    assert mapped and all(re.search(r"^Locked: +(\d+) kB$", one, re.MULTILINE)[1] == "0" for one in mapped)
    assert torch.equal(backend.run("token_embedding", IDS), first)


def test_threads_are_fixed_once_a_graph_is_loaded(tiny_bundle):
    """In a process of its own, which has loaded nothing yet: ExecuTorch says on stderr when it makes a new pool."""
    program = """
import sys, torch
from export.bundle import open_bundle
from export.errors import BackendError
from runtime_py.backends.executorch import ExecutorchBackend
from runtime_py.load import backend_of_bundle
from runtime_py.session import Session
from runtime_py.stages import VISION, Pixels
from tests.numerics import DEMO, max_error
bundle = open_bundle(sys.argv[1])
ExecutorchBackend(bundle, threads=3)
ExecutorchBackend(bundle, threads=1).run("token_embedding", torch.arange(4))
ExecutorchBackend(bundle, threads=1).load(bundle.manifest.graphs)
ExecutorchBackend(bundle).load(bundle.manifest.graphs)
try:
    ExecutorchBackend(bundle, threads=2)
except BackendError as error:
    print(error)
from export.executorch_runtime import bindings
print(bindings()._threadpool_get_thread_count())
"""
    done = subprocess.run([sys.executable, "-c", program, tiny_bundle], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    refusal, count = done.stdout.splitlines()
    assert refusal.startswith("--threads 2: ") and "another process" in refusal and count == "1"
    assert "threadpool" not in done.stderr


def test_bench_loads_what_watches_for_every_video_and_the_decoder_once(tiny_bundle, monkeypatch, capsys):
    """And says what loading took, apart from the graphs."""
    loaded = []
    load = ExecutorchBackend._load
    monkeypatch.setattr(ExecutorchBackend, "_load", lambda self, graph: loaded.append(graph) or load(self, graph))
    assert bench.main(["--bundle", str(tiny_bundle), "--new-tokens", "1", "--runs", "1"]) == 0
    text = ["token_embedding", "decoder"]
    assert loaded == [*VISION, *text, *VISION]
    assert json.loads(capsys.readouterr().out)["stages_s"]["loading"] > 0
    loaded.clear()
    assert bench.main(["--bundle", str(tiny_bundle), "--context", "8", "--new-tokens", "1", "--runs", "1"]) == 0
    assert sorted(loaded) == sorted(text)


def test_a_fused_bundle_names_the_operators_that_a_host_must_bring(tiny_fused_bundle):
    manifest = open_bundle(tiny_fused_bundle).manifest
    assert manifest.kernels == "fused" and manifest.verified
    own = {"video_encoder": {"bidirectional_scan", "causal_conv"}, "decoder": {"cached_attention"}}
    own = {graph: {f"mobile_videogpt::{name}.out" for name in names} for graph, names in own.items()}
    assert set(manifest.custom_operators) == set().union(*own.values())
    assert all(names < set(manifest.graphs[graph].operators) for graph, names in own.items())
    text = (tiny_fused_bundle / "README.md").read_text()
    assert all(name in text for name in manifest.custom_operators)


def test_an_int4_decoder_of_our_operators_holds_every_weight_once(demo_fused_bundle):
    """Read back from the file: all linears in int4 with half precision scales, and nothing in the delegate."""
    decoder = open_bundle(demo_fused_bundle).manifest.graphs["decoder"]
    assert {name for name in decoder.operators if name.startswith("mobile_videogpt")} == {
        "mobile_videogpt::cached_attention.out", "mobile_videogpt::linear_int4.out"
    }  # fmt: skip
    (int4,) = (share for share in decoder.schemes if share.scheme == "int4")
    model = open_checkpoint(str(DEMO)).load(parts=("decoder",)).decoder
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    assert (int4.weights, int4.bytes) == (weights, weights // 2 + weights // 32 * 2)
    assert decoder.bytes < int4.bytes * 1.5 + 2**22  # and no second copy beside them; the rotation takes most of the rest


def test_a_prompt_of_several_calls_is_one_prompt(demo_fused_bundle, demo_bundle):
    """The decoder takes 512 tokens at once; the bundle's logits do not depend on how a prompt is cut."""
    for folder in (demo_fused_bundle, demo_bundle):
        backend = backend_of_bundle(open_bundle(folder))
        embeds = torch.randn(1200, backend.config.decoder.width, generator=torch.Generator().manual_seed(0)) * 0.5
        whole = backend.decode(embeds, 0).clone()
        for start in range(0, 1200, 300):
            parts = backend.decode(embeds[start : start + 300], start)
        assert max_error(parts, whole) <= ANOTHER_ROUNDING


def test_a_fused_bundle_without_its_operators_is_one_clear_line(tiny_fused_bundle, monkeypatch, capsys):
    def load():
        raise BackendError("there is no C++ compiler: install g++")

    monkeypatch.setattr(native, "load", load)
    assert bench.main(["--bundle", str(tiny_fused_bundle)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "mobile_videogpt::bidirectional_scan.out" in error and "install g++" in error


def test_a_stock_bundle_loads_no_operator_of_ours(tiny_bundle, monkeypatch):
    monkeypatch.setattr(native, "load", lambda: pytest.fail("the kernels were loaded"))
    ExecutorchBackend(open_bundle(tiny_bundle)).run("token_embedding", IDS)
