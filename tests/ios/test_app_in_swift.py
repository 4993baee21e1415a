"""The iOS app by a real Swift compiler, on Linux: all of it type-checked against stubs of Apple's frameworks, the stubs against
declarations of Apple's API, and run what needs no framework."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import av
import numpy as np
import pytest

from runtime_py.video_index import FrameIndex, build_index, open_video, real_packets
from tests.ios.apple_declarations import declarations
from tests.ios.apple_stubs import CHECKED, STUBS, Stub, problems, read
from tests.ios.swift_toolchain import Swift, swift
from tests.runtime_py.test_video import CLOSED_GOP, OPEN_GOP, make_video

pytestmark = pytest.mark.full

REPOSITORY = Path(__file__).parents[2]
APP = REPOSITORY / "ios_demo/App"
CORE = REPOSITORY / "ios_demo/Core/Sources/MobileVideoGPTCore"
ORDER = (  # a stub behind those that it imports
    "AppleFoundation CoreGraphics CoreVideo CoreMedia AVFoundation CoreML Darwin os CryptoKit Hub Tokenizers UniformTypeIdentifiers UIKit "
    "SwiftUI CoreTransferable PhotosUI"
).split()
MODULE = "swiftc -swift-version 6 -parse-as-library -emit-module -I /out -emit-module-path /out/{0}.swiftmodule -module-name {0} {1}"
# Stubs as Apple's libraries are: their enumerations may grow. What Linux's Foundation lacks is imported into every file.
STUB = "-enable-library-evolution -suppress-warnings /stubs/{}.swift"
CHECK = "swiftc -swift-version 6 -warnings-as-errors -parse-as-library -typecheck -module-name MobileVideoGPT -I /modules "
CHECK += "-Xfrontend -import-module -Xfrontend AppleFoundation $(printf '%s\\n' /app/*.swift /app/*/*.swift)"


@dataclasses.dataclass(frozen=True)
class Modules:
    """The compiler, and a folder with the stubs and core as compiled modules."""

    compiler: Swift
    folder: Path

    def check(self, app: Path) -> tuple[int, str]:
        """Type-check an app's sources: the exit status, and what the compiler says."""
        ran = self.compiler.run("bash", "-c", CHECK, mounts={"/app": app, "/modules": self.folder})
        return ran.returncode, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Modules:
    folder = tmp_path_factory.mktemp("modules")
    compiler = swift()
    commands = [MODULE.format(name, STUB.format(name)) for name in ORDER]
    commands.append(MODULE.format("MobileVideoGPTCore", "/core/*.swift"))
    script = "set -e\n" + "\n".join(commands)
    ran = compiler.run("bash", "-c", script, mounts={"/out": folder, "/stubs": STUBS, "/core": CORE})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return Modules(compiler, folder)


def copy_of_the_app(folder: Path, file: str = "", old: str = "", new: str = "") -> Path:
    """The app's sources with one change."""
    for path in APP.rglob("*.swift"):
        target = folder / path.relative_to(APP)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text()
        if path.name == file:
            assert text.count(old) >= 1, f"{file} has no {old!r} any more"
            text = text.replace(old, new)
        target.write_text(text)
    return folder


def test_every_stub_is_compiled():
    assert sorted(ORDER) == sorted(path.stem for path in STUBS.glob("*.swift"))


def test_the_app_and_the_readme_s_example_compile_without_a_warning(modules, tmp_path):
    app = copy_of_the_app(tmp_path)
    (example,) = re.findall(r"```swift\n(.*?)```", (REPOSITORY / "ios_demo/README.md").read_text(), re.DOTALL)
    (app / "Example.swift").write_text(example)
    status, said = modules.check(app)
    assert status == 0, said


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("CoreMLEngine.swift", "model.prediction(from: features, using:", "model.prediction(from: features, state:", "state"),
        ("ComputeUnits.swift", ".cpuAndNeuralEngine", ".neuralEngine", "neuralEngine"),
        ("VideoReader.swift", "private let last = Mutex<(video: URL, facts: ClipFacts)?>(nil)", "private var last: URL?", "Sendable"),
        (
            "Opening.swift",
            "enum Opening {",
            "enum Opening {\n    static func peek(_ app: AppModel) -> Int { app.bundles.count }",
            "main actor",
        ),
    ],
)
def test_the_type_check_notices_what_is_wrong(modules, tmp_path, file, old, new, complaint):
    status, said = modules.check(copy_of_the_app(tmp_path, file, old, new))
    assert status != 0 and file in said and complaint in said, said


def test_every_declaration_of_an_objective_c_framework_has_a_note():
    for name in CHECKED:
        stubs, bare = read(STUBS / f"{name}.swift")
        assert stubs and not bare, bare


def test_the_stubs_are_apple_s_api():
    wrong = [line for name in CHECKED for stub in read(STUBS / f"{name}.swift")[0] for line in problems(stub, declarations())]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("container", "code", "note", "complaint"),
    [
        ("MLModel", "func makeState() -> MLState { }", "-makeState", "no method"),
        ("MLModel", "func makeState() -> MLState { }", "+newState", "no method"),
        ("MLModel", "func makeState() -> MLModel { }", "-newState", "MLState, not MLModel"),
        ("MLModel", "func compileModel(at modelURL: URL) throws -> URL { }", "+compileModelAtURL:completionHandler:", "not async"),
        (
            "MLModel",
            "func prediction(from input: any MLFeatureProvider) -> any MLFeatureProvider { }",
            "-predictionFromFeatures:error:",
            "not throw",
        ),
        ("MLMultiArray", "var dataPointer: UnsafeMutableRawPointer { }", "dataPointer", "deprecated"),
        ("MLMultiArray", "var shape: [NSNumber] { get { } set { } }", "shape", "cannot be set"),
        ("MLMultiArray", "var shape: String { }", "shape", "NSArray"),
        ("MLComputeUnits", "case all = 3", "MLComputeUnits.All", "is 2"),
        ("", "class MLState: MLModel {", "class MLState", "not MLModel"),
        ("", "class MLTensor {", "class MLTensor", "there is no"),
        (
            "",
            "func CVPixelBufferGetWidth(_ a: CVPixelBuffer, _ b: Int) -> Int { }",
            "function CVPixelBufferGetWidth",
            "1 parameters, not 2",
        ),
        ("AVURLAsset", "static var audiovisualContentTypes: [UTType] { }", "audiovisualContentTypes", "iOS 26"),
    ],
)
def test_the_check_of_stubs_notices_what_is_wrong(container, code, note, complaint):
    assert complaint in "\n".join(problems(Stub("here", container, code, "objc", note), declarations()))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory):
    """Calls the app's own sources with requests, as `driver/main.swift` has them."""
    folder = tmp_path_factory.mktemp("driver")
    compiler = swift()
    files = "/app/Video/FrameIndex.swift /app/Video/Orientation.swift /app/CoreML/Strides.swift /driver/main.swift"
    mounts = {"/out": folder, "/app": APP, "/driver": Path(__file__).with_name("driver")}
    ran = compiler.run("bash", "-c", f"swiftc -swift-version 6 -warnings-as-errors -O -o /out/driver {files}", mounts=mounts)
    assert ran.returncode == 0, ran.stdout + ran.stderr

    def call(**requests: list) -> dict:
        (folder / "request.json").write_text(json.dumps({"indices": [], "matrices": [], "arrays": []} | requests))
        ran = compiler.run("bash", "-c", "/out/driver < /out/request.json", mounts={"/out": folder})
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return json.loads(ran.stdout)

    return call


VIDEOS = {
    "closed groups with b-frames": {"options": CLOSED_GOP, "fps": 24},
    "open groups with b-frames": {"options": OPEN_GOP, "fps": 30},
    "variable rate": {
        "options": OPEN_GOP,
        "pts": list(itertools.accumulate([0] + [7, 40, 33, 120, 1, 500, 33, 34] * 5))[:40],
        "ticks": 1000,
    },
    "starts late": {"pts": list(range(1000, 1040))},
    "one frame": {"count": 1},
    "one keyframe": {"count": 90, "options": {"g": "1000", "bf": "3", "sc_threshold": "0"}},
}


@pytest.mark.parametrize("name", VIDEOS)
def test_frames_are_counted_and_found_as_python_does(driver, tmp_path, name):
    path = make_video(tmp_path / "v.mp4", **VIDEOS[name])
    frames, index = packets_and_index(path)
    times = [index.pts[0] - 5, *(pts + nudge for pts in index.pts for nudge in (-1, 0, 1)), index.pts[-1] + 1000]
    picked = list(range(0, len(index.pts), 3))
    request = {"frames": frames, "timescale": index.time_base.denominator, "rate": index.declared_fps, "picked": picked, "times": times}
    (found,) = driver(indices=[request])["indices"]
    everything = range(len(index.pts))
    assert (found["pts"], found["positions"]) == (index.pts, index.positions)
    assert found["rate"] == index.fps(everything) and found["duration"] == index.duration_s
    assert found["times"] == [index.time_s(frame) for frame in everything]
    assert found["keyframes"] == [index.keyframe_for(frame) for frame in everything]
    assert found["nearest"] == [index.nearest(time) for time in times]
    assert list(itertools.chain(*found["runs"])) == picked
    starts = [[index.keyframe_for(frame) for frame in run] for run in found["runs"]]
    assert all(len(set(run)) == 1 for run in starts) and all(a[0] != b[0] for a, b in itertools.pairwise(starts))


def packets_and_index(path: Path) -> tuple[list[list[int]], FrameIndex]:
    """Every packet as pts, duration, keyframe, shown; and the index of the same file."""
    container, stream = open_video(path)
    with container:
        index = build_index(container, stream, path)
    assert index.time_base.numerator == 1
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [[p.pts, p.duration or 0, int(p.is_keyframe), int(not p.is_discard)] for p in real_packets(container, stream)]
    return frames, index


def test_what_is_cut_off_or_unmarked_is_counted_as_python_does(driver):
    cut = [[0, 10, 0, 1], [30, 10, 1, 1], [20, 10, 0, 1], [40, 10, 0, 1], [50, 0, 0, 0]]  # before the first keyframe, and not shown
    unmarked = [[20, 0, 0, 1], [10, 0, 0, 1]]
    hidden = [[0, 10, 1, 0]]
    requests = [{"frames": frames, "timescale": 10, "rate": None, "picked": [], "times": []} for frames in (cut, unmarked, hidden)]
    first, second, third = driver(indices=requests)["indices"]
    assert (first["pts"], first["positions"], first["rate"], first["duration"]) == ([30, 40], [1, 3], 1.0, 2.0)
    assert (second["pts"], second["positions"], second["rate"]) == ([10, 20], [1, 0], 1.0)  # the last lasts as long as the one before
    assert third is None


def test_every_display_matrix_shows_each_pixel_where_it_says(driver):
    signs = list(itertools.product((-1, 1), repeat=2))
    matrices = [(p, 0, 0, q) for p, q in signs] + [(0, p, q, 0) for p, q in signs]
    image = np.arange(12).reshape(3, 4)  # [rows y, columns x]
    for (a, b, c, d), turn in zip(matrices, driver(matrices=matrices)["turns"], strict=True):
        y, x = np.indices(image.shape)
        shown_x, shown_y = a * x + c * y, b * x + d * y
        shown_x, shown_y = shown_x - shown_x.min(), shown_y - shown_y.min()
        upright = np.empty((shown_y.max() + 1, shown_x.max() + 1), int)
        upright[shown_y, shown_x] = image
        turned = np.rot90(image, -turn["rotation"] // 90)
        np.testing.assert_array_equal(turned[:, ::-1] if turn["mirrored"] else turned, upright, err_msg=f"{(a, b, c, d)}")


def test_padded_arrays_are_read_and_written_by_their_strides(driver):
    cases = [
        ((2, 3, 4), (12, 4, 1)),
        ((2, 3, 4), (96, 32, 1)),
        ((3, 5), (1, 8)),
        ((1, 7), (64, 1)),
        ((1, 1, 6), (5, 9, 2)),
        ((4,), (3,)),
        ((), ()),
    ]
    requests, expected = [], []
    for shape, strides in cases:
        span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides))
        memory = np.random.default_rng(span).standard_normal(span).astype(np.float32)
        expected.append((memory, np.lib.stride_tricks.as_strided(memory, shape, [4 * stride for stride in strides])))
        requests.append({"shape": shape, "strides": strides, "memory": memory.tolist()})
    for (memory, view), found in zip(expected, driver(arrays=requests)["arrays"], strict=True):
        np.testing.assert_array_equal(np.float32(found["values"]), view.ravel())
        assert found["contiguous"] == view.flags.c_contiguous and found["span"] == len(memory)
        scattered = np.full(len(memory), -1, np.float32)
        np.lib.stride_tricks.as_strided(scattered, view.shape, view.strides)[...] = view
        np.testing.assert_array_equal(np.float32(found["scattered"]), scattered)
