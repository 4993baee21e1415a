"""The kernels (`operators.cpp`) for ExecuTorch's Python runtime: compiled once per machine, loaded once per process.

The executorch wheel carries the headers and the symbols that are needed, so one call of a C++20 compiler (2 s) is the whole build.
On Linux that is tested; the flags for macOS follow its documentation and have not been tried. `python -m export.ops.native` builds,
and says what is lost where it cannot.

A file's name carries a hash of all that it depends on: sources, flags, package versions and places, and every macro that the
compiler predefines, which are its version and the instruction sets of this processor. A folder that several machines or
environments share thus never offers one of them a library of another.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.arguments import ArgumentParser
from export.errors import NO_SPACE, BackendError, command
from export.executorch_runtime import operator_names, package_folder

SOURCES = Path(__file__).parent
SOURCE = SOURCES / "operators.cpp"
STANDARD = "-std=c++20"
OPTIMISED = (STANDARD, "-O3", "-ffp-contract=fast")
KEPT_S = 24 * 3600  # another environment of this checkout may be using a build that is younger
PROBE_LIMIT_S = 60
BUILD_LIMIT_S = 600
LOST = "bundles of --kernels fused can be neither checked nor run in Python here; stock ones can, they are slower"

_loading = threading.Lock()


@dataclass(frozen=True)
class Compiler:
    """A C++20 compiler: its command, the flag that means this processor, and the macros that both predefine."""

    command: tuple[str, ...]
    target: tuple[str, ...]
    macros: str


@dataclass(frozen=True)
class Packages:
    """Folders of the installed packages, and the runtime's library, whose registry the kernels enter."""

    executorch: Path
    torch: Path
    runtime: Path


def library() -> Path:
    """The built library for this interpreter's executorch; compiled now where it is not there yet.

    Raises:
        BackendError: no package, no compiler, what the compiler said first, or no folder that can be written.
    """
    packages, compiler = find_packages(), find_compiler()
    name = f"operators-{_fingerprint(packages, compiler)}.so"
    folders = cache_folders()
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    refusals = []
    for folder in folders:
        try:
            library = build_in(folder, name, compiler, [*OPTIMISED, str(SOURCE), *_flags(packages)])
            _remove_old_builds(folder)
            return library
        except OSError as error:
            if error.errno in NO_SPACE:
                raise BackendError(f"no space left for the kernels' library, in {folder} or for temporary files: free some") from None
            refusals.append(f"{folder}: {error.strerror}")
    raise BackendError(f"no folder for the kernels' library ({', '.join(refusals)}): set XDG_CACHE_HOME to one that can be written")


def load() -> None:
    """Register the kernels with ExecuTorch's Python runtime; once they are there, from wherever, this does nothing.

    Raises:
        BackendError: as `library`, or the library does not load.
    """
    packages = find_packages()
    with _loading:
        names = operator_names()  # imports the runtime, which has to be in the process before its kernels
        missing = operators() - names
        if not missing:
            return
        if missing != operators():  # a name that is registered twice aborts the process
            raise BackendError("another version of the kernels is loaded in this process: start a new one")
        path = library()
        try:
            if sys.platform == "darwin":  # a library's open references are looked up among the global ones only
                ctypes.CDLL(str(packages.runtime), mode=ctypes.RTLD_GLOBAL)
            ctypes.CDLL(str(path))
        except OSError as error:
            raise BackendError(f"cannot load {path}: {error}; delete it, and it is built again") from None
        if missing - operator_names():
            raise BackendError(f"{path} did not register its operators: delete it, and it is built again")


def unavailable() -> str | None:
    """Why this machine cannot have the kernels, in one line that says what to install; None where it can. Builds nothing."""
    try:
        find_packages()
        find_compiler()
    except BackendError as error:
        return str(error)
    return None


def operators() -> set[str]:
    """Names that the library registers, as a runtime lists them: `mobile_videogpt::selective_scan.out` and so on."""
    return {"::".join(match) for match in re.findall(r'^EXECUTORCH_LIBRARY\((\w+), "([\w.]+)"', SOURCE.read_text(), re.MULTILINE)}


def find_packages() -> Packages:
    """Where executorch and torch are installed, without importing them. Raises BackendError."""
    executorch, torch = (package_folder(package, "the kernels need") for package in ("executorch", "torch"))
    runtimes = sorted((executorch / "extension" / "pybindings").glob("_portable_lib*.so"))
    if not runtimes or not (executorch / "include").is_dir():
        raise BackendError(f"{executorch} holds no C++ headers or no runtime library: install executorch's wheel for this system")
    return Packages(executorch, torch, runtimes[0])


def find_compiler() -> Compiler:
    """$CXX where it is set, else the first of g++, clang++ and c++ that compiles C++20. Raises BackendError."""
    try:
        chosen = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise BackendError(f"$CXX is no command line ({error}): set it to a compiler, or unset it") from None
    for candidate in [chosen] if chosen else [["g++"], ["clang++"], ["c++"]]:
        for target in (("-march=native",), ("-mcpu=native",), ()):  # which of them a compiler takes depends on the processor
            macros = _predefined(*candidate, *OPTIMISED, *target)
            if macros is not None:
                return Compiler(tuple(candidate), target, macros)
    what = f"$CXX is {shlex.join(chosen)}, which is none" if chosen else "install g++ 11 or clang++ 14 (Debian: apt install g++)"
    raise BackendError(f"the kernels need a C++20 compiler: {what}")


def cache_folders() -> list[Path]:
    """Where built libraries are looked for, and kept in the first that can be written."""
    folders = [SOURCES / "build"]
    with contextlib.suppress(RuntimeError):  # a user without a home
        folders.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mobile-videogpt")
    return folders


def _predefined(*compiler: str) -> str | None:
    """The macros that a compiler defines by itself; None where it does not run or refuses a flag."""
    try:
        ran = subprocess.run([*compiler, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, timeout=PROBE_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ran.stdout if ran.returncode == 0 else None


def _flags(packages: Packages) -> list[str]:
    include = packages.executorch / "include"
    flags = ["-fPIC", "-shared", "-DC10_USING_CUSTOM_GENERATED_MACROS"]
    for folder in (include, include / "executorch" / "runtime" / "core" / "portable_type" / "c10"):
        flags += ["-isystem", str(folder)]
    flags += ["-idirafter", str(packages.torch / "include")]
    if sys.platform == "darwin":  # an extension module is no dylib to link to; its symbols are found when this one is loaded
        return [*flags, "-undefined", "dynamic_lookup"]
    return [*flags, str(packages.runtime), f"-Wl,-rpath,{packages.runtime.parent}", f"-Wl,-rpath,{packages.torch / 'lib'}"]


def _fingerprint(packages: Packages, compiler: Compiler) -> str:
    versions = [importlib.metadata.version(package) for package in ("executorch", "torch")]
    sources = sorted([*SOURCES.glob("*.cpp"), *SOURCES.rglob("*.h")])
    parts = [compiler.macros, *compiler.command, *OPTIMISED, *compiler.target, *_flags(packages), *versions]
    parts += [part for path in sources for part in (str(path.relative_to(SOURCES)), path.read_text())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def build_in(folder: Path, name: str, compiler: Compiler, arguments: Sequence[str]) -> Path:
    """Compile into a folder of its own and rename: who looks meanwhile sees no library or a whole one.

    Raises:
        BackendError: what the compiler said first.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=folder) as work:
        built = Path(work) / name
        compile_command = [*compiler.command, *compiler.target, *arguments, "-o", str(built)]
        try:
            ran = subprocess.run(compile_command, capture_output=True, text=True, timeout=BUILD_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise BackendError(f"{compiler.command[0]} did not finish the kernels in {BUILD_LIMIT_S} s: set CXX to another") from None
        if ran.returncode:
            if os.strerror(errno.ENOSPC) in ran.stderr:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            said = first_error(ran.stderr) or f"exit code {ran.returncode}"
            raise BackendError(f"{shlex.join(compiler.command)} cannot compile the kernels: {said}; install or set CXX to another")
        os.replace(built, folder / name)
    return folder / name


def first_error(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)), lines[0] if lines else "")


def _remove_old_builds(folder: Path) -> None:
    """Only beside the sources: the user's cache may serve several checkouts."""
    if folder != SOURCES / "build":
        return
    for path in [*folder.glob("operators-*.so"), *folder.glob("making-*")]:
        try:
            if time.time() - path.stat().st_mtime > KEPT_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:
            continue  # somebody else removed it first, or it is somebody else's: nothing is lost


@command
def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m export.ops.native", description="Compile the kernels for ExecuTorch's Python runtime.")
    parser.add_argument("--optional", action="store_true", help="exit with 0 also where they cannot be compiled")
    arguments = parser.parse_args(argv)
    try:
        print(f"kernels: {library()}")
    except BackendError as error:
        if not arguments.optional:
            raise BackendError(f"{error}. Without the kernels, {LOST}") from None
        print(f"kernels: none. {error}. Without them, {LOST}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
