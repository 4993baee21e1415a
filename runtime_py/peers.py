"""What `bench --peers` holds a bundle's vision graphs against, in the same process and taking turns with it:

    eager-sequential   the checkpoint's own model in PyTorch, float32, the scan step by step
    matrix products    the graph's linear layers alone, of the same sizes and schemes, in the same runtime: what is left is the
                       scan, attention, norms, and moving data between them
    onnxruntime        the eager image encoder exported by torch.onnx: with ONNX Runtime's dynamic int8 where the bundle's is int8

The products and ONNX Runtime run on weights of the checkpoint's shapes and random values: speed does not depend on them.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from export.bundle import Bundle
from export.checkpoint import Checkpoint
from export.errors import BackendError
from export.manifest import TensorSpec
from export.quiet import quiet
from runtime_py.backends.base import GraphBackend

GRAPHS = ("image_encoder", "video_encoder")
MOST_COPIES = 4  # of one product in a program: so many different weights that none stays in the cache for the next
SETTLE_S = 0.2  # the threads of whoever ran before spin for a while, and would take a core from the next
SEED = 0
PEER_PACKAGES = ("onnxruntime", "onnx", "onnxscript")

Seconds = Callable[[], float]  # runs the work once


def check(checkpoint: Checkpoint, backend: GraphBackend) -> None:
    """Raise BackendError where the checkpoint is of other sizes than the bundle."""
    if checkpoint.config != backend.config:
        raise BackendError("--peers: the checkpoint's sizes are not the bundle's: give the checkpoint that it was built from")


def compare(backend: GraphBackend, bundle: Bundle, checkpoint: Checkpoint, threads: int | None, runs: int) -> dict[str, dict[str, float]]:
    """Median seconds of each vision graph by whom it ran: the bundle and its peers, taking turns, after a turn that does not count."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for graph in GRAPHS:
            pixels = _pixels(bundle, graph)
            contenders: dict[str, Seconds] = {"bundle": timed(lambda graph=graph, x=pixels: backend.run(graph, x))}
            contenders["eager-sequential"] = _eager(checkpoint, graph, pixels)
            contenders["matrix products"] = _products(bundle, checkpoint, graph, Path(folder))
            if graph == "image_encoder" and (session := _onnxruntime(bundle, checkpoint, pixels, threads, Path(folder))):
                contenders["onnxruntime"] = session
            turns: dict[str, list[float]] = {name: [] for name in contenders}
            for turn in range(runs + 1):
                for name, seconds in contenders.items():
                    time.sleep(SETTLE_S)
                    turns[name].append(seconds())
                shown = ", ".join(f"{name} {took[-1]:.3f}" for name, took in turns.items())
                print(f"{graph}, {f'turn {turn} of {runs}' if turn else 'warm-up'}: {shown} s", file=sys.stderr, flush=True)
            results[graph] = {name: statistics.median(took[1:]) for name, took in turns.items()}
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    """The seconds, and the bundle's share of each peer's, for a reader."""
    lines = []
    for graph, seconds in results.items():
        for name, took in seconds.items():
            share = f"  the bundle takes {seconds['bundle'] / took:.2f} of it" if name != "bundle" else ""
            lines.append(f"{graph:<16}{name:<18}{took:>9.4f} s{share}")
    return "\n".join(lines)


def timed(work: Callable[[], object]) -> Seconds:
    """`work` with a clock."""

    def seconds() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return seconds


def _pixels(bundle: Bundle, graph: str) -> Tensor:
    shape = bundle.manifest.graphs[graph].inputs[0].shape
    return torch.rand(shape, generator=torch.Generator().manual_seed(SEED)) * 255


def _eager(checkpoint: Checkpoint, graph: str, pixels: Tensor) -> Seconds:
    encoder = getattr(checkpoint.load(parts=(graph,)), graph)

    @torch.inference_mode()
    def run() -> None:
        encoder(pixels)

    return timed(run)


@dataclasses.dataclass(frozen=True)
class Product:
    """A linear layer as a graph meets it: [rows, columns] times a weight [out, columns] of some scheme."""

    rows: int
    columns: int
    out: int
    bias: bool
    scheme: str


class _Products(nn.Module):
    def __init__(self, product: Product, copies: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(product.columns, product.out, bias=product.bias) for _ in range(copies))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer in self.layers)


def _products(bundle: Bundle, checkpoint: Checkpoint, graph: str, folder: Path) -> Seconds:
    """All linear layers of a graph, each kind in a program of its own; a kind with many layers runs some and is scaled up."""
    from export.backends.executorch import ExecutorchBackend
    from export.components import COMPONENTS, Signature
    from export.quant.apply import Assignment
    from export.quant.recipe import LINEAR, SCHEMES
    from runtime_py.backends.executorch import load_method

    parts = []
    for number, (product, count) in enumerate(linear_products(bundle, checkpoint, graph).items()):
        copies, path = min(count, MOST_COPIES), folder / f"{graph}-{number}.pte"
        assignments = [Assignment(f"layers.{i}", LINEAR, SCHEMES[product.scheme], (product.out, product.columns)) for i in range(copies)]
        x = TensorSpec("x", (product.rows, product.columns), "float32", "")
        outputs = tuple(TensorSpec(f"y{i}", (product.rows, product.out), "float32", "") for i in range(copies))
        twin = _Products(product, copies).eval()
        ExecutorchBackend().lower(COMPONENTS[graph], twin, Signature((x,), outputs), assignments, path)
        method, value = load_method(path), torch.randn(product.rows, product.columns)
        parts.append((count / copies, timed(lambda method=method, value=value: method.execute([value]))))
    return lambda: sum(scale * seconds() for scale, seconds in parts)


def linear_products(bundle: Bundle, checkpoint: Checkpoint, graph: str) -> dict[Product, int]:
    """How often each product occurs in a graph of the bundle, found by sending shapes through its twin."""
    from export.components import COMPONENTS, Form
    from export.model.mobile_videogpt import MobileVideoGPT
    from export.quant import presets
    from export.quant.apply import assign, quantizable_layers

    overrides = [f"{component}={scheme}" for component, scheme in bundle.manifest.quant_overrides.items()]
    recipe = presets.parse(bundle.manifest.recipe, overrides, list(COMPONENTS))
    with torch.device("meta"):
        twin = COMPONENTS[graph].twin(MobileVideoGPT(checkpoint.config), Form(bundle.manifest.decoder.max_context, scan="fused"))
    schemes = {a.layer: a.scheme.name for a in assign(recipe, graph, quantizable_layers(twin))}
    found: collections.Counter[Product] = collections.Counter()

    def count(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].numel() // layer.in_features
            found[Product(rows, layer.in_features, layer.out_features, layer.bias is not None, schemes[name])] += 1

        return hook

    for name in schemes:
        twin.get_submodule(name).register_forward_pre_hook(count(name))
    twin(torch.empty(bundle.manifest.graphs[graph].inputs[0].shape, device="meta"))
    return found


def _onnxruntime(bundle: Bundle, checkpoint: Checkpoint, pixels: Tensor, threads: int | None, folder: Path) -> Seconds | None:
    """The eager encoder in ONNX Runtime; None, with a line that says so, where its packages are not installed."""
    missing = [package for package in PEER_PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        print(f"onnxruntime is left out: pip install -e '.[peers]' ({', '.join(missing)} missing)", file=sys.stderr)
        return None
    with quiet():
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic

        path = folder / "image_encoder.onnx"
        encoder = checkpoint.load(parts=("image_encoder",)).image_encoder.eval()
        with torch.no_grad():
            torch.onnx.export(encoder, (pixels,), str(path), dynamo=True, external_data=True)
        if any(share.scheme == "int8" for share in bundle.manifest.graphs["image_encoder"].schemes):
            quantize_dynamic(path, folder / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True)
            path = folder / "int8.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: pixels.numpy()}
    return timed(lambda: session.run(None, feed))
