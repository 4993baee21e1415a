"""ExecuTorch's own runtime behind the backend interface: the `.pte` files of a bundle, memory-mapped, each loaded at first use."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from export.bundle import Bundle
from export.errors import BackendError, BundleError, one_line
from export.executorch_runtime import bindings, has_graphs, load_method, operator_names, read_lazily, return_memory, use_threads
from export.ops import native
from export.ops.attention import KEY_LANES
from runtime_py.backends.base import bundle_identity, copy_into
from runtime_py.load import available_cores

INTERPRETED = "executorch_prim::"  # instructions of the runtime itself, present in every build


class ExecutorchBackend:
    """The graphs of a bundle built with `--target executorch`."""

    name = "executorch"
    device = "cpu"

    def __init__(self, bundle: Bundle, threads: int | None = None):
        bindings()  # else nothing of this runs
        self.bundle = bundle
        self.config = bundle.manifest.config()
        self.identity = bundle_identity(bundle, self.name)
        self.max_context = bundle.manifest.decoder.max_context
        self._most_tokens = bundle.manifest.graphs["decoder"].dynamic_axes[0].maximum  # of one call
        if bundle.manifest.kernels == "fused":
            self._load_kernels()
        self._check_operators()
        self._methods: dict[str, object] = {}
        if threads is not None or not has_graphs():
            use_threads(threads or available_cores())

    def run(self, graph: str, *inputs: Tensor) -> Tensor:
        return self._execute(graph, *(x.contiguous() for x in inputs))

    def decode(self, embeds: Tensor, position: int) -> Tensor:
        """The prompt [T, D] in as many calls as it takes; the last one's logits."""
        logits = embeds.new_zeros(0)
        for start in range(0, embeds.shape[0], self._most_tokens):
            part = embeds[start : start + self._most_tokens].contiguous()
            logits = self._execute("decoder", part, torch.tensor([position + start], dtype=torch.int64))
        return logits

    def read_cache(self, tokens: int) -> dict[str, Tensor]:
        blocks = -(-tokens // KEY_LANES)  # of keys that lie together in the cache of our own attention
        return {name: cache[:, : blocks if together else tokens].clone() for name, cache, together in self._caches()}

    def write_cache(self, tensors: Mapping[str, Tensor]) -> None:
        for name, cache, _ in self._caches():
            copy_into(cache, tensors.get(name))

    def _caches(self) -> Iterator[tuple[str, Tensor, bool]]:
        """Every cache of the decoder by name, the tensor itself, and whether positions lie together in it."""
        method = self._method("decoder")
        own = any(name.endswith("::cached_attention.out") for name in self.bundle.manifest.graphs["decoder"].operators)
        for layer, part in itertools.product(range(self.config.decoder.layers), ("keys", "values")):
            name = f"layers.{layer}.attention.{part}"
            try:
                yield name, method.get_attribute(name), own and part == "keys"
            except RuntimeError as error:
                raise BackendError(f"{self.bundle.folder}: its decoder's caches have no names: build the bundle again") from error

    def load(self, graphs: Iterable[str]) -> None:
        for graph in graphs:
            self._method(graph)

    def release(self, graphs: Iterable[str]) -> None:
        released = [self._methods.pop(graph) for graph in graphs if graph in self._methods]
        if released:
            del released
            return_memory()

    def synchronize(self) -> None:
        """Every call returns when its result is there."""

    def bundle_bytes(self) -> int:
        return self.bundle.manifest.bundle_bytes

    def versions(self) -> dict[str, str]:
        return {package: importlib.metadata.version(package) for package in ("executorch", "torch")}

    def _execute(self, graph: str, *inputs: Tensor) -> Tensor:
        method = self._method(graph)
        try:
            return method(inputs)[0]
        except RuntimeError as error:
            shapes = ", ".join(str(list(x.shape)) for x in inputs)
            raise BundleError(
                f"{self.bundle.folder}: ExecuTorch cannot run the graph {graph} on inputs {shapes} ({one_line(error)}): "
                "free some memory, or build the bundle again"
            ) from error

    def _method(self, graph: str) -> object:
        if graph not in self._methods:
            self._methods[graph] = self._load(graph)
        return self._methods[graph]

    def _load(self, graph: str) -> object:
        path = self.bundle.graph_path(graph)
        try:
            method = load_method(path)
        except RuntimeError as error:
            raise BundleError(f"{path}: ExecuTorch cannot load this graph ({one_line(error)}): build the bundle again") from error
        if graph == "token_embedding":  # a conversation needs some hundred of its rows
            read_lazily(path)
        return method

    def _load_kernels(self) -> None:
        """Put this project's operators beside the stock ones."""
        try:
            native.load()
        except BackendError as error:
            names = ", ".join(self.bundle.manifest.custom_operators)
            line = f"{self.bundle.folder} needs this project's operators ({names}): {error}; or build with --kernels stock"
            raise BackendError(line) from None

    def _check_operators(self) -> None:
        present = operator_names()
        for name, entry in self.bundle.manifest.graphs.items():
            missing = [op for op in entry.operators if op not in present and not op.startswith(INTERPRETED)]
            if missing:
                raise BundleError(
                    f"{self.bundle.folder}: graph {name} needs the operator {missing[0]}, which this ExecuTorch lacks: "
                    "link the kernels that the manifest names, or build with --kernels stock"
                )
