"""The app's Kotlin over real `.pte` files, on the JVM of this machine: it has to say what the Python runtime says, token by token.

Between Kotlin and ExecuTorch stands a double of the Android library (tests/android/double.py); everything else is what a phone runs.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from export.bundle import hash_path, open_bundle
from export.manifest import MANIFEST_FILE, Manifest, read_manifest
from runtime_py import bench
from runtime_py.load import backend_of_bundle, load_tokenizer
from runtime_py.session import Held, Session
from runtime_py.stages import Pixels, visual_tokens
from runtime_py.streaming import TextStream
from runtime_py.video import read_frames
from tests.android import double, toolchain

pytestmark = pytest.mark.full
SAMPLE = Path(__file__).parents[2] / "calibration" / "demo" / "sample.mp4"
MAIN = Path(__file__).with_name("end_to_end") / "EndToEnd.kt"
QUESTIONS = ("Which appears first, the circle or the square?", "Is it red? 何色ですか", "How many shapes are there?")
LIMIT = 24
THREADS = 2
DESIGNED = ("loading", "image_encoder", "frame_scorer", "video_encoder", "image_projector", "video_projector")


@dataclasses.dataclass(frozen=True)
class App:
    """The compiled library and its driver."""

    classpath: list[Path]
    folder: Path

    def run(self, bundle: Path, *commands: str, fused: bool = False) -> list[dict]:
        """The lines that the driver prints for the commands; the first is that of opening the bundle."""
        properties = double.properties(fused) | ({"fused": "yes"} if fused else {})
        given = self.folder / "commands.txt"
        given.write_text("".join(f"{command}\n" for command in commands), encoding="utf-8")
        arguments = (str(bundle), str(self.folder / "stamps"), str(THREADS), str(given))
        options = [f"-XX:ErrorFile={self.folder / 'crash.log'}"]
        ran = toolchain.run_java("EndToEndKt", *arguments, classpath=self.classpath, properties=properties, options=options)
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
        *lines, closed = [json.loads(line) for line in ran.stdout.splitlines()]
        assert closed == {"closed": True}
        return lines


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    """`core` with its ExecuTorch backend, compiled against the double: warnings are errors."""
    out = tmp_path_factory.mktemp("kotlin")
    doubles = toolchain.compile_kotlin(double.kotlin_sources(), [], out / "double")
    sources = [*toolchain.core_sources(), *sorted((toolchain.CORE / "executorch").glob("*.kt"))]
    core = toolchain.compile_kotlin(sources, [doubles, toolchain.json_jar()], out / "core")
    driver = toolchain.compile_kotlin([MAIN], [core, doubles, toolchain.json_jar()], out / "driver")
    return App([driver, core, doubles, toolchain.json_jar()], out)


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return list(read_frames(SAMPLE).frames)


@pytest.fixture(scope="module")
def frames_file(frames: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames.bin"
    with path.open("wb") as file:
        file.write(struct.pack(">i", len(frames)))
        for frame in frames:
            file.write(struct.pack(">ii", frame.shape[1], frame.shape[0]) + frame.tobytes())
    return path


class Python:
    """The same conversation in the Python runtime."""

    def __init__(self, bundle: Path, frames: list[np.ndarray]):
        encode, self.tokenizer = load_tokenizer(bundle / "tokenizer.json", bundle)
        self.backend = backend_of_bundle(open_bundle(bundle), THREADS)
        self.session = Session(self.backend, encode)
        self.key_frames = self.session.watch(Pixels.of(frames))

    def ask(self, question: str, limit: int = LIMIT, take: int | None = None) -> dict:
        """What the driver says of the same question; `take`: the answer is dropped after so many ids."""
        stream, ids, pieces = TextStream(self.tokenizer), [], []
        for token in self.session.ask(question, max_new_tokens=limit):
            ids.append(token)
            pieces.append(stream.step(token))
            if len(ids) == take:
                break
        pieces = [piece for piece in (*pieces, stream.flush()) if piece]
        return {
            "ids": ids,
            "pieces": pieces,
            "text": "".join(pieces),
            "context_tokens": self.session.position,
            "forgotten": self.session.forgotten,
        }


def said(line: dict) -> dict:
    """Of the driver's line, what the Python runtime has too."""
    return {key: line[key] for key in ("ids", "pieces", "text", "context_tokens", "forgotten")}


@pytest.mark.parametrize("kernels", ["stock", "fused"])
def test_three_turns_and_another_conversation_say_what_python_says(kernels, app, frames, frames_file, request):
    bundle = request.getfixturevalue("demo_bundle" if kernels == "stock" else "demo_fused_bundle")
    commands = [f"watch {frames_file}", *(f"ask {LIMIT} {question}" for question in QUESTIONS), "over", f"ask {LIMIT} {QUESTIONS[1]}"]
    opened, watched, *answers = app.run(bundle, *commands, fused=kernels == "fused")
    assert opened == {"folder": bundle.name}
    python = Python(bundle, frames)
    assert watched["key_frames"] == python.key_frames and watched["frames"] == len(frames)
    assert {"read", "preprocess", *DESIGNED} == watched["stages"].keys()
    expected = [python.ask(question) for question in QUESTIONS]
    python.session.start_over()
    expected.append(python.ask(QUESTIONS[1]))
    assert [said(answer) for answer in answers] == expected
    assert any(len(answer["ids"]) > 3 for answer in answers)
    first, second = answers[:2]
    assert {"prefill", "read", *DESIGNED} <= first["stages"].keys() and second["stages"].keys() == {"prefill"}
    assert first["first_token_s"] == pytest.approx(sum(first["stages"].values()))
    assert {answer["ending"] for answer in answers} <= {"COMPLETE", "LIMIT"}
    assert all(answer["ending"] == ("LIMIT" if len(answer["ids"]) == LIMIT else "COMPLETE") for answer in answers)


def test_pixels_visual_tokens_and_logits_are_pythons(app, demo_bundle, frames, frames_file, tmp_path):
    _, line = app.run(demo_bundle, f"stages {frames_file} {tmp_path}")
    backend, kept = backend_of_bundle(open_bundle(demo_bundle), THREADS), {}

    def keep(name: str, value: torch.Tensor) -> torch.Tensor:
        kept[name] = value
        return value

    pixels = Pixels.of(frames)
    visual = visual_tokens(backend, pixels, keep)
    assert line["selected"] == kept["selected_frames"].tolist()
    expected = {
        "clip": pixels.clip,
        "video": pixels.video,
        "scores": kept["frame_scores"],
        "visual": visual,
        "logits": backend.decode(visual, 0),
    }
    for name, tensor in expected.items():
        ours = torch.from_numpy(np.fromfile(tmp_path / f"{name}.bin", "<f4")).reshape(tensor.shape)
        torch.testing.assert_close(ours, tensor, atol=1.0 if name in ("clip", "video") else 1e-5, rtol=1e-5, msg=name)


def test_a_stopped_answer_belongs_to_the_conversation(app, demo_bundle, frames, frames_file):
    _, _, stopped, later = app.run(demo_bundle, f"watch {frames_file}", f"stop 2 {QUESTIONS[0]}", f"ask {LIMIT} {QUESTIONS[2]}")
    assert stopped["ending"] == "STOPPED" and len(stopped["pieces"]) >= 2
    whole = Python(demo_bundle, frames).ask(QUESTIONS[0], limit=1024)
    assert len(stopped["ids"]) < len(whole["ids"]) and stopped["ids"] == whole["ids"][: len(stopped["ids"])]
    python = Python(demo_bundle, frames)
    assert said(stopped) == python.ask(QUESTIONS[0], take=len(stopped["ids"]))
    assert said(later) == python.ask(QUESTIONS[2])


def test_a_conversation_goes_on_when_all_memory_was_given_back(app, demo_bundle, frames, frames_file):
    first, later = (f"ask {LIMIT} {question}" for question in QUESTIONS[:2])
    _, _, *answers = app.run(demo_bundle, f"watch {frames_file}", first, "trim", later, "bench", f"ask {LIMIT} {QUESTIONS[2]}")
    python = Python(demo_bundle, frames)
    expected = [python.ask(QUESTIONS[0])]
    for question in QUESTIONS[1:]:  # the benchmark overwrites the cache too
        python.session._held, python.session._opening = Held(turns=python.session._held.turns), None
        expected.append(python.ask(question))
    assert [said(answer) for answer in (answers[0], answers[1], answers[3])] == expected


def test_work_out_of_order_is_refused_and_stopped_work_is_no_failure(app, demo_bundle, frames, frames_file, tmp_path):
    ask, watch = f"ask {LIMIT} {QUESTIONS[0]}", f"watch {frames_file}"
    _, early, dropped, without, watched, answer = app.run(demo_bundle, ask, f"drop {frames_file}", ask, watch, ask)
    assert early["kind"] == without["kind"] == "BadPrompt" and "choose a video" in early["error"]
    assert dropped == {}  # neither a result nor an error
    python = Python(demo_bundle, frames)
    assert watched["key_frames"] == python.key_frames and said(answer) == python.ask(QUESTIONS[0])
    _, first, unreadable, again = app.run(demo_bundle, f"twice {frames_file}", ask)
    assert first == {"watched": True} and unreadable["kind"] == "VideoUnreadable"
    assert said(again) == said(answer)  # a video that cannot be read leaves the conversation as it was
    missing, *lines = app.run(tmp_path / "none", watch, ask, "test")
    assert missing["kind"] == "NoBundle"
    assert all("open a bundle first" in line["error"] for line in lines)


def test_graphs_are_not_loaded_beside_others_with_another_number_of_threads(app, demo_bundle, frames_file):
    """It would replace the thread pool under the loaded ones."""
    commands = (f"watch {frames_file}", f"ask 2 {QUESTIONS[0]}", f"threads {THREADS}", f"threads {THREADS - 1}", f"ask 2 {QUESTIONS[1]}")
    _, _, _, same, other, later = app.run(demo_bundle, *commands)
    assert same == {"loaded": "frame_scorer"} and other["kind"] == "BadOption" and "close them first" in other["error"]
    assert later["ids"]


def kinds(value: object) -> object:
    """The keys of a JSON object and the types of its values; a whole number may be written without a fraction."""
    if isinstance(value, dict):
        return {key: kinds(one) for key, one in value.items()}
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def test_the_benchmark_writes_what_the_python_benchmark_writes(app, demo_bundle, capsys):
    _, video, context = app.run(demo_bundle, "bench", "context 600")
    for ours, options in ((video["report"], []), (context["report"], ["--context", "600"])):
        assert bench.main(["--bundle", str(demo_bundle), "--new-tokens", "4", "--runs", "1", *options]) == 0
        theirs = json.loads(capsys.readouterr().out.splitlines()[-1])
        ours, theirs = kinds(ours), kinds(theirs)
        assert ours.pop("thermal_state") == {"before": "str", "after": "str"}
        assert ours.pop("versions") == {"executorch": "str"} and theirs.pop("versions")["executorch"] == "str"
        assert ours == theirs
    report = video["report"]
    assert report["versions"] == {"executorch": importlib.metadata.version("executorch")}
    assert (report["threads"], report["new_tokens"], report["runs"]) == (THREADS, 4, 1)
    assert report["backend"] == "executorch" and report["dtype"] is None and report["source"] == str(demo_bundle)
    assert report["context_tokens"] == 30 + open_bundle(demo_bundle).manifest.config().visual_tokens
    assert report["ttft_s"] == pytest.approx(sum(report["stages_s"].values()) + report["sampling_s"])
    assert report["prefill_tok_s"] == pytest.approx(report["context_tokens"] / report["stages_s"]["prefill"])
    assert min(report["stages_s"].values()) > 0 and report["decode_tok_s"] > 1
    assert report["peak_rss_bytes"] > 1e7 and report["cold_ttft_s"] > report["ttft_s"] / 2
    assert context["report"]["context_tokens"] == 600


def forge(bundle: Path, folder: Path, graph: str, contents: bytes) -> Path:
    """A copy of a bundle with another file for a graph, whose manifest says that it was built so."""
    shutil.copytree(bundle, folder)
    manifest = read_manifest(folder)
    path = folder / manifest.graphs[graph].file
    path.write_bytes(contents)
    sha256, size = hash_path(path)
    graphs = manifest.graphs | {graph: dataclasses.replace(manifest.graphs[graph], sha256=sha256, bytes=size)}
    write_manifest(folder, dataclasses.replace(manifest, graphs=graphs))
    return folder


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest.to_json()))


def with_other_weights(program: bytes) -> bytes:
    """A program of the same graph with other weights: a fifth of its file, from the middle of the constants, backwards."""
    begin, end = len(program) * 2 // 5, len(program) * 3 // 5
    return program[:begin] + program[begin:end][::-1] + program[end:]


def test_the_self_test_passes_on_the_bundle_and_fails_on_one_with_another_decoder(app, demo_bundle, tmp_path):
    _, line = app.run(demo_bundle, "test")
    assert line["passed"], line
    assert {"pixels", "tokenizer", "selected_frames", "last_logits", "greedy_ids", "passed"} == line.keys()
    assert line["greedy_ids"][1].startswith("24 of 24 equal")
    forged = forge(demo_bundle, tmp_path / "forged", "decoder", with_other_weights((demo_bundle / "decoder.pte").read_bytes()))
    _, line = app.run(forged, "test")
    assert not line["passed"] and not line["greedy_ids"][0] and line["selected_frames"][0], line


def test_a_file_that_was_changed_after_the_build_is_refused(app, demo_bundle, tmp_path):
    """Before any of it reaches ExecuTorch, which believes what a program says of itself."""
    folder = tmp_path / "changed"
    shutil.copytree(demo_bundle, folder)
    program = bytearray((folder / "decoder.pte").read_bytes())
    program[200:400] = b"\xff" * 200
    (folder / "decoder.pte").write_bytes(program)
    (line,) = app.run(folder)
    assert line["kind"] == "ChangedFile" and "decoder.pte" in line["error"] and "\n" not in line["error"]


@pytest.mark.parametrize("damage", ["cut in half", "a few bytes", "empty", "zeros", "other tail"])
def test_a_program_that_executorch_refuses_gives_one_line(app, demo_bundle, frames_file, tmp_path, damage):
    program = (demo_bundle / "decoder.pte").read_bytes()
    damaged = {
        "cut in half": program[: len(program) // 2],
        "a few bytes": program[:40],
        "empty": b"",
        "zeros": bytes(len(program)),
        "other tail": program[:-1000] + b"\xff" * 1000,
    }[damage]
    folder = forge(demo_bundle, tmp_path / "damaged", "decoder", damaged)
    _, watched, answer = app.run(folder, f"watch {frames_file}", f"ask 4 {QUESTIONS[0]}")
    assert len(watched["key_frames"]) == 8  # the other graphs run
    assert answer["kind"] == "GraphFailed", answer
    assert "the graph decoder cannot be run" in answer["error"] and "ExecuTorch Error" in answer["error"] and "\n" not in answer["error"]


def test_a_fused_bundle_without_the_kernels_names_them(app, demo_fused_bundle):
    (line,) = app.run(demo_fused_bundle)
    assert line["kind"] == "MissingOperators" and "mobile_videogpt::" in line["error"] and "--kernels stock" in line["error"]
