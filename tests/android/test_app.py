"""The Android app, compiled by Kotlin's own compiler against declarations of Android's classes that are checked themselves, and its
resources by Android's own resource compiler against a real platform's."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.android import android_stubs
from tests.android.android_declarations import declarations
from tests.android.android_stubs import all_stubs, compile_stubs, errors, read
from tests.android.toolchain import CORE, LIMIT_S, REPOSITORY, compile_kotlin, core_sources, json_jar, kotlinc
from tests.kernels.driver import no_tool

pytestmark = pytest.mark.full

APP = REPOSITORY / "android_demo/app/src/main"
EXECUTORCH_DOUBLE = REPOSITORY / "tests/android/executorch_double"
PLATFORM = Path("/usr/share/android-framework-res/framework-res.apk")  # Android 10's resources
NEWER_ATTRIBUTES = {"android:dataExtractionRules": 31}  # than that platform; Android ignores what it does not know
BUILD_CONFIG = """package org.mobilevideogpt.demo;
public final class BuildConfig {
    public static final boolean CUSTOM_OPERATORS = Boolean.parseBoolean("false");
}
"""


@pytest.mark.parametrize("stub", all_stubs(), ids=lambda stub: stub.name)
def test_what_the_stubs_declare_is_in_android(stub):
    assert errors(stub) == []


WRONG = {
    "class NoSuchThing {\n}": "no such class",
    "class PowerManager {\n    int getThermalStatus();\n}": "no such member",
    "class PowerManager {\n    static int getCurrentThermalStatus();\n}": "Android has ['()']",
    "class PowerManager {\n    boolean getCurrentThermalStatus();\n}": "boolean, Android has ['number']",
    "class PowerManager {\n    int getCurrentThermalStatus(int which);\n}": "Android has ['()']",
    "class PowerManager {\n    int THERMAL_STATUS_SEVERE = 4;\n}": "Android has ['3']",
    "class Bundle {\n    String getString(@Nullable String key);\n}": "string, Android has ['string?'",
    "class Handler {\n    Handler();\n}": "is deprecated",
    "interface Handler {\n}": "Android has a class of this name",
    "class Handler extends Looper {\n}": "does not extend android.os.Looper",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_stub_is_found(text, tmp_path):
    path = tmp_path / "android.os.stubs"
    path.write_text(f"package android.os;\n\n{text}\n")
    (stub,) = read(path)
    assert any(WRONG[text] in error for error in errors(stub)), errors(stub)


@pytest.fixture(scope="module")
def resources(tmp_path_factory) -> Path:
    """`R.java`, made by aapt2 from the manifest and the resources: it refuses a reference to what is not there."""
    if not shutil.which("aapt2"):
        no_tool("resources are compiled by aapt2: apt-get install aapt")
    if not PLATFORM.exists():
        no_tool(f"there is no {PLATFORM}: apt-get install android-framework-res")
    folder = tmp_path_factory.mktemp("resources")
    manifest = (APP / "AndroidManifest.xml").read_text().replace("<manifest ", '<manifest package="org.mobilevideogpt.demo" ', 1)
    for attribute in NEWER_ATTRIBUTES:
        manifest, count = re.subn(rf'\s+{attribute}="[^"]*"', "", manifest)
        assert count == 1, f"{attribute} is not in the manifest any more"
    (folder / "AndroidManifest.xml").write_text(manifest)
    run(["aapt2", "compile", "--dir", APP / "res", "-o", folder / "resources.zip"])
    versions = ["--min-sdk-version", "26", "--target-sdk-version", "36"]
    made = ["--java", folder / "java", "-o", folder / "app.apk"]
    run(["aapt2", "link", "-I", PLATFORM, "--manifest", folder / "AndroidManifest.xml", *versions, *made, folder / "resources.zip"])
    return folder / "java"


def run(command: list) -> None:
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=LIMIT_S)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "warn" not in ran.stderr, ran.stderr


@pytest.fixture(scope="module")
def android(resources, tmp_path_factory) -> list[Path]:
    """The classpath that the app is compiled against."""
    folder = tmp_path_factory.mktemp("android")
    config = folder / "BuildConfig.java"
    config.write_text(BUILD_CONFIG)
    stubs = compile_stubs(folder / "stubs", [*resources.rglob("*.java"), config])
    double = compile_kotlin(sorted(EXECUTORCH_DOUBLE.rglob("*.kt")), [], folder / "executorch", warnings_as_errors=False)
    return [stubs, double, json_jar()]


@pytest.fixture(scope="module")
def core(android, tmp_path_factory) -> Path:
    """`core` with its Android part."""
    sources = [*core_sources(), *sorted(CORE.glob("android/*.kt")), *sorted(CORE.glob("executorch/*.kt"))]
    return compile_kotlin(sources, android, tmp_path_factory.mktemp("core") / "classes")


def app_sources() -> list[Path]:
    return sorted(APP.rglob("*.kt"))


def test_core_compiles_against_android_without_a_warning(core):
    assert list(core.rglob("VideoReader.class"))


def test_the_app_compiles_without_a_warning(core, android, tmp_path):
    compile_kotlin(app_sources(), [core, *android], tmp_path / "classes")


EXAMPLE_IMPORTS = """
import android.content.Context
import android.net.Uri
import java.io.File
import org.mobilevideogpt.core.*
import org.mobilevideogpt.core.android.*
import org.mobilevideogpt.core.executorch.ExecuTorchBackend
"""


def test_the_readme_s_example_compiles(core, android, tmp_path):
    (example,) = re.findall(r"```kotlin\n(.*?)```", (REPOSITORY / "android_demo/README.md").read_text(), re.DOTALL)
    assert len(example.splitlines()) <= 25
    source = tmp_path / "Example.kt"
    source.write_text(EXAMPLE_IMPORTS + example)
    compile_kotlin([source], [core, *android], tmp_path / "classes")


MISTAKES = [  # file, what stands there, a mistake in its place, and what the compiler says of it
    ("ChatActivity.kt", "R.layout.activity_chat", "R.layout.activity_chats", "activity_chats"),
    ("BenchmarkActivity.kt", "R.string.status_no_bundle", "R.string.status_no_bundel", "status_no_bundel"),
    ("ChatActivity.kt", "MediaStore.ACTION_VIDEO_CAPTURE", "MediaStore.ACTION_CAPTURE_VIDEO", "ACTION_CAPTURE_VIDEO"),
    ("ChatActivity.kt", "val uri = data?.data", "val uri = data?.data?.pathSegments", "'Uri' was expected"),
    ("ResultProvider.kt", 'context ?: throw FileNotFoundException("the provider has not begun")', "context", "'Context?'"),
    ("Failures.kt", "    is VideoGptException.NoTokenizer,\n", "", "NoTokenizer"),
]


def test_mistakes_do_not_compile(core, android, tmp_path):
    """One of each kind: resources, constants, types, what may be null, and a failure without a screen."""
    sources = []
    for source in app_sources():
        text = source.read_text()
        for file, right, wrong, _ in MISTAKES:
            if source.name == file:
                assert right in text
                text = text.replace(right, wrong)
        copy = tmp_path / source.name
        copy.write_text(text)
        sources.append(copy)
    ran = kotlinc(sources, [core, *android], tmp_path / "classes")
    assert ran.returncode != 0
    for file, _, _, said in MISTAKES:
        assert re.search(rf"{file}:\d+:\d+: error: .*{re.escape(said)}", ran.stderr), f"{file}: {said} passes:\n{ran.stderr}"


GUARD = re.compile(r"SDK_INT >= (\d+)")


def test_what_is_newer_than_the_oldest_phone_is_asked_for_first():
    """A member that came after the minimum API level stands within a few lines of a check of the version."""
    minimum = int(re.search(r'min-sdk = "(\d+)"', (REPOSITORY / "android_demo/gradle/libs.versions.toml").read_text())[1])
    levels: dict[str, int] = {}
    for stub in all_stubs():
        for name, level in android_stubs.since(stub).items():
            constant = name in stub.values  # inlined by the compiler: an old phone never looks for it
            if level > minimum and not constant:
                levels[name] = level
    assert levels, "no member is newer: has the list of levels been read?"
    checked = 0
    for source in [*sorted(CORE.glob("android/*.kt")), *app_sources()]:
        lines = source.read_text().splitlines()
        for number, line in enumerate(lines):
            for name, level in levels.items():
                if re.search(rf"\b{name}\b", line) and not line.startswith("import "):
                    near = [int(found) for earlier in lines[max(0, number - 3) : number + 1] for found in GUARD.findall(earlier)]
                    assert near and max(near) >= level, f"{source.name}:{number + 1}: {name} needs API level {level}"
                    checked += 1
    assert checked


def test_the_declarations_are_those_of_a_whole_platform():
    classes = declarations()
    assert len(classes) > 5000
    assert classes["android.media.MediaCodec"].members and classes["android.view.View.OnClickListener"].interface
