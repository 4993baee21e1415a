"""What of the Android project can be read without any of its tools: Gradle files, manifest, resources, and what core keeps to."""

import re
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
PROJECT = REPOSITORY / "android_demo"
APP = PROJECT / "app/src/main"
CORE = PROJECT / "core/src/main/kotlin/org/mobilevideogpt/core"
ANDROID = "{http://schemas.android.com/apk/res/android}"
CATALOG = tomllib.loads((PROJECT / "gradle/libs.versions.toml").read_text())
RESOURCE = re.compile(r"\bR\.(\w+)\.(\w+)")
REFERENCE = re.compile(r"@(?:\+)?(\w+)/(\w+)")


def kotlin(folder: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in sorted(folder.rglob("*.kt"))}


def manifest() -> ElementTree.Element:
    return ElementTree.parse(APP / "AndroidManifest.xml").getroot()


def gradle(module: str) -> str:
    return (PROJECT / module / "build.gradle.kts").read_text()


def test_the_library_is_of_the_exporting_wheel_s_version():
    wheels = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]["executorch"]
    (wheel,) = [requirement for requirement in wheels if requirement.startswith("executorch==")]
    assert wheel == f"executorch=={CATALOG['versions']['executorch']}"
    backend = (CORE / "executorch/ExecuTorchBackend.kt").read_text()
    assert f'EXECUTORCH_VERSION = "{CATALOG["versions"]["executorch"]}"' in backend
    assert CATALOG["libraries"]["executorch-android"]["module"] == "org.pytorch:executorch-android"


def test_versions_and_catalog_are_used_as_they_are_named():
    assert CATALOG["versions"]["min-sdk"] == "26"
    for name, version in CATALOG["versions"].items():
        assert re.fullmatch(r"\d+(\.\w+)*", version), f"{name} {version}: a version that floats"
    for kind in ("libraries", "plugins"):
        for name, entry in CATALOG[kind].items():
            assert entry["version"]["ref"] in CATALOG["versions"], name
    files = "".join(path.read_text() for path in PROJECT.rglob("*.gradle.kts"))
    accessors = re.findall(r"libs\.((?:versions|plugins)\.)?([a-z.]+[a-z])", files)
    used = {(group.rstrip(".") or "libraries", name.removesuffix(".get").replace(".", "-")) for group, name in accessors}
    assert used
    for group, name in used:
        assert name in CATALOG[group], f"libs.{group}.{name} is not in the catalog"
    unused = [name for kind in ("libraries", "plugins") for name in CATALOG[kind] if (kind, name) not in used]
    assert not unused


def test_the_modules_are_those_that_were_agreed():
    settings = (PROJECT / "settings.gradle.kts").read_text()
    assert 'include(":core", ":app")' in settings and "mavenCentral()" in settings and "google()" in settings
    assert 'namespace = "org.mobilevideogpt.core"' in gradle("core") and "android.library" in gradle("core")
    assert 'applicationId = "org.mobilevideogpt.demo"' in gradle("app") and "android.application" in gradle("app")
    for module in ("core", "app"):
        assert "libs.versions.min.sdk" in gradle(module) and "allWarningsAsErrors = true" in gradle(module)
    assert 'abiFilters += "arm64-v8a"' in gradle("app")
    assert "useLegacyPackaging = false" in gradle("app"), "packed libraries cannot be aligned to 16 KB pages"
    assert "isMinifyEnabled = true" in gradle("app")


def test_the_wrapper_fetches_a_fixed_gradle_over_https():
    text = (PROJECT / "gradle/wrapper/gradle-wrapper.properties").read_text()
    assert re.search(r"^distributionUrl=https\\://services\.gradle\.org/distributions/gradle-[\d.]+-bin\.zip$", text, re.MULTILINE)


def test_what_native_code_calls_survives_shrinking():
    rules = (PROJECT / "core/consumer-rules.pro").read_text()
    assert 'consumerProguardFiles("consumer-rules.pro")' in gradle("core")
    for package in ("org.pytorch.executorch", "com.facebook.jni", "com.facebook.soloader.nativeloader"):
        assert f"-keep class {package}.** {{ *; }}" in rules


def test_core_has_no_android_outside_its_folder_and_no_screen_in_it():
    for path, text in kotlin(CORE).items():
        imports = re.findall(r"^import (\S+)", text, re.MULTILINE)
        assert not [name for name in imports if name.startswith(("androidx.", "org.mobilevideogpt.demo", "kotlinx."))], path
        if path.parent != CORE / "android":
            assert "android." not in " ".join(imports), path
        screens = r"android\.(view|widget|webkit|app\.(Activity|Dialog|AlertDialog|Fragment)$)"
        assert not [name for name in imports if re.match(screens, name)], path


def test_the_app_needs_no_library_but_core():
    for path, text in kotlin(APP).items():
        for name in re.findall(r"^import (\S+)", text, re.MULTILINE):
            assert name.startswith(("android.", "java.", "kotlin.", "org.json.", "org.mobilevideogpt.")), f"{path.name}: {name}"


def test_every_component_is_declared_and_every_declared_one_is_there():
    sources = "\n".join(kotlin(APP).values())
    declared = {element.get(ANDROID + "name").removeprefix(".") for kind in ("activity", "provider") for element in manifest().iter(kind)}
    written = set(re.findall(r"class (\w+) : (?:Activity|ContentProvider)\(\)", sources))
    assert declared == written
    (application,) = manifest().iter("application")
    assert f"class {application.get(ANDROID + 'name').removeprefix('.')} : Application()" in sources
    for element in [*manifest().iter("activity"), *manifest().iter("provider")]:
        launcher = any(category.get(ANDROID + "name").endswith(".LAUNCHER") for category in element.iter("category"))
        assert element.get(ANDROID + "exported") == str(launcher).lower(), "only the first screen is for other apps"
    (provider,) = manifest().iter("provider")
    assert f'AUTHORITY = "{provider.get(ANDROID + "authorities")}"' in sources


PERMISSIONS = {"android.permission.INTERNET": "Download("}  # and what of the code needs it


def test_every_permission_is_needed():
    asked = {element.get(ANDROID + "name") for element in manifest().iter("uses-permission")}
    assert asked == set(PERMISSIONS)
    sources = "\n".join(kotlin(APP).values())
    for permission, use in PERMISSIONS.items():
        assert use in sources, permission


def test_plain_http_is_for_the_phone_itself_only():
    root = ElementTree.parse(APP / "res/xml/network_security_config.xml").getroot()
    (base,) = root.iter("base-config")
    assert base.get("cleartextTrafficPermitted") == "false"
    open_to = {domain.text for config in root.iter("domain-config") for domain in config.iter("domain")}
    assert open_to == {"localhost", "127.0.0.1"}
    (application,) = manifest().iter("application")
    assert application.get(ANDROID + "networkSecurityConfig") == "@xml/network_security_config"


def resources() -> dict[tuple[str, str], Path]:
    """Everything that can be referred to, as (type, name)."""
    found: dict[tuple[str, str], Path] = {}
    for path in sorted((APP / "res").rglob("*.xml")):
        kind = path.parent.name.split("-")[0]
        if kind == "values":
            for element in ElementTree.parse(path).getroot():
                found[element.tag, element.get("name")] = path
        else:
            found[kind, path.stem] = path
            for identifier in re.findall(r'"@\+id/(\w+)"', path.read_text()):
                found["id", identifier] = path
    return found


def references() -> set[tuple[str, str]]:
    texts = [*kotlin(APP).values(), (APP / "AndroidManifest.xml").read_text()]
    xml = [path.read_text() for path in (APP / "res").rglob("*.xml")]
    used = {pair for text in texts for pair in RESOURCE.findall(text)}
    return used | {pair for text in [*texts, *xml] for pair in REFERENCE.findall(re.sub(r'"@\+id/\w+"', "", text))}


def test_every_resource_is_there_and_used():
    have, used = set(resources()), references()
    missing = {pair for pair in used if pair[0] != "android"} - have
    assert not missing
    assert sorted(have - used) == []


def test_formats_get_as_many_arguments_as_they_name():
    """A string's arguments are counted where it is used: the wrong number ends the app when the line is reached."""
    formats = {}
    for element in ElementTree.parse(APP / "res/values/strings.xml").getroot():
        texts = [item.text for item in element] if element.tag == "plurals" else [element.text]
        counts = {len(set(re.findall(r"%(\d+)\$", text))) for text in texts}
        assert len(counts) == 1, element.get("name")
        assert not any(re.search(r"%(?!\d+\$|%)", text) for text in texts), f"{element.get('name')}: number the arguments"
        formats[element.tag, element.get("name")] = counts.pop()
    calls = 0
    for path, text in kotlin(APP).items():
        for kind, name, arguments in calls_of(text):
            expected = formats[kind, name] + (1 if kind == "plurals" else 0)  # a quantity comes before them
            assert len(arguments) == expected, f"{path.name}: {name} takes {expected}, {arguments}"
            calls += 1
    assert calls > 20


def calls_of(text: str):
    """(string or plurals, name, arguments behind it) of each call that formats a resource."""
    for found in re.finditer(r"(?:getString|getQuantityString)\(\s*R\.(string|plurals)\.(\w+)", text):
        depth, start, arguments = 1, found.end(), []
        for i in range(found.end(), len(text)):
            depth += (text[i] in "({[") - (text[i] in ")}]")
            if depth == 0 or (depth == 1 and text[i] == ","):
                if text[start:i].strip(", \n"):
                    arguments.append(text[start:i].strip(", \n"))
                start = i
            if depth == 0:
                break
        yield found[1], found[2], arguments


def test_pictures_and_fields_speak_to_a_screen_reader():
    for path in sorted((APP / "res/layout").glob("*.xml")):
        for element in ElementTree.parse(path).iter():
            if element.tag in ("ImageView", "ImageButton", "ProgressBar"):
                assert element.get(ANDROID + "contentDescription"), f"{path.name}: {element.get(ANDROID + 'id')}"
            if element.tag == "EditText":
                assert element.get(ANDROID + "hint", "").startswith("@string/"), path.name
            for attribute in ("text", "hint", "contentDescription"):
                assert element.get(ANDROID + attribute, "@string/").startswith("@string/"), f"{path.name}: words outside of the resources"
    assert "contentDescription" in (APP / "kotlin/org/mobilevideogpt/demo/FrameStrip.kt").read_text()


def test_both_light_and_dark_have_every_colour_that_stands_on_the_background():
    values = [APP / "res" / folder for folder in ("values", "values-night")]
    colours = [{element.get("name") for element in ElementTree.parse(folder / "colors.xml").getroot()} for folder in values]
    assert colours[0] - {"icon_background"} == colours[1]
    styles = [list(ElementTree.parse(folder / "themes.xml").getroot()) for folder in values]
    parents = [next(style.get("parent") for style in group if style.get("name") == "DemoTheme") for group in styles]
    assert "Light" in parents[0] and "Light" not in parents[1]


def test_the_kernels_build_is_of_the_sources_that_exist():
    text = (PROJECT / "kernels/mobile_videogpt_kernels.cmake").read_text()
    assert "${CMAKE_CURRENT_LIST_DIR}/../../export/ops" in text and "operators.cpp" in text
    assert (REPOSITORY / "export/ops/operators.cpp").is_file()
    readme = (PROJECT / "README.md").read_text()
    assert "-DEXECUTORCH_JNI_CUSTOM_LIBRARY=mobile_videogpt_kernels" in readme
    assert "CMAKE_PROJECT_executorch_INCLUDE" in readme and "add_library(mobile_videogpt_kernels OBJECT" in text
    assert f"v{CATALOG['versions']['executorch']}" in readme


def test_gradle_tells_core_s_tests_what_they_ask_for():
    asked = {name for text in kotlin(PROJECT / "core/src/test/kotlin").values() for name in re.findall(r'folders\("(\w+)"\)', text)}
    told = set(re.findall(r'systemProperty\("(\w+)"', gradle("core")))
    assert asked and asked == told


def test_the_recipe_builds_the_app_and_runs_core_s_tests():
    recipe = yaml.safe_load((REPOSITORY / ".github/workflows/android.yml").read_text())
    steps = recipe["jobs"]["android"]["steps"]
    commands = "\n".join(step.get("run", "") for step in steps)
    assert ":core:test" in commands and ":app:assembleDebug" in commands and ":core:assembleRelease" in commands
    gradle_version = re.search(r"gradle-([\d.]+)-bin", (PROJECT / "gradle/wrapper/gradle-wrapper.properties").read_text())[1]
    (setup,) = [step for step in steps if "setup-gradle" in step.get("uses", "")]
    assert setup["with"]["gradle-version"] == gradle_version
    assert all(re.search(r"@[0-9a-f]{40}$|@v\d+$", step["uses"]) for step in steps if "uses" in step)


@pytest.mark.parametrize("path", sorted((APP / "res").rglob("*.xml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_resource_is_xml(path):
    assert ElementTree.parse(path).getroot().tag
