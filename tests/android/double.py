"""The double of `org.pytorch.executorch` for the JVM of this machine: Kotlin classes with the signatures of ExecuTorch's Android library,
over a C++ shim that is linked to the runtime of the executorch wheel. With it the app's Kotlin runs real `.pte` files.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from filelock import FileLock

from export.errors import BackendError
from export.ops import native
from tests.android import toolchain
from tests.kernels.driver import no_tool

FOLDER = Path(__file__).with_name("executorch_double")
SHIM = FOLDER / "module_jni.cpp"
OPERATOR_LIBRARIES = ("kernels/quantized/libquantized_ops_aot_lib.so", "extension/llm/custom_ops/libcustom_ops_aot_lib.so")


def kotlin_sources() -> list[Path]:
    return sorted(FOLDER.rglob("*.kt"))


@functools.cache
def shim() -> Path:
    """The compiled shim; built once for its sources and packages."""
    if sys.platform != "linux":
        no_tool("the shim under the double is linked as Linux has it")
    try:
        packages, compiler = native.find_packages(), native.find_compiler()
    except BackendError as error:
        no_tool(f"the shim under the double cannot be built: {error}")
    command = [*compiler.command, native.STANDARD, "-O1", str(SHIM), *_flags(packages)]
    fingerprint = hashlib.sha256("\0".join([SHIM.read_text(), compiler.macros, *command]).encode()).hexdigest()[:16]
    built = toolchain.BUILD / f"module-jni-{fingerprint}.so"
    toolchain.BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(toolchain.BUILD / "shim.lock"):
        if not built.exists():
            new = built.with_suffix(".new")
            compiled = subprocess.run([*command, "-o", str(new)], capture_output=True, text=True)
            assert compiled.returncode == 0, compiled.stderr[-4000:]
            os.replace(new, built)
    return built


def properties(fused: bool = False) -> dict[str, object]:
    """System properties of a JVM that uses the double. fused: with this project's operators."""
    libraries = [shim(), *([native.library()] if fused else [])]
    return {"executorch.libraries": os.pathsep.join(map(str, libraries))}


def _flags(packages: native.Packages) -> list[str]:
    """How the shim finds headers and libraries. The Python library comes first: the wheel's runtime is an extension module of it."""
    include = packages.executorch / "include"
    headers = _jni_headers()
    python = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME"))
    if not python.exists():
        no_tool(f"the wheel's runtime needs Python's shared library outside Python, and there is no {python}")
    libraries = [python, packages.runtime, *(packages.executorch / name for name in OPERATOR_LIBRARIES)]
    flags = ["-fPIC", "-shared", "-Wall", "-Werror", "-DC10_USING_CUSTOM_GENERATED_MACROS", f"-I{headers}", f"-I{headers / 'linux'}"]
    for folder in (include, include / "executorch" / "runtime" / "core" / "portable_type" / "c10"):
        flags += ["-isystem", str(folder)]
    flags += ["-Wl,--no-as-needed", *map(str, libraries)]
    folders = sorted({str(library.parent) for library in libraries} | {str(packages.torch / "lib")})
    return flags + [f"-Wl,-rpath,{folder}" for folder in folders]


def _jni_headers() -> Path:
    """The folder of `jni.h` of a development kit."""
    javac = shutil.which("javac")
    homes = [Path(os.environ["JAVA_HOME"])] if "JAVA_HOME" in os.environ else []
    homes += [Path(javac).resolve().parents[1]] if javac else []
    for home in homes:
        if (home / "include" / "jni.h").exists():
            return home / "include"
    no_tool("the shim under the double needs jni.h: apt-get install openjdk-17-jdk-headless")
