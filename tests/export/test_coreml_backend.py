"""Real `.mlpackage` folders: their types, weights, states and descriptions; and faults of every kind, none of which a build lets pass."""

import collections
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from export import build, tolerances
from export.backends.coreml import CoremlBackend
from export.backends.mlpackage import block, weights_of
from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.components.stateful_decoder import CHUNKS, HIDDEN, function_name
from export.config import GRAPHS
from export.mlpackage import Package, StateType
from export.mlpackage.types import decode_type
from export.plan import plan_build
from export.quant.presets import parse
from runtime_py import parity
from runtime_py.ladder import climb, failure
from runtime_py.load import backend_of_bundle

FUNCTIONS = {function_name(tokens): tokens for tokens in CHUNKS}
VIEWS = ("const", "read_state", "write_state", "reshape", "transpose", "expand_dims", "squeeze", "slice_by_index")


def package(bundle: Path, graph: str) -> Package:
    return Package.open(bundle / f"{graph}.mlpackage")


def types(proto) -> dict[str, str]:
    return {value.name: str(decode_type(value.type)) for value in proto}


def outputs_of(function) -> dict[str, str]:
    body = block(function)
    declared = {output.name: str(decode_type(output.type)) for o in body.operations for output in o.outputs}
    return {name: declared[name] for name in body.outputs}


class TestPackages:
    def test_inputs_and_outputs_are_those_of_the_manifest(self, tiny_coreml_bundle):
        manifest = open_bundle(tiny_coreml_bundle).manifest
        names = {"float32": "fp32", "int32": "int32"}
        for graph in set(GRAPHS) - {"decoder", "token_embedding"}:
            (function,) = package(tiny_coreml_bundle, graph).program.functions.values()
            entry = manifest.graphs[graph]
            for specs, found in ((entry.inputs, types(function.inputs)), (entry.outputs, outputs_of(function))):
                assert found == {spec.name: f"{names[spec.dtype]}{list(spec.shape)}" for spec in specs}, graph
        (embedding,) = package(tiny_coreml_bundle, "token_embedding").program.functions.values()
        assert types(embedding.inputs) == {"ids": "int32[?]"} and outputs_of(embedding) == {"embeds": "fp32[?, 64]"}

    def test_the_decoder_has_static_functions_over_one_state(self, tiny_coreml_bundle):
        functions = package(tiny_coreml_bundle, "decoder").program.functions
        details = open_bundle(tiny_coreml_bundle).manifest.decoder.details
        assert {f["name"]: f["tokens"] for f in details["functions"]} == FUNCTIONS and set(functions) == set(FUNCTIONS)
        assert details["slots"] == 2720
        states = []
        for name, tokens in FUNCTIONS.items():
            found = types(functions[name].inputs)
            states.append({n: t for n, t in found.items() if t.startswith("state")})
            plain = {n: t for n, t in found.items() if n not in states[-1]}
            last = {} if tokens == 1 else {"last": "int32[1]"}
            assert plain == {"embeds": f"fp32[{tokens}, 64]", "position": "int32[1]"} | last
            assert outputs_of(functions[name]) == {"logits": "fp32[512]"}
            body = block(functions[name])
            written = collections.Counter(o.inputs["input"].arguments[0].name for o in body.operations if o.type == "write_state")
            assert written == dict.fromkeys(states[-1], 1)
            assert all(None not in decode_type(output.type).shape for o in body.operations for output in o.outputs), "a size is not fixed"
        assert states[0] == states[1] == states[2]
        assert sorted(states[0].values()) == ["state fp16[1, 2, 2720, 16]"] * 4  # keys and values of two layers

    def test_functions_share_their_weights(self, tiny_coreml_bundle):
        decoder = package(tiny_coreml_bundle, "decoder")
        bytes_of_weights = sum(weight.bytes for weight in weights_of(decoder))
        on_disk = sum(file.stat().st_size for file in decoder.path.rglob("weight.bin"))
        assert on_disk <= bytes_of_weights + 200 * 128  # each blob's metadata and alignment

    @pytest.mark.parametrize("graph", GRAPHS)
    def test_arithmetic_is_float16_but_where_it_must_not_be(self, tiny_coreml_bundle, graph):
        for function in package(tiny_coreml_bundle, graph).program.functions.values():
            wide = [
                o.type
                for o in block(function).operations
                if o.type not in VIEWS and any(str(decode_type(output.type)).startswith("fp32") for output in o.outputs)
            ]
            if graph == "frame_scorer":  # float16 picks other frames
                assert not any(str(decode_type(output.type)).startswith("fp16") for o in block(function).operations for output in o.outputs)
            elif "encoder" in graph:  # pixels are normalised before they are rounded
                assert sorted(set(wide)) == ["cast", "mul", "sub"], wide
            else:
                assert wide == ["cast"], wide  # the output's

    def test_faults_of_the_neural_engine_are_designed_around(self, tiny_coreml_bundle):
        """No softplus, top-k, argmax, inverse with its hidden epsilon, nor infinite constants."""
        for graph in GRAPHS:
            opened = package(tiny_coreml_bundle, graph)
            for function in opened.program.functions.values():
                found = {o.type for o in block(function).operations}
                assert not found & {"softplus", "topk", "reduce_argmax", "argsort", "inverse", "scatter", "gather_nd", "while_loop", "cond"}
            for _, constant in operations(opened, "const"):
                if str(decode_type(constant.outputs[0].type)).startswith("fp"):
                    assert np.isfinite(opened.values.tensor(constant.attributes["val"])[1]).all(), constant.outputs[0].name
        assert np.isfinite(np.float16(HIDDEN))

    @pytest.mark.parametrize("graph", GRAPHS)
    def test_weights_have_their_schemes(self, tiny_coreml_int4_bundle, tiny_checkpoint, graph):
        entry = open_bundle(tiny_coreml_int4_bundle).manifest.graphs[graph]
        weights = {share.scheme: share.weights for share in entry.schemes}
        if graph == "frame_scorer":
            return
        main = {"decoder": "int4"}.get(graph, "int8")
        assert set(weights) <= {main, "fp16", "fp32"}
        plan = plan_build(open_checkpoint(str(tiny_checkpoint)), parse("int4", [], list(GRAPHS)), CoremlBackend().form(2700))
        assigned = next(g.assignments for g in plan.graphs if g.name == graph)
        assert weights[main] == sum(a.weights for a in assigned if a.scheme.name == main)
        floats = sum(weights.get(scheme, 0) for scheme in ("fp16", "fp32"))
        assert floats <= 1.1 * next(g.parameters - sum(a.weights for a in assigned) for g in plan.graphs if g.name == graph) + 2000
        assert weights.get("fp32", 0) <= 12  # means and deviations of pixels
        assert entry.delegate == "coreml" and entry.operators == () and entry.peak_memory_bytes > entry.bytes

    def test_the_plan_knew_their_sizes(self, tiny_checkpoint, tiny_coreml_bundle, tiny_coreml_int4_bundle):
        for recipe, folder in (("fp16", tiny_coreml_bundle), ("int4", tiny_coreml_int4_bundle)):
            plan = plan_build(open_checkpoint(str(tiny_checkpoint)), parse(recipe, [], list(GRAPHS)), CoremlBackend().form(2700))
            graphs = open_bundle(folder).manifest.graphs
            for graph in plan.graphs:
                if graph.file_bytes > 1_000_000:  # small ones are mostly description
                    assert 0.7 < graph.file_bytes / graphs[graph.name].bytes < 1.4, (recipe, graph.name)
            assert "fp16" in plan.graphs[0].schemes() and "fp32" not in plan.graphs[0].schemes()

    @pytest.mark.parametrize("graph", GRAPHS)
    def test_a_package_says_what_it_is(self, tiny_coreml_bundle, graph):
        manifest = open_bundle(tiny_coreml_bundle).manifest
        description = package(tiny_coreml_bundle, graph).model.description
        assert graph in description.metadata.shortDescription and "Apache-2.0" in description.metadata.license
        assert description.metadata.userDefined["checkpoint_fingerprint"] == manifest.checkpoint_fingerprint
        assert description.metadata.versionString
        owners = description.functions if graph == "decoder" else [description]
        assert owners and all(feature.shortDescription for owner in owners for feature in (*owner.input, *owner.output, *owner.state))


# Each fault changes the saved packages of a good build as a converter's bug would have written them.


def operations(opened: Package, kind: str):
    return [(function, o) for function in opened.program.functions.values() for o in block(function).operations if o.type == kind]


def save(opened: Package) -> None:
    opened.model_file.write_bytes(opened.model.SerializeToString())


def dropped_write(folder: Path) -> None:
    opened = package(folder, "decoder")
    function = opened.program.functions["decode"]
    body = block(function)
    kept = [o for o in body.operations if o.type != "write_state"] + [o for o in body.operations if o.type == "write_state"][1:]
    del body.operations[:]
    body.operations.extend(kept)
    save(opened)


def wrong_mask(folder: Path) -> None:
    """A token no longer sees itself."""
    opened = package(folder, "decoder")
    for _, o in operations(opened, "greater"):
        o.type = "greater_equal"
    save(opened)


def swapped_direction(folder: Path) -> None:
    """The backward scan reads the frames forwards, in one layer."""
    opened = package(folder, "video_encoder")
    gathers = [o for _, o in operations(opened, "gather")]
    assert gathers
    first = gathers[0]
    indices = first.inputs["indices"].arguments[0]
    constants = {o.outputs[0].name: o for _, o in operations(opened, "const")}
    value = constants[indices.name].attributes["val"] if indices.WhichOneof("binding") == "name" else indices.value
    type, array = opened.values.tensor(value)
    assert list(array[:2]) == [len(array) - 1, len(array) - 2]
    del first.inputs["indices"].arguments[:]
    forwards = first.inputs["indices"].arguments.add().value
    forwards.type.CopyFrom(value.type)
    forwards.type.tensorType.dataType = 23  # int32
    forwards.immediateValue.tensor.ints.values.extend(range(len(array)))
    save(opened)


def flipped_block(folder: Path) -> None:
    """The integers of 32 weights have the other sign."""
    opened = package(folder, "decoder")
    weight = next(w for w in weights_of(opened) if w.scheme == "int4" and w.shape[0] != w.shape[1])
    value = weight.data.blobFileValue
    path = opened.model_file.parent / value.fileName.removeprefix("@model_path/")
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[value.offset + 16 : value.offset + 24], "little")
    data[start : start + 16] = bytes(byte ^ 0xFF for byte in data[start : start + 16])
    path.write_bytes(data)


def wrong_scale(folder: Path) -> None:
    """All of one layer a tenth too large."""
    opened = package(folder, "image_encoder")
    weight = next(w for w in weights_of(opened) if w.scheme == "int8")
    value = weight.scale.blobFileValue
    path = opened.model_file.parent / value.fileName.removeprefix("@model_path/")
    data = bytearray(path.read_bytes())
    size, start = (int.from_bytes(data[value.offset + at : value.offset + at + 8], "little") for at in (8, 16))
    scales = np.frombuffer(data[start : start + size], np.float16) * np.float16(1.1)
    data[start : start + size] = scales.astype(np.float16).tobytes()
    path.write_bytes(data)


def wrong_position(folder: Path) -> None:
    """Decoding turns queries and keys by the angles of position 0, always."""
    opened = package(folder, "decoder")
    for o in block(opened.program.functions["decode"]).operations:
        if o.type == "slice_by_size":
            begin = o.inputs["begin"].arguments[0]
            begin.Clear()
            begin.value.type.tensorType.dataType = 23  # int32
            begin.value.type.tensorType.rank = 1
            begin.value.type.tensorType.dimensions.add().constant.size = 2
            begin.value.immediateValue.tensor.ints.values.extend([0, 0])
    save(opened)


def weights_of_another_layer(folder: Path) -> None:
    """One function, of three that share their weights, uses one layer's twice."""
    opened = package(folder, "decoder")
    compressed = [o for o in block(opened.program.functions["decode"]).operations if o.type.startswith("constexpr_")]
    first, second = [o for o in compressed if str(decode_type(o.outputs[0].type)) == "fp16[128, 64]"][:2]
    for name in first.inputs:
        second.inputs[name].CopyFrom(first.inputs[name])
    save(opened)


def no_state(folder: Path) -> None:
    """The cache has become a constant, in all functions."""
    opened = package(folder, "decoder")
    for function in opened.program.functions.values():
        plain = [value for value in function.inputs if not isinstance(decode_type(value.type), StateType)]
        del function.inputs[:]
        function.inputs.extend(plain)
        kept = [o for o in block(function).operations if o.type != "write_state"]
        del block(function).operations[:]
        block(function).operations.extend(kept)
    save(opened)


FAULTS = {
    weights_of_another_layer: "function decode: the weight layers.",
    no_state: "has 0 states, and the decoder 4 caches",
    dropped_write: "never writes its state",
    wrong_mask: "greedy_ids",
    swapped_direction: "videomamba_tokens",
    flipped_block: "is not in the package as int4",
    wrong_scale: "is not in the package as int8",
    wrong_position: "greedy_ids",
}


@pytest.fixture(scope="module")
def reference(tiny_coreml_int4_bundle):
    """What the good build stored."""
    return parity.stored_reference(open_bundle(tiny_coreml_int4_bundle))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_no_build_lets_a_fault_pass(fault, tiny_coreml_int4_bundle, tiny_checkpoint, reference, tmp_path, monkeypatch, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_coreml_int4_bundle, broken)
    fault(broken)
    monkeypatch.setattr(CoremlBackend, "lower", lambda self, twin, signature, assignments, out: shutil.copytree(broken / out.name, out))
    monkeypatch.setattr(parity, "reference_of", lambda *arguments, **options: reference)
    out = tmp_path / "bundle"
    arguments = ["--target", "coreml", "--checkpoint", str(tiny_checkpoint), "--recipe", "int4", "--max-context", "2700", "--out", str(out)]
    assert build.main(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert FAULTS[fault] in error
    assert not out.exists()


def test_bounds_a_hundred_times_tighter_fail_the_good_bundle(tiny_coreml_int4_bundle, reference, monkeypatch):
    bundle = open_bundle(tiny_coreml_int4_bundle)
    backend, schemes = backend_of_bundle(bundle), parity.graph_schemes(bundle.manifest)
    loose = tolerances.tolerance

    def tight(stage, target, schemes):
        found = loose(stage, target, schemes)
        return tolerances.Tolerance(found.metric, found.own / 100, found.chained / 100, found.why)

    monkeypatch.setattr("runtime_py.ladder.tolerance", tight)
    ladder = climb(backend, reference, "coreml", schemes)
    assert failure(ladder)
    tested = {rung.stage: rung for rung in ladder if rung.metric == "row"}
    assert all(rung.own_error > rung.threshold_own or stage == "frame_scores" for stage, rung in tested.items()), "a bound is too wide"


def test_bounds_of_float16_too(tiny_coreml_bundle):
    manifest = open_bundle(tiny_coreml_bundle).manifest
    assert manifest.verified
    for rung in manifest.parity:
        if rung.metric == "row" and rung.stage not in ("frame_scores", "inputs_embeds"):
            assert rung.own_error > rung.threshold_own / 100, rung
    assert next(rung.note for rung in manifest.parity if rung.stage == "greedy_ids").startswith("24 of 24 equal")


def test_a_state_type_is_what_the_reader_takes_it_for(tiny_coreml_bundle):
    functions = package(tiny_coreml_bundle, "decoder").program.functions.values()
    assert all(isinstance(decode_type(v.type), StateType) == ("attention" in v.name) for f in functions for v in f.inputs)
    assert torch.get_default_dtype() == torch.float32  # converting leaves the process as it was
