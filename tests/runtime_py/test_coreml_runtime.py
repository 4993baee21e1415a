"""Core ML bundles at work: stages, prompts of any length, turns of a conversation, and the way to Core ML itself."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.config import IMAGE_TOKENS_PLACEHOLDER
from export.errors import BackendError, BundleError
from runtime_py import bench, dump, parity
from runtime_py.backends import coreml
from runtime_py.backends.eager import EagerBackend
from runtime_py.load import backend_of_bundle
from runtime_py.session import Session
from runtime_py.stages import Pixels
from tests.numerics import rms_error

FIXTURES = Path(__file__).parents[1] / "fixtures"
HALF = 0.01  # rms of the error over that of the truth: float16 through every layer, 1e-3 to 3e-3 measured


@pytest.fixture(scope="module")
def eager(tiny_checkpoint) -> EagerBackend:
    return EagerBackend(open_checkpoint(str(tiny_checkpoint)), max_context=2700)


@pytest.fixture
def interpreted(tiny_coreml_bundle) -> coreml.CoremlBackend:
    return backend_of_bundle(open_bundle(tiny_coreml_bundle))


def embeddings(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 512, 513, 577, 1100])
def test_a_prompt_of_any_length_gives_the_logits_of_its_last_token(tokens, interpreted, eager):
    x = embeddings(tokens)
    assert rms_error(interpreted.decode(x, 0), eager.decode(x, 0)) <= HALF


def test_later_turns_see_all_before_them_and_no_padding(interpreted, eager):
    position = 0
    for turn, tokens in enumerate([70, 1, 1, 30, 1, 600, 1]):
        x = embeddings(tokens, seed=turn)
        assert rms_error(interpreted.decode(x, position), eager.decode(x, position)) <= HALF, turn
        position += tokens


def test_starting_again_needs_no_reset(interpreted, eager):
    x = embeddings(40)
    first = interpreted.decode(x, 0)
    interpreted.decode(embeddings(600, seed=5), 0)
    assert torch.equal(interpreted.decode(x, 0), first)


def test_the_last_slots_are_filled_without_writing_beyond_them(interpreted, eager):
    prompt, rest = embeddings(2600), embeddings(100, seed=1)
    interpreted.decode(prompt, 0), eager.decode(prompt, 0)
    assert rms_error(interpreted.decode(rest, 2600), eager.decode(rest, 2600)) <= HALF  # 2,700 of 2,720 slots
    with pytest.raises(BundleError, match="the bundle's cache holds 2720"):
        interpreted.decode(embeddings(1), 2720)


def test_calls_follow_the_rule_of_the_manifest(interpreted):
    covered = []
    for left, position in [(2400, 0), (512, 0), (513, 0), (65, 0), (64, 0), (2, 0), (1, 0), (100, 2600), (30, 2700)]:
        covered.append(interpreted._function(left, position))
    names = ["prefill_512", "prefill_512", "prefill_512", "prefill_512", "prefill_64", "prefill_64", "decode", "prefill_64", "decode"]
    assert [name for name, _ in covered] == names


def test_a_conversation_is_the_models(interpreted, eager):
    frames = list(np.load(FIXTURES / "golden_tiny_0_frames.npy"))
    answers = []
    for backend in (interpreted, eager):
        session = Session(backend)
        picked = session.watch(Pixels.of(frames))
        first = list(session.answer([5, IMAGE_TOKENS_PLACEHOLDER, 9, 11], max_new_tokens=6))
        second = list(session.answer([7, 8, 9], max_new_tokens=6))
        answers.append((picked, first, second, session.position))
    assert answers[0] == answers[1]


def test_dump_gives_the_golden_arrays_within_float16(tmp_path, tiny_coreml_bundle):
    with np.load(FIXTURES / "golden_tiny_0.npz") as arrays:
        golden = dict(arrays)
    np.save(tmp_path / "ids.npy", golden["input_ids"])
    out = tmp_path / "stages.npz"
    files = ["--frames", str(FIXTURES / "golden_tiny_0_frames.npy"), "--ids", str(tmp_path / "ids.npy"), "--out", str(out)]
    assert dump.main(["--bundle", str(tiny_coreml_bundle), *files]) == 0
    with np.load(out) as arrays:
        stages = dict(arrays)
    assert set(stages) == {name for name in golden if not name.endswith("_shape") and name != "input_ids"}
    np.testing.assert_array_equal(stages["selected_frames"], golden["selected_frames"])
    np.testing.assert_array_equal(stages["greedy_ids"], golden["greedy_ids"])
    for name in set(stages) - {"selected_frames", "greedy_ids"}:
        values, expected = stages[name].astype(np.float32).ravel(), golden[name].ravel()
        if values.size > expected.size:
            values = values[np.linspace(0, values.size - 1, expected.size).astype(np.int64)]
        assert np.abs(values - expected).max() <= 0.01 * np.abs(expected).max(), name


@pytest.mark.parametrize("main", [bench.main, parity.main])
def test_units_that_are_not_there_are_refused(main, tiny_coreml_bundle, tiny_bundle, monkeypatch, capsys):
    monkeypatch.setattr("sys.platform", "linux")
    for bundle, why in ((tiny_coreml_bundle, "needs macOS"), (tiny_bundle, "is no coreml bundle")):
        assert main(["--bundle", str(bundle), "--compute-units", "cpu-ane"]) == 2
        error = capsys.readouterr().err
        assert why in error and error.count("\n") == 1


class FakeModel:
    """coremltools' MLModel, as far as the engine uses it, over the interpreter."""

    made: list["FakeModel"] = []

    def __init__(self, path, compute_units, function_name=None):
        from runtime_py.mil import Program

        self.program, self.units, self.function = Program.load(path), compute_units, function_name or "main"
        FakeModel.made.append(self)

    def make_state(self):
        return self.program.make_state(self.function)

    def predict(self, inputs, state=None):
        return self.program.run(inputs, self.function, state)


def test_on_macos_core_ml_itself_runs_the_packages(tiny_coreml_bundle, interpreted, monkeypatch):
    """What cannot run here is checked against coremltools' interface: names of functions, units, one state for all functions."""
    import coremltools as ct

    monkeypatch.setattr(coreml.sys, "platform", "darwin")
    monkeypatch.setattr(ct.models, "MLModel", FakeModel)
    FakeModel.made = []
    native = coreml.CoremlBackend(open_bundle(tiny_coreml_bundle), units="cpu-ane")
    assert native.name == "coreml-cpu-ane"
    x = embeddings(600)
    assert torch.equal(native.decode(x, 0), interpreted.decode(x, 0))
    assert torch.equal(native.decode(embeddings(1), 600), interpreted.decode(embeddings(1), 600))
    ids = torch.tensor([1, 2, 3])
    assert torch.equal(native.run("token_embedding", ids), interpreted.run("token_embedding", ids))
    assert {model.function for model in FakeModel.made} == {"prefill_512", "decode", "main"}
    assert {model.units for model in FakeModel.made} == {ct.ComputeUnit.CPU_AND_NE}


def test_a_model_that_core_ml_cannot_load_is_one_line(tiny_coreml_bundle, monkeypatch):
    import coremltools as ct

    class Unloaded(FakeModel):
        def make_state(self):
            raise Exception("Unable to load CoreML.framework. Cannot get state.")  # what coremltools raises

    monkeypatch.setattr(coreml.sys, "platform", "darwin")
    monkeypatch.setattr(ct.models, "MLModel", Unloaded)
    with pytest.raises(BundleError, match="Core ML cannot run the graph decoder .*CoreML.framework"):
        coreml.CoremlBackend(open_bundle(tiny_coreml_bundle), units="all").decode(embeddings(1), 0)


@pytest.mark.parametrize("details", [{}, {"functions": [{"name": "f", "tokens": 0}], "slots": 4096}, {"functions": [], "slots": 1}])
def test_a_manifest_that_no_host_can_follow_is_refused(details, tiny_coreml_bundle):
    bundle = open_bundle(tiny_coreml_bundle)
    decoder = dataclasses.replace(bundle.manifest.decoder, details=details)
    broken = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, decoder=decoder))
    with pytest.raises(BundleError, match="does not say how to drive the decoder"):
        backend_of_bundle(broken)


def test_elsewhere_there_is_no_core_ml(tiny_coreml_bundle, monkeypatch):
    monkeypatch.setattr(coreml.sys, "platform", "linux")
    with pytest.raises(BackendError, match="needs macOS"):
        coreml.CoremlBackend(open_bundle(tiny_coreml_bundle), units="all")
