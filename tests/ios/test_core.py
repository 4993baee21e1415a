"""The Swift core, compiled by a real Swift compiler, its own tests, and a conversation over a real bundle that has to be Python's.

Swift watches and asks through `GraphBackend`; behind it Python's interpreter runs the packages, one function at a time (`graph_server`).
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from export.bundle import open_bundle
from runtime_py import bench
from runtime_py.load import backend_of_bundle, load_tokenizer
from runtime_py.session import Session
from runtime_py.stages import Pixels
from runtime_py.video import read_frames
from tests.ios.swift_toolchain import REPOSITORY, Swift, swift

pytestmark = pytest.mark.full

CORE = REPOSITORY / "ios_demo" / "Core"
VIDEO = REPOSITORY / "calibration" / "demo" / "sample.mp4"
BUILD = REPOSITORY / "build" / "swift" / "core"  # between runs only what changed is compiled
TESTS = CORE / "Tests" / "MobileVideoGPTCoreTests"
SETTINGS = ("--disable-sandbox", "--scratch-path", "/build", "-Xswiftc", "-warnings-as-errors")
LIMIT_S = 900
CONVERSATIONS = (
    ("Which appears first, the circle or the square?", "What colour is it?", "Where does it <|im_end|> move?"),
    ("Is there a square?",),
)
EXAMPLE = "What happens in this video?"
MOST_TOKENS = 12
BODY = bytes(i % 251 for i in range(300_000))


@pytest.fixture(scope="module")
def compiler() -> Swift:
    return swift()


@pytest.fixture(scope="module")
def mounts(demo_coreml_bundle, tmp_path_factory) -> dict[str, Path]:
    """What Swift sees of this machine."""
    BUILD.mkdir(parents=True, exist_ok=True)
    return {"/core": CORE, "/build": BUILD, "/bundle": demo_coreml_bundle, "/shared": tmp_path_factory.mktemp("shared")}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A web server: /ranges honours Range, /plain ignores it, /broken promises more than it sends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path not in ("/ranges", "/plain", "/broken"):
                return self.send_error(404)
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            begin = int(asked[1]) if asked and self.path == "/ranges" else 0
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(BODY) - begin))
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(BODY) - 1}/{len(BODY)}")
            self.end_headers()
            self.wfile.write(BODY[begin : 100_000 if self.path == "/broken" else None])
            self.close_connection = True

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.fixture(scope="module")
def tested(compiler, mounts, server, demo_coreml_bundle) -> tuple[str, Path]:
    """What `swift test` printed, and the folder with what it found."""
    built = compiler.run("swift", "build", "--build-tests", *SETTINGS, mounts=mounts, limit_s=LIMIT_S)
    assert built.returncode == 0, built.stdout[-8000:] + built.stderr[-4000:]
    shared = mounts["/shared"]
    for pipe in ("requests", "replies"):
        os.mkfifo(shared / pipe)
    command = [sys.executable, "-m", "tests.ios.graph_server", "--bundle", demo_coreml_bundle, "--video", VIDEO, "--folder", shared]
    env = {"BUNDLE": "/bundle", "GRAPHS": "/shared", "RESULTS": "/shared", "SERVER": server}
    with subprocess.Popen(command, cwd=REPOSITORY) as graphs:
        try:
            command = ("swift", "test", "--skip-build", "--disable-swift-testing", *SETTINGS)
            ran = compiler.run(*command, mounts=mounts, env=env, limit_s=LIMIT_S)
        finally:
            graphs.terminate()
    output = ran.stdout + ran.stderr
    assert ran.returncode == 0, "\n".join(line for line in output.splitlines() if "error" in line or "ailed" in line)[-8000:]
    return output, shared


def found(shared: Path, name: str) -> object:
    return json.loads((shared / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def session(demo_coreml_bundle) -> Session:
    """Python's own, over the same bundle, with the clip watched."""
    bundle = open_bundle(demo_coreml_bundle)
    session = Session(backend_of_bundle(bundle), load_tokenizer(bundle.folder / "tokenizer.json", bundle.folder)[0])
    session.key_frames = session.watch(Pixels.of(read_frames(VIDEO).frames))
    return session


def test_the_library_compiles_as_it_is_released(compiler, mounts):
    built = compiler.run("swift", "build", "--configuration", "release", *SETTINGS, mounts=mounts, limit_s=LIMIT_S)
    assert built.returncode == 0, built.stdout[-8000:] + built.stderr[-4000:]


def test_every_test_of_the_package_runs_and_passes(tested):
    output, _ = tested
    written = sum(len(re.findall(r"^ +func test\w+\(", path.read_text(encoding="utf-8"), re.M)) for path in TESTS.glob("*.swift"))
    assert f"Executed {written} tests, with 0 failures" in output, output[-2000:]
    assert "skipped" not in output


def test_a_conversation_in_swift_is_the_one_in_python(tested, session, demo_coreml_bundle):
    result = found(tested[1], "conversation")
    assert result["picked"] == read_frames(VIDEO).indices
    assert result["key_frames"] == session.key_frames
    _, tokenizer = load_tokenizer(demo_coreml_bundle / "tokenizer.json", demo_coreml_bundle)
    answers = []
    for questions in CONVERSATIONS:
        session.start_over()
        for question in questions:
            ids = list(session.ask(question, max_new_tokens=MOST_TOKENS))
            answers.append({"ids": ids, "text": tokenizer.decode(ids), "position": session.position})
    assert result["answers"] == answers
    assert all(answer["ids"] for answer in answers)


def test_the_example_of_the_docs_answers_as_python_does(tested, session, demo_coreml_bundle):
    _, tokenizer = load_tokenizer(demo_coreml_bundle / "tokenizer.json", demo_coreml_bundle)
    session.start_over()
    answer = tokenizer.decode(list(session.ask(EXAMPLE, max_new_tokens=200)))
    assert found(tested[1], "example") == answer and answer


def test_the_benchmark_has_the_keys_and_types_of_python_s(tested, demo_coreml_bundle, capsys):
    assert bench.main(["--bundle", str(demo_coreml_bundle), "--context", "20", "--new-tokens", "2", "--runs", "1"]) == 0
    real, swift_s = json.loads(capsys.readouterr().out.splitlines()[-1]), found(tested[1], "bench")
    assert set(swift_s) == {*real, "thermal_state"}
    for key, value in real.items():
        assert type(swift_s[key]) is type(value), key
    assert list(swift_s["stages_s"]) == list(real["stages_s"])
    assert all(type(seconds) is float for seconds in swift_s["stages_s"].values())
    assert swift_s["thermal_state"] == {"before": "nominal", "after": "nominal"}
    for key in ("backend", "context_tokens", "new_tokens", "runs", "bundle_bytes"):
        assert swift_s[key] == real[key], key
    assert swift_s["ttft_s"] == pytest.approx(sum(swift_s["stages_s"].values()) + swift_s["sampling_s"])
