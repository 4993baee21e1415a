"""ExecuTorch's runtime in this process, without its exporter.

`import executorch.runtime` brings the whole exporter with it (torch._dynamo, torch._inductor, torchao): seconds and 140 MB for what runs
no graph. Graphs are run by one extension module and two libraries of stock operators, which are loaded here by themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from export.errors import BackendError
from export.quiet import quiet

MADV_DONTNEED = 4  # Linux
OPERATOR_LIBRARIES = ("kernels/quantized", "extension/llm/custom_ops")  # quantized_decomposed::*, llama::*


def package_folder(package: str, what: str) -> Path:
    """Where a package is installed that `what` needs, without importing it. Raises BackendError where it is not."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BackendError(f"{what} the package {package}: pip install -e '.[executorch]'")
    return Path(next(iter(spec.submodule_search_locations)))


@functools.cache
def bindings() -> ModuleType:
    """The extension module, with the stock operators registered, which may happen once in a process; loading them twice does nothing.

    Raises:
        BackendError: executorch is not installed, or is none that this version knows.
    """
    folder = package_folder("executorch", "this needs")
    import torch  # whose libraries the extension module needs

    with quiet():
        try:
            module = importlib.import_module("executorch.extension.pybindings._portable_lib")
            for place in OPERATOR_LIBRARIES:
                (library,) = (folder / place).rglob("*_ops_aot_lib.*")
                torch.ops.load_library(str(library))
        except (ImportError, OSError, ValueError) as error:
            raise BackendError(
                f"{folder} is no executorch that this version runs ({error}): install the one that pyproject.toml pins"
            ) from error
    return module


def operator_names() -> set[str]:
    """Every operator that graphs may use: `aten::add.out` and so on."""
    return set(bindings()._get_operator_names())


def load_method(path: Path) -> object:
    """The method of a `.pte` file, mapped into memory: called with a list of tensors it gives a list of tensors.

    Raises:
        RuntimeError: ExecuTorch cannot load it.
    """
    _process.has_graphs = True
    with quiet():
        return bindings()._load_program(str(path)).load_method("forward")


def read_lazily(path: Path) -> None:
    """Let the pages of a mapped file come as they are touched. ExecuTorch locks them, where it may (root, or a large RLIMIT_MEMLOCK):
    all are then read when the file is loaded, and stay."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return
    libc = ctypes.CDLL(None)
    for line in maps.read_text().splitlines():
        addresses, *_, name = line.split(maxsplit=5)
        if name == str(path.resolve()):
            begin, end = (int(address, 16) for address in addresses.split("-"))
            libc.munlock(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin))
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_DONTNEED)


def return_memory() -> None:
    """Give freed memory back to the system, where the C library keeps it (glibc does)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class _Process:
    """What everything in this process shares."""

    has_graphs = False  # one was loaded: it holds a pointer to the thread pool


_process = _Process()


def has_graphs() -> bool:
    """Whether this process has loaded any, which hold a pointer to the thread pool."""
    return _process.has_graphs


def threads_in_use() -> int:
    """Threads of the process's pool."""
    with quiet():  # its first use looks at the processor, and says so
        return bindings()._threadpool_get_thread_count()


def use_threads(threads: int) -> None:
    """Give the process's thread pool so many threads.

    Raises:
        BackendError: graphs were loaded with another number, and would be left with a pool that is gone.
    """
    current = threads_in_use()
    if threads == current:
        return
    if _process.has_graphs:
        raise BackendError(f"--threads {threads}: this process has loaded graphs with {current} threads already; start another process")
    with quiet():
        bindings()._unsafe_reset_threadpool(threads)
