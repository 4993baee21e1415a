"""The target that brings this project's operators into ExecuTorch's Android build, in a project of the same form as that build."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from export.ops.native import find_packages, operators
from tests.kernels.driver import no_tool

pytestmark = pytest.mark.full

KERNELS = Path(__file__).parents[2] / "android_demo/kernels/mobile_videogpt_kernels.cmake"
LIMIT_S = 300
# What stands in for ExecuTorch: targets of these names with its headers, and its JNI library, linked as in extension/android.
PROJECT = {
    "CMakeLists.txt": """
cmake_minimum_required(VERSION 3.24)
project(executorch LANGUAGES CXX)
add_subdirectory(core)
add_subdirectory(jni)
""",
    "core/CMakeLists.txt": """
add_library(executorch_core STATIC core.cpp)
target_include_directories(executorch_core PUBLIC {include} {include}/executorch/runtime/core/portable_type/c10)
target_compile_definitions(executorch_core PUBLIC C10_USING_CUSTOM_GENERATED_MACROS)
target_compile_options(executorch_core PUBLIC -idirafter {torch}/include)
add_library(extension_threadpool STATIC pool.cpp)
target_link_libraries(extension_threadpool PUBLIC executorch_core)
""",
    "core/core.cpp": "int core_function() { return 1; }\n",
    "core/pool.cpp": "int pool_function() { return 1; }\n",
    "jni/CMakeLists.txt": """
add_library(executorch_jni SHARED jni.cpp)
set(link_libraries executorch_core extension_threadpool)
if(EXECUTORCH_JNI_CUSTOM_LIBRARY)
  list(APPEND link_libraries ${EXECUTORCH_JNI_CUSTOM_LIBRARY})
  target_link_libraries(executorch_jni -Wl,--whole-archive ${EXECUTORCH_JNI_CUSTOM_LIBRARY} -Wl,--no-whole-archive)
endif()
target_link_libraries(executorch_jni ${link_libraries})
""",
    "jni/jni.cpp": 'extern "C" int JNI_OnLoad() { return 0x10006; }\n',
}


def test_the_operators_are_in_the_library_once_and_register_themselves(tmp_path):
    """For 64-bit Arm, as phones are, where Debian's cross-compiler is there."""
    if not shutil.which("cmake"):
        no_tool("the build of the kernels needs cmake: apt-get install cmake")
    compiler = shutil.which("aarch64-linux-gnu-g++") or shutil.which("g++") or no_tool("there is no g++: apt-get install g++")
    packages = find_packages()
    for name, text in PROJECT.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{include}", f"{packages.executorch}/include").replace("{torch}", f"{packages.torch}"))
    options = [f"-DCMAKE_CXX_COMPILER={compiler}", f"-DCMAKE_PROJECT_executorch_INCLUDE={KERNELS}", "-DCMAKE_BUILD_TYPE=Release"]
    options += ["-DEXECUTORCH_JNI_CUSTOM_LIBRARY=mobile_videogpt_kernels", "-DCMAKE_SYSTEM_NAME=Linux"]
    run("cmake", "-S", tmp_path / "project", "-B", tmp_path / "build", *options)
    run("cmake", "--build", tmp_path / "build")
    library = tmp_path / "build/jni/libexecutorch_jni.so"
    symbols = run(compiler.replace("g++", "nm") if "aarch64" in compiler else "nm", "-C", library)
    assert len(re.findall(r" t _GLOBAL__sub_I_operators\.cpp$", symbols, re.MULTILINE)) == 1, "nothing registers the operators"
    assert re.search(r"U executorch::(?:\w+::)*register_kernels?\(", symbols), "they are not registered with the runtime that is linked"
    names = library.read_bytes()
    for operator in operators():
        assert operator.split("::")[1].encode() in names, operator


def run(*command) -> str:
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=LIMIT_S)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    return ran.stdout
