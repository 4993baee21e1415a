"""The demo checkpoint: reproducible where training begins, complete, with a tokenizer that loses nothing, and right about its clip."""

import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer

from calibration import sample_clip
from calibration.clips import ANNOTATIONS, write_clips
from calibration.make_demo import DEFAULT_OUT, main
from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.model.prompt import first_turn, tokenize
from runtime_py.annotations import read_annotations
from runtime_py.gates import Questions
from runtime_py.load import backend_of_bundle, backend_of_checkpoint, load_tokenizer
from runtime_py.session import Session
from runtime_py.stages import Pixels
from runtime_py.video import read_frames


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert main(["--out", str(folder)]) == 0
    return folder


def test_two_runs_write_the_same_bytes(demo, tmp_path):
    subprocess.run([sys.executable, "-m", "calibration.make_demo", "--out", tmp_path], check=True, cwd=DEFAULT_OUT.parents[2])
    names = sorted(path.name for path in demo.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert [name for name in names if (demo / name).read_bytes() != (tmp_path / name).read_bytes()] == []


def test_another_seed_gives_other_weights(demo, tmp_path):
    main(["--out", str(tmp_path), "--seed", "1"])
    assert open_checkpoint(tmp_path).fingerprint() != open_checkpoint(demo).fingerprint()


def test_activations_are_of_order_one(demo):
    model = open_checkpoint(demo).load(parts={"image_encoder", "video_encoder", "image_projector", "video_projector"})
    pixels = torch.rand(16, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        features = model.image_encoder(pixels)
        tokens = model.video_encoder(pixels[None, :8])
        visual = [model.image_projector(features), model.video_projector(tokens)]
    assert [len(x) for x in visual] == [2304, 98]
    for x in (features, tokens, *visual):
        assert 0.1 < x.std() < 10


QUESTIONS = {
    "What colour is the square?": "Blue.",
    "What is the red shape?": "Circle.",
    "How many shapes are there?": "Two.",
    "What is the background like?": "Dark.",
    "Is there a green shape?": "No.",
    "In which direction does the circle move?": "To the right.",
    "Is the square moving?": "No.",
    "Which appears first, the circle or the square?": "The circle.",
}


def test_the_checkpoint_in_the_repository_answers_about_the_sample_clip(demo_bundle):
    """As `make demo` asks, of the int4 bundle."""
    backend = backend_of_bundle(open_bundle(demo_bundle))
    encode, tokenizer = load_tokenizer(demo_bundle / "tokenizer.json", "demo")
    session = Session(backend, encode)
    session.watch(Pixels.of(read_frames(sample_clip.DEFAULT_OUT).frames))
    for question, answer in QUESTIONS.items():
        session.start_over()
        assert tokenizer.decode(list(session.ask(question, max_new_tokens=16))) == answer, question


def test_the_checkpoint_in_the_repository_answers_about_clips_it_has_not_seen(tmp_path):
    """The float model on some of the held-out questions; docs/quantization.md has all of them."""
    write_clips(tmp_path, "test", 8, 14)
    checkpoint = open_checkpoint(DEFAULT_OUT)
    encode, tokenizer = load_tokenizer(checkpoint.tokenizer_file, "demo")
    questions = Questions(read_annotations(tmp_path / ANNOTATIONS), tmp_path)
    right = questions.right(backend_of_checkpoint(checkpoint), encode, tokenizer.decode)
    assert right >= 0.93 * len(questions.items) > 90


def test_the_checkpoint_in_the_repository_is_small():
    assert sum(path.stat().st_size for path in DEFAULT_OUT.iterdir()) < 8_000_000


@pytest.mark.parametrize("folder", [None, DEFAULT_OUT], ids=["as written", "in the repository"])
def test_checkpoint_and_tokenizer_fit_together(folder, demo):
    checkpoint = open_checkpoint(folder or demo)
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_file))
    assert checkpoint.config.visual_tokens == 2402
    vocab = checkpoint.config.decoder.vocab
    assert vocab % 32 == 0 and vocab - 32 < tokenizer.get_vocab_size() <= vocab
    assert set(checkpoint.config.stop_ids) == {tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")}
    ids = tokenize(first_turn("What happens in this video?"), lambda text: tokenizer.encode(text).ids)
    assert ids.count(-200) == 16 and len(ids) < 60


TEXTS = ["", "The red circle moves.\n", "héé e\u0301 \x00 \u202e日本 😀\U0010ffff", " \t\r\n\n  x ", "it's 1234, isn't it?!"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_round_trips(text, demo):
    tokenizer = Tokenizer.from_file(str(demo / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


WRITERS = {"checkpoint": "calibration.make_demo", "sample.mp4": "calibration.sample_clip"}
BAD_PLACES = {"under a file": "taken/below/{}", "a name too long": "{}" + "x" * 300}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(name, tmp_path):
    """A limit on a file's size stands for the disk: writing fails in the middle, wherever the writer is."""
    program = (
        "import resource, sys; from {module} import main; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); "
        "sys.exit(main(['--out', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", program.format(module=WRITERS[name]), tmp_path / name]
    done = subprocess.run(command, cwd=DEFAULT_OUT.parents[2], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and name in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", BAD_PLACES)
@pytest.mark.parametrize("name, writer", [("checkpoint", main), ("sample.mp4", sample_clip.main)])
def test_a_place_that_cannot_be_written_is_one_line(name, writer, place, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    assert writer(["--out", str(tmp_path / BAD_PLACES[place].format(name))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and name in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("writer", [main, sample_clip.main])
def test_a_wrong_command_line_is_one_line(writer, capsys):
    assert writer(["--ou", "somewhere"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "--ou" in error and error.count("\n") == 1
