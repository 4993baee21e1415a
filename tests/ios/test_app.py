"""What of the iOS app can be read without Xcode or a Swift compiler: its sources, its project, and the contract with Core ML packages."""

from __future__ import annotations

import json
import plistlib
import re
from pathlib import Path

import pytest
import tree_sitter_swift
import yaml
from PIL import Image
from tree_sitter import Language, Node, Parser

from export.config import GRAPHS
from export.manifest import Manifest, TensorSpec, read_manifest
from export.push import IOS_APP, IOS_FOLDER
from export.quiet import quiet
from runtime_py.load import CORE_ML_UNITS

REPOSITORY = Path(__file__).parents[2]
PROJECT = REPOSITORY / "ios_demo"
APP = PROJECT / "App"
CORE = PROJECT / "Core/Sources/MobileVideoGPTCore"
RESOURCES = APP / "Resources"
PARSER = Parser(Language(tree_sitter_swift.language()))
CORE_ML_TYPES = {65568: "float32", 65552: "float16", 131104: "int32"}  # of ArrayFeatureType, as FeatureTypes.proto has them


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.swift") if ".build" not in path.parts)


def nodes(path: Path) -> list[Node]:
    found, waiting = [], [PARSER.parse(path.read_bytes()).root_node]
    while waiting:
        found.append(waiting.pop())
        waiting += found[-1].children
    return found


def literals(path: Path) -> set[str]:
    """All string literals of a Swift file, those of error messages among them."""
    return {node.text.decode()[1:-1] for node in nodes(path) if node.type == "line_string_literal"}


def enum_values(path: Path, name: str) -> dict[str, str]:
    """An enumeration's cases with their raw values."""
    (body,) = re.findall(rf"enum {name}: String[^{{]*\{{(.*?)\n\n", path.read_text(), re.DOTALL)
    return {case: value or case for case, value in re.findall(r'^    case (\w+)(?: = "([^"]+)")?$', body, re.MULTILINE)}


@pytest.mark.parametrize("folder", [PROJECT, REPOSITORY / "tests/ios"], ids=["app and core", "stubs and driver"])
def test_every_swift_file_parses(folder):
    files = sources(folder)
    assert files
    for path in files:
        wrong = [node for node in nodes(path) if node.type == "ERROR" or node.is_missing]
        assert not wrong, f"{path}:{wrong[0].start_point.row + 1}: {wrong[0].text.decode()[:80]!r}"


def test_an_error_in_a_swift_file_is_noticed():
    root = PARSER.parse((APP / "Views/RootView.swift").read_bytes().replace(b"NavigationStack {", b"NavigationStack {{", 1)).root_node
    assert root.has_error


# The contract with the packages of a bundle.


def package(path: Path) -> dict[str, dict]:
    """The functions of a Core ML package as the saved file declares them: inputs, outputs and states as {name: (sizes, type)}."""
    with quiet():
        import coremltools as ct
    description = ct.utils.load_spec(str(path)).description

    def features(found) -> dict[str, tuple]:
        return {feature.name: feature_type(feature) for feature in found}

    functions = {function.name: function for function in description.functions} or {"main": description}
    return {
        name: {"inputs": features(function.input), "outputs": features(function.output), "states": features(function.state)}
        for name, function in functions.items()
    }


def feature_type(feature) -> tuple[tuple, str]:
    """The sizes of an array, (least, most) where they may vary, and its type."""
    kind = feature.type.WhichOneof("Type")
    array = feature.type.stateType.arrayType if kind == "stateType" else feature.type.multiArrayType
    ranges = [(size.lowerBound, size.upperBound) for size in array.shapeRange.sizeRanges]
    sizes = tuple(low if low == high else (low, high) for low, high in ranges) or tuple(array.shape)
    return sizes, CORE_ML_TYPES[array.dataType]


def declared(specs: tuple[TensorSpec, ...], sizes: dict[str, object]) -> dict[str, tuple]:
    """The manifest's tensors in the same form; `sizes` says what the names of axes stand for."""
    return {spec.name: (tuple(sizes.get(size, size) for size in spec.shape), spec.dtype) for spec in specs}


def check_packages(bundle: Path) -> Manifest:
    """The app knows a package by its manifest and by what `PackageBackend` passes to it: both have to be what the file declares."""
    manifest = read_manifest(bundle)
    passed = passed_by_the_app()
    functions = {f["name"]: f["tokens"] for f in manifest.decoder.details["functions"]}
    for name, graph in manifest.graphs.items():
        found = package(bundle / graph.file)
        axes: dict[str, object] = {axis.name: (axis.minimum, axis.maximum) for axis in graph.dynamic_axes}
        assert set(found) == (set(functions) if name == "decoder" else {"main"}), name
        for function, has in found.items():
            if name == "decoder":
                axes["tokens"] = functions[function]
            inputs = declared(graph.inputs, axes)
            if functions.get(function) == 1 and name == "decoder":
                del inputs[graph.inputs[2].name]  # a call of one token has no last row to name
            outputs = declared(graph.outputs, axes)
            assert has["inputs"] == inputs, (name, function)
            assert has["outputs"].keys() == outputs.keys() and {type for _, type in has["outputs"].values()} == {"float32"}
            if all(sizes for sizes, _ in has["outputs"].values()):  # Core ML leaves the sizes of some outputs open
                assert has["outputs"] == outputs, (name, function)
            assert bool(has["states"]) == (name == "decoder"), (name, function)
        for number, spec in enumerate(graph.inputs):
            assert passed.get((name, number), "float32") == spec.dtype, (name, spec.name)
    states = [has["states"] for has in package(bundle / manifest.graphs["decoder"].file).values()]
    assert all(state == states[0] for state in states), "functions over other states"
    for name, (sizes, type) in states[0].items():
        assert type == "float16" and sizes[2] == manifest.decoder.details["slots"], name
    return manifest


def passed_by_the_app() -> dict[tuple[str, int], str]:
    """(graph, number of the input) -> type, as core's `PackageBackend` passes them; what it does not name is float32."""
    graphs = enum_values(CORE / "GraphBackend.swift", "GraphName")
    text = (CORE / "PackageBackend.swift").read_text()
    found = re.findall(r"inputName\(\.(\w+), (\d)\)\]?\s*[:=]\s*\.(float32|int32)", text)
    return {(graphs[graph], int(number)): type for graph, number, type in found}


def test_the_app_passes_what_it_is_known_to_pass():
    assert passed_by_the_app() == {
        ("token_embedding", 0): "int32",
        ("decoder", 0): "float32",
        ("decoder", 1): "int32",
        ("decoder", 2): "int32",
    }


def test_packages_declare_what_the_manifest_and_the_app_say(tiny_coreml_int4_bundle):
    check_packages(tiny_coreml_int4_bundle)


@pytest.mark.full
def test_the_demo_bundle_s_packages_and_tokenizer_are_what_the_app_reads(demo_coreml_bundle):
    manifest = check_packages(demo_coreml_bundle)
    assert "tokenizer.json" in manifest.files
    check_tokenizer(demo_coreml_bundle / "tokenizer.json")


def check_tokenizer(path: Path) -> None:
    """What `BundleTokenizer` demands: a byte-level BPE whose vocabulary has every byte."""
    model = json.loads(path.read_text())["model"]
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [chr(0x100 + i) for i in range(256 - len(printable))]
    assert model["type"] == "BPE" and {*map(chr, printable), *others} <= set(model["vocab"])


def test_a_package_that_differs_is_noticed(tiny_coreml_int4_bundle, tmp_path):
    changed = json.loads((tiny_coreml_int4_bundle / "manifest.json").read_text())
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for path in tiny_coreml_int4_bundle.iterdir():
        if path.name != "manifest.json":
            (bundle / path.name).symlink_to(path)
    changed["graphs"]["decoder"]["inputs"][1]["name"] = "offset"
    del changed["manifest_sha256"]
    (bundle / "manifest.json").write_text(json.dumps(Manifest.from_json(signed(changed)).to_json()))
    with pytest.raises(AssertionError, match="decoder"):
        check_packages(bundle)


def signed(manifest: dict) -> dict:
    from export.manifest import DIGEST, digest

    return manifest | {DIGEST: digest(manifest)}


def test_graphs_and_units_have_python_s_names():
    assert list(enum_values(CORE / "GraphBackend.swift", "GraphName").values()) == list(GRAPHS)
    assert set(enum_values(APP / "CoreML/ComputeUnits.swift", "ComputeUnits").values()) == set(CORE_ML_UNITS)
    assert '"coreml-\\(units.rawValue)"' in (APP / "Services/Opening.swift").read_text()


def test_the_app_names_no_feature_or_function_itself(tiny_coreml_int4_bundle):
    manifest = read_manifest(tiny_coreml_int4_bundle)
    names = {spec.name for graph in manifest.graphs.values() for spec in (*graph.inputs, *graph.outputs)}
    names |= {function["name"] for function in manifest.decoder.details["functions"]}
    for path in sources(APP / "CoreML"):
        assert not names & literals(path), f"{path}: the manifest has the name"


# The project.


def plist(name: str) -> dict:
    return plistlib.loads((RESOURCES / name).read_bytes())


def test_the_plist_asks_for_what_the_app_does():
    info = plist("Info.plist")
    assert info["UIFileSharingEnabled"] is True and info["LSSupportsOpeningDocumentsInPlace"] is True
    code = "".join(path.read_text() for path in sources(APP))
    assert "sourceType = .camera" in code
    for key in ("NSCameraUsageDescription", "NSMicrophoneUsageDescription", "NSLocalNetworkUsageDescription"):
        assert len(info[key]) > 20, f"{key}: iOS ends an app that does not say why"
    assert info["NSAppTransportSecurity"] == {"NSAllowsLocalNetworking": True}
    variables = re.findall(r"\$\((\w+)\)", (RESOURCES / "Info.plist").read_text())
    assert {"EXECUTABLE_NAME", "PRODUCT_BUNDLE_IDENTIFIER", "MARKETING_VERSION", "CURRENT_PROJECT_VERSION"} <= set(variables)


def test_entitlements_and_privacy():
    assert plist("MobileVideoGPT.entitlements") == {"com.apple.developer.kernel.increased-memory-limit": True}
    privacy = plist("PrivacyInfo.xcprivacy")
    assert privacy["NSPrivacyTracking"] is False and privacy["NSPrivacyCollectedDataTypes"] == []
    reasons = {
        entry["NSPrivacyAccessedAPIType"]: entry["NSPrivacyAccessedAPITypeReasons"] for entry in privacy["NSPrivacyAccessedAPITypes"]
    }
    prefix = "NSPrivacyAccessedAPICategory"
    assert set(reasons) == {f"{prefix}{name}" for name in ("FileTimestamp", "DiskSpace", "UserDefaults")} and all(reasons.values())


def test_the_project_file_names_what_exists():
    project = yaml.safe_load((PROJECT / "project.yml").read_text())
    package = project["packages"]["swift-transformers"]
    assert set(package) == {"url", "exactVersion"} and re.fullmatch(r"\d+\.\d+\.\d+", package["exactVersion"])
    assert (PROJECT / project["packages"]["MobileVideoGPTCore"]["path"] / "Package.swift").is_file()
    assert project["options"]["deploymentTarget"] == {"iOS": "18.0"} and project["settings"]["base"]["SWIFT_VERSION"] == "6.0"
    (target,) = project["targets"].values()
    settings = target["settings"]["base"]
    assert settings["PRODUCT_BUNDLE_IDENTIFIER"] == IOS_APP
    for key in ("INFOPLIST_FILE", "CODE_SIGN_ENTITLEMENTS"):
        assert (PROJECT / settings[key]).is_file(), key
    for source in target["sources"]:
        assert (PROJECT / source["path"]).is_dir()
        for excluded in source["excludes"]:
            assert (PROJECT / source["path"] / excluded).is_file(), excluded
    assets = RESOURCES / "Assets.xcassets"
    assert (assets / f"{settings['ASSETCATALOG_COMPILER_APPICON_NAME']}.appiconset").is_dir()
    assert (assets / f"{settings['ASSETCATALOG_COMPILER_GLOBAL_ACCENT_COLOR_NAME']}.colorset").is_dir()


def test_every_module_that_the_app_imports_is_there():
    target = yaml.safe_load((PROJECT / "project.yml").read_text())["targets"]["MobileVideoGPT"]
    imported = {name for path in sources(APP) for name in re.findall(r"^(?:@\w+ )?import (\w+)$", path.read_text(), re.MULTILINE)}
    products = {dependency["product"] for dependency in target["dependencies"]}
    of_swift = {"Foundation", "Observation", "Synchronization"}
    stubs = {path.stem for path in (REPOSITORY / "tests/ios/stubs").glob("*.swift")}
    assert imported - products <= of_swift | stubs and products <= imported


def test_assets_are_whole():
    assets = RESOURCES / "Assets.xcassets"
    for path in [assets, *(folder for folder in assets.iterdir() if folder.is_dir())]:
        contents = json.loads((path / "Contents.json").read_text())
        for image in contents.get("images", []):
            with Image.open(path / image["filename"]) as icon:
                assert icon.size == (1024, 1024) and icon.mode == "RGB", "an icon has no alpha"


def test_bundles_lie_where_they_are_pushed():
    library = literals(APP / "Services/BundleLibrary.swift")
    documents, folder = IOS_FOLDER.split("/")
    assert folder in library and documents == "Documents" and ".documentDirectory" in (APP / "Services/BundleLibrary.swift").read_text()


def test_the_readme_names_what_exists():
    text = (PROJECT / "README.md").read_text()
    for link in re.findall(r"\]\((?!https)([^)#]+)\)", text):
        assert (PROJECT / link).exists(), link
    named = re.findall(r"`((?:[\w.]+/)+[\w.]*|Core|App|\w+\.(?:yml|swift))`", text)
    assert named
    for name in named:
        assert any((base / name).exists() for base in (REPOSITORY, PROJECT, APP)), name
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert (REPOSITORY / f"{module.replace('.', '/')}.py").is_file(), module
    project = yaml.safe_load((PROJECT / "project.yml").read_text())
    for name in re.findall(r"-project (\w+)\.xcodeproj", text):
        assert name == project["name"]
    for name in re.findall(r"-scheme (\w+)", text):
        assert name in project["schemes"]
    embedded = text.split("## Embed")[1].split("```")[0]
    for name in re.findall(r"`(\w+)`", embedded):
        assert name in ("Core", "App") or list(APP.rglob(f"{name}.swift")), name


def test_continuous_integration_builds_what_exists():
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ios.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["runs-on"].startswith("macos-") and (REPOSITORY / job["defaults"]["run"]["working-directory"]) == PROJECT
    commands = " ".join(step.get("run", "") for step in job["steps"])
    project = yaml.safe_load((PROJECT / "project.yml").read_text())
    assert f"-project {project['name']}.xcodeproj" in commands and "xcodegen generate" in commands
    assert all(scheme in project["schemes"] for scheme in re.findall(r"-scheme (\w+)", commands))
    assert "swift test --package-path Core" in commands and (PROJECT / "Core/Package.swift").is_file()
