"""What `bench --peers` holds a bundle's vision graphs against, in the same process and taking turns with it:

    eager-sequential   the checkpoint's own model in PyTorch, float32, the scan step by step
    matrix products    the graph's linear layers alone, of the same sizes and schemes, in the same runtime: what is left is the
                       scan, attention, norms, and moving data between them
    onnxruntime        the eager image encoder exported by torch.onnx: with ONNX Runtime's dynamic int8 where the bundle's is int8

The products have weights of the checkpoint's shapes and random values: speed does not depend on them.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib.util
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn

from export.bundle import Bundle
from export.checkpoint import Checkpoint, open_checkpoint
from export.errors import BackendError, one_line
from export.manifest import TensorSpec
from export.quiet import quiet
from runtime_py.backends.base import GraphBackend
from runtime_py.timing import take_turns, timed

GRAPHS = ("image_encoder", "video_encoder")
MOST_COPIES = 4  # of one product in a program: so many different weights that none stays in the cache for the next
ENDING_S = 5  # that a peer's process may take to end by itself
SEED = 0
PEER_PACKAGES = ("onnxruntime", "onnx", "onnxscript")

Seconds = Callable[[], float]  # runs the work once


def check(checkpoint: Checkpoint, backend: GraphBackend) -> None:
    """Raise BackendError where the checkpoint is of other sizes than the bundle."""
    if checkpoint.config != backend.config:
        raise BackendError("--peers: the checkpoint's sizes are not the bundle's: give the checkpoint that it was built from")


def compare(backend: GraphBackend, bundle: Bundle, source: str, threads: int | None, runs: int) -> dict[str, dict[str, float]]:
    """Median seconds of each vision graph by whom it ran: the bundle and its peers, taking turns, after a turn that does not count.

    `source` is the checkpoint's folder or hub id: what a peer's process opens it by.
    """
    results = {}
    for graph in GRAPHS:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as elsewhere:
            pixels = _pixels(bundle, graph)
            contenders: dict[str, Seconds] = {"bundle": timed(lambda graph=graph, x=pixels: backend.run(graph, x))}
            contenders["eager-sequential"] = elsewhere.enter_context(Elsewhere(_eager, source, graph, pixels, threads))
            contenders["matrix products"] = _products(bundle, graph, Path(folder))
            if graph == "image_encoder" and _has_onnxruntime():
                int8 = any(share.scheme == "int8" for share in bundle.manifest.graphs[graph].schemes)
                contenders["onnxruntime"] = elsewhere.enter_context(Elsewhere(_onnxruntime, source, pixels, threads, int8, folder))

            def say(line: str, graph: str = graph) -> None:
                print(f"{graph}, {line}", file=sys.stderr, flush=True)

            results[graph] = take_turns(contenders, runs, say)
    return results


class Elsewhere:
    """A contender in a process of its own: in one process, the thread pools of several libraries slow each other down threefold.

    `make(*arguments)` is called there and gives the work; calling this object does it once and returns its seconds. A context
    manager: the process ends with it.
    """

    def __init__(self, make: Callable[..., Callable[[], object]], *arguments: object):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)

    def __enter__(self) -> Elsewhere:
        self._process.start()
        try:
            self._receive()  # that it is ready
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()  # it ends where it waits for the next question
        self._process.join(ENDING_S)
        self._process.terminate()
        self._process.join()

    def __call__(self) -> float:
        self._pipe.send(None)
        return self._receive()

    def _receive(self) -> float:
        while not self._pipe.poll(1):
            if not self._process.is_alive():
                raise BackendError("a peer's process ended: free some memory, or leave --peers out")
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise BackendError(f"a peer cannot run: {answer}")
        return answer


def _serve(pipe: Connection, make: Callable[..., Callable[[], object]], arguments: tuple[object, ...]) -> None:
    """The other end of `Elsewhere`: make the work, say so, then do it each time that something is received."""
    try:
        seconds = timed(make(*arguments))
        answer: float | str = 0.0
        while True:
            pipe.send(answer)
            pipe.recv()
            answer = seconds()
    except EOFError:
        return  # nobody asks any more
    except Exception as error:  # whatever it is, the process that asks has to be told
        pipe.send(one_line(error) or type(error).__name__)


def table(results: dict[str, dict[str, float]]) -> str:
    """The seconds, and the bundle's share of each peer's, for a reader."""
    lines = []
    for graph, seconds in results.items():
        for name, took in seconds.items():
            share = f"  the bundle takes {seconds['bundle'] / took:.2f} of it" if name != "bundle" else ""
            lines.append(f"{graph:<16}{name:<18}{took:>9.4f} s{share}")
    return "\n".join(lines)


def _pixels(bundle: Bundle, graph: str) -> Tensor:
    shape = bundle.manifest.graphs[graph].inputs[0].shape
    return torch.rand(shape, generator=torch.Generator().manual_seed(SEED)) * 255


def _eager(source: str, graph: str, pixels: Tensor, threads: int | None) -> Callable[[], object]:
    if threads:
        torch.set_num_threads(threads)
    encoder = getattr(open_checkpoint(source).load(parts=(graph,)), graph)

    @torch.inference_mode()
    def run() -> None:
        encoder(pixels)

    return run


@dataclasses.dataclass(frozen=True)
class Product:
    """A linear layer as a graph meets it: [rows, columns] times a weight [out, columns] of some scheme."""

    rows: int
    columns: int
    out: int
    bias: bool
    scheme: str


class _Products(nn.Module):
    """Copies of a product. Only last rows come out: ExecuTorch's Python runtime copies what a program returns, which is no product."""

    def __init__(self, product: Product, copies: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(product.columns, product.out, bias=product.bias) for _ in range(copies))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x)[-1:] for layer in self.layers)


def _products(bundle: Bundle, graph: str, folder: Path) -> Seconds:
    """All linear layers of a graph, each kind in a program of its own; a kind with many layers runs some and is scaled up."""
    from export.backends.executorch import ExecutorchBackend
    from export.components import Signature
    from export.executorch_runtime import load_method
    from export.quant.apply import Assignment
    from export.quant.recipe import LINEAR, SCHEMES

    parts = []
    for number, (product, count) in enumerate(linear_products(bundle, graph).items()):
        copies, path = min(count, MOST_COPIES), folder / f"{graph}-{number}.pte"
        assignments = [Assignment(f"layers.{i}", LINEAR, SCHEMES[product.scheme], (product.out, product.columns)) for i in range(copies)]
        x = TensorSpec("x", (product.rows, product.columns), "float32", "")
        outputs = tuple(TensorSpec(f"y{i}", (1, product.out), "float32", "") for i in range(copies))
        twin = _Products(product, copies).eval()
        ExecutorchBackend().lower(twin, Signature((x,), outputs), assignments, path)
        method, value = load_method(path), torch.randn(product.rows, product.columns)
        parts.append((count / copies, timed(lambda method=method, value=value: method([value]))))
    return lambda: sum(scale * seconds() for scale, seconds in parts)


def linear_products(bundle: Bundle, graph: str) -> dict[Product, int]:
    """How often each product occurs in a graph of the bundle, found by sending shapes through its twin."""
    from export.components import COMPONENTS, Form
    from export.model.mobile_videogpt import MobileVideoGPT
    from export.quant import presets
    from export.quant.apply import assign, quantizable_layers

    overrides = [f"{component}={scheme}" for component, scheme in bundle.manifest.quant_overrides.items()]
    recipe = presets.parse(bundle.manifest.recipe, overrides, list(COMPONENTS))
    with torch.device("meta"):
        twin = COMPONENTS[graph].twin(MobileVideoGPT(bundle.manifest.config()), Form(bundle.manifest.decoder.max_context, scan="fused"))
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


def _has_onnxruntime() -> bool:
    """Whether it and what exports to it are installed; where not, a line says so."""
    missing = [package for package in PEER_PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        print(f"onnxruntime is left out: pip install -e '.[peers]' ({', '.join(missing)} missing)", file=sys.stderr)
    return not missing


def _onnxruntime(source: str, pixels: Tensor, threads: int | None, int8: bool, folder: str) -> Callable[[], object]:
    """The eager image encoder in ONNX Runtime, with its dynamic quantization where the bundle's is int8."""
    with quiet():
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic

        path = Path(folder) / "image_encoder.onnx"
        encoder = open_checkpoint(source).load(parts=("image_encoder",)).image_encoder.eval()
        with torch.no_grad():
            torch.onnx.export(encoder, (pixels,), str(path), dynamo=True, external_data=True, verbose=False)
        if int8:
            quantize_dynamic(path, Path(folder) / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True)
            path = Path(folder) / "int8.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: pixels.numpy()}
    return lambda: session.run(None, feed)
