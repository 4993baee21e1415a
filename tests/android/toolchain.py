"""What compiles and runs the Android app's Kotlin without an Android SDK: Kotlin's own compiler from npm, Java and jars from Debian.

Where a tool is missing, `no_tool` skips the test, or fails it in continuous integration. `core_sources` are the files of `core` that
need neither Android nor ExecuTorch.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.kernels.driver import no_tool
from tests.npm import npm_package

REPOSITORY = Path(__file__).parents[2]
CORE = REPOSITORY / "android_demo/core/src/main/kotlin/org/mobilevideogpt/core"
CORE_TESTS = REPOSITORY / "android_demo/core/src/test/kotlin/org/mobilevideogpt/core"
BUILD = REPOSITORY / "build/android"
KOTLIN = "2.4.20"  # of npm's package kotlin-compiler
JVM_TARGET = "17"
DEBIAN_JARS = Path("/usr/share/java")
DEBIAN_PACKAGES = {  # a jar, and the package that brings it
    "junit4.jar": "junit4",
    "hamcrest.jar": "libhamcrest-java",
    "json-android.jar": "libandroid-json-org-java",
}
LIMIT_S = 300


def core_sources() -> list[Path]:
    """The files of `core` that run on any JVM."""
    return sorted(CORE.glob("*.kt"))


@functools.cache
def java() -> str:
    """The command that runs Java 17 or later."""
    home = os.environ.get("JAVA_HOME")
    command = str(Path(home, "bin/java")) if home and Path(home, "bin/java").exists() else shutil.which("java")
    if not command:
        no_tool("Kotlin needs Java: apt-get install openjdk-17-jdk-headless")
    ran = subprocess.run([command, "-XshowSettings:properties", "-version"], capture_output=True, text=True, timeout=LIMIT_S)
    lines = [line.split("=")[1].strip() for line in ran.stderr.splitlines() if "java.specification.version =" in line]
    if not lines or float(lines[0]) < 17:
        no_tool(f"Kotlin's compiler needs Java 17 or later, {command} is {lines[0] if lines else 'none that runs'}")
    return command


@functools.cache
def jar(name: str) -> Path:
    """A jar that one of Debian's packages brings."""
    path = DEBIAN_JARS / name
    if not path.exists():
        no_tool(f"there is no {path}: apt-get install {DEBIAN_PACKAGES[name]}")
    return path


def json_jar() -> Path:
    """`org.json` as Android has it."""
    return jar("json-android.jar")


def junit_jars() -> list[Path]:
    return [jar("junit4.jar"), jar("hamcrest.jar")]


def stdlib() -> Path:
    """Kotlin's standard library, of the compiler's version."""
    return kotlin_home() / "lib/kotlin-stdlib.jar"


def kotlin_home() -> Path:
    """The compiler's folder."""
    return npm_package("kotlin-compiler", KOTLIN)


def compile_kotlin(
    sources: Iterable[Path],
    classpath: Sequence[Path],
    out: Path,
    warnings_as_errors: bool = True,
    friends: Sequence[Path] = (),
    options: Sequence[str] = (),
) -> Path:
    """Compile to class files in the folder `out` (or the jar, by its name) and return it; the standard library is on the classpath already.

    friends: places on the classpath whose `internal` names the sources may use, as tests may.
    Raises AssertionError with what the compiler says.
    """
    ran = kotlinc(sources, classpath, out, warnings_as_errors, friends, options)
    assert ran.returncode == 0, f"Kotlin does not compile:\n{ran.stderr[-8000:]}"
    return out


def kotlinc(
    sources: Iterable[Path],
    classpath: Sequence[Path],
    out: Path,
    warnings_as_errors: bool = True,
    friends: Sequence[Path] = (),
    options: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """As `compile_kotlin`, and returns what the compiler gave: also where it refuses."""
    lib = kotlin_home() / "lib"
    entry = ["-cp", str(lib / "kotlin-preloader.jar"), "org.jetbrains.kotlin.preloading.Preloader"]
    compiler = ["-cp", str(lib / "kotlin-compiler.jar"), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-kotlin-home", str(lib.parent)]
    flags = ["-no-reflect", "-jvm-target", JVM_TARGET, "-Xjdk-release=" + JVM_TARGET]
    if warnings_as_errors:
        flags += ["-Werror"]
    if friends:
        flags += ["-Xfriend-paths=" + ",".join(str(path) for path in friends)]
    if classpath:
        flags += ["-cp", _joined(classpath)]
    files = [str(source) for source in sources]
    command = [java(), "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *entry, *compiler, *flags, *options, "-d", str(out), *files]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)


def run_java(
    main: str,
    *arguments: str,
    classpath: Sequence[Path],
    properties: Mapping[str, object] | None = None,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    timeout_s: float = LIMIT_S,
) -> subprocess.CompletedProcess[str]:
    """Run a class with `main`; the standard library is on the classpath already. The caller looks at the exit code."""
    defined = [f"-D{key}={value}" for key, value in (properties or {}).items()]
    everything = _joined([*classpath, stdlib()])
    command = [java(), "-ea", "-Dfile.encoding=UTF-8", *options, *defined, "-cp", everything, main, *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=timeout_s,
        env={**os.environ, **(environment or {})},
    )


def run_junit(classes: Sequence[str], classpath: Sequence[Path], properties: Mapping[str, object] | None = None, **more) -> str:
    """Run test classes with JUnit 4 and return what they print. Raises AssertionError with that where one fails."""
    ran = run_java("org.junit.runner.JUnitCore", *classes, classpath=[*classpath, *junit_jars()], properties=properties, **more)
    output = ran.stdout + ran.stderr
    assert ran.returncode == 0, output[-12000:]
    assert "OK (" in output, output[-4000:]
    return output


def _joined(classpath: Sequence[Path]) -> str:
    return os.pathsep.join(str(path) for path in classpath)
