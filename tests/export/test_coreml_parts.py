"""What Core ML packages are made from: rounding, norms in float16's range, rows at a position, the stateful decoder, the frontend."""

import numpy as np
import pytest
import torch
from torch import nn

from export.backends.coreml import CoremlBackend
from export.backends.coreml_delegate import CHUNK, CoremlDelegateBackend
from export.backends.coreml_frontend import blockwise_dequantize, install
from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.components import COMPONENTS, Form
from export.components.norm import RMSNormInRange
from export.components.stateful_decoder import slots
from export.errors import BundleError
from export.mlpackage import Package
from export.model.norm import RMSNorm
from export.model.qwen2 import KeyValueCache
from export.ops.rows import read_rows, write_rows
from export.plan import plan_build
from export.quant.presets import parse
from export.quant.recipe import SCHEMES
from export.quant.rounding import dequantize, quantize
from export.quiet import quiet
from runtime_py import parity
from runtime_py.load import backend_of_bundle
from runtime_py.mil import Program
from tests.numerics import DEMO, max_error, rms_error


class TestRounding:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    @pytest.mark.parametrize("scheme", ["int8", "int4"])
    def test_no_weight_moves_by_more_than_half_a_scale(self, scheme, dtype):
        scheme = SCHEMES[scheme]
        weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 2, 64)[:, None]
        weight[3], weight[4, 5] = 0, -37.0
        integers, scale = quantize(weight, scheme, dtype)
        groups = 128 // scheme.group_size if scheme.group_size else 1
        assert integers.dtype == torch.int8 and scale.shape == (64, groups) and scale.dtype == dtype
        assert integers.int().abs().max() <= 2 ** (scheme.bits - 1)
        half = (scale.float() / 2).repeat_interleave(128 // groups, dim=1)
        assert ((dequantize(integers, scale) - weight).abs() <= half * (1 + 1e-4)).all()  # float32 rounds too
        assert (dequantize(integers, scale)[3] == 0).all()
        assert integers[4].int().abs().max() >= 2 ** (scheme.bits - 1) - 1  # the largest value takes the largest integer

    def test_the_operator_gives_the_same_weights(self):
        integers, scale = quantize(torch.randn(8, 64), SCHEMES["int4"], torch.float16)
        assert torch.equal(blockwise_dequantize(integers, scale, 4).float(), dequantize(integers, scale).half().float())


class TestNorm:
    @torch.inference_mode()
    @pytest.mark.parametrize("magnitude", [1e-4, 1e-2, 1.0, 300.0, 60_000.0])
    def test_float16_rows_of_any_magnitude(self, magnitude):
        norm = RMSNorm(96, 1e-6)
        norm.weight.copy_(torch.linspace(0.5, 2, 96))
        x = torch.randn(5, 96, generator=torch.Generator().manual_seed(1))
        x = (x / x.abs().max() * magnitude).half()
        got = RMSNormInRange(norm).half()(x)
        assert torch.isfinite(got).all()
        assert max_error(got.float(), norm.float()(x.float())) <= 4e-3  # three roundings to 11 bits

    def test_a_row_of_zeros_stays_zero(self):
        assert (RMSNormInRange(RMSNorm(8, 1e-5)).half()(torch.zeros(1, 8).half()) == 0).all()


def test_rows_are_read_and_written_at_a_position():
    table, position = torch.arange(20.0).reshape(10, 2), torch.tensor([4], dtype=torch.int32)
    assert torch.equal(read_rows(table, position, 3), table[4:7])
    cache, rows = torch.zeros(1, 2, 8, 3), torch.ones(1, 2, 2, 3)
    written = write_rows(cache, rows, position)
    assert (cache == 0).all() and (written[:, :, 4:6] == 1).all() and written.sum() == 12


@torch.inference_mode()
def test_the_stateful_decoder_is_the_eager_one(tiny_checkpoint):
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    form = Form(300, decoder="coreml_state", half=True, index_dtype="int32", chunks=(64, 1))
    twin = COMPONENTS["decoder"].twin(checkpoint.load(parts=("decoder",)), form).eval()
    decoder, config = checkpoint.load(parts=("decoder",)).decoder, checkpoint.config.decoder
    cache = KeyValueCache(config, slots(form), torch.float32)
    x = torch.randn(90, config.width, generator=torch.Generator().manual_seed(0))
    position = 0
    for real, padded in ((40, 64), (1, 1), (30, 32), (1, 1), (18, 18)):  # the next call overwrites what padding wrote
        chunk = torch.cat([x[position : position + real], torch.zeros(padded - real, config.width)])
        last = () if padded == 1 else (torch.tensor([real - 1], dtype=torch.int32),)
        got = twin(chunk, torch.tensor([position], dtype=torch.int32), *last)
        assert max_error(got, decoder(x[position : position + real], position, cache)) <= 1e-5, position
        position += real


class Scalars(nn.Module):
    """What coremltools would turn into float32, or fail on."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        x = self.norm(x) * 1.7 + 0.3
        return (x / (1 + x.abs()) - 2).float()


def test_a_float16_graph_stays_float16(tmp_path):
    install()
    module = Scalars().half().eval()
    x = torch.randn(3, 8).half()
    with quiet():
        import coremltools as ct

        program = torch.export.export(module, (x,), strict=False).run_decompositions({})
        model = ct.convert(
            program,
            inputs=[ct.TensorType("x", shape=(3, 8), dtype=np.float16)],
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(tmp_path / "m.mlpackage"))
    function = Package.open(tmp_path / "m.mlpackage").program.functions["main"]
    operations = function.block_specializations[function.opset].operations
    outputs = [o.outputs[0].type.tensorType.dataType for o in operations if o.type != "const"]
    assert outputs.count(11) <= 1, "only the output is float32"  # FLOAT32 in MIL.proto
    loaded = Program.load(tmp_path / "m.mlpackage")
    (name,) = loaded.functions["main"].outputs
    got = torch.from_numpy(loaded.run({"x": x.numpy()})[name])
    assert max_error(got.float(), module.float()(x.float())) <= 4e-3


@pytest.mark.parametrize("deployment, opset", [("iOS18", 18), ("iOS26", 26)])
def test_the_oldest_system_is_the_one_asked_for(deployment, opset, tiny_checkpoint, tmp_path):
    checkpoint, backend = open_checkpoint(str(tiny_checkpoint)), CoremlBackend(deployment)
    component, form = COMPONENTS["image_projector"], backend.form(300)
    twin = component.twin(checkpoint.load(parts=component.parts), form).eval()
    backend.lower(twin, component.signature(checkpoint.config, form), [], tmp_path / "p.mlpackage")
    program = Program.load(tmp_path / "p.mlpackage")
    assert program.functions["main"].opset == opset
    x = torch.randn(16, 196, 768, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = checkpoint.load(parts=component.parts).image_projector(x)
    assert max_error(torch.from_numpy(program.run({"features": x.numpy()})["tokens"]), wanted) <= 1e-4  # no scheme: float32


def test_weights_of_one_number_may_be_dropped(tmp_path):
    """The demo's norms are all ones, and a product with ones is no operation."""
    checkpoint, backend = open_checkpoint(str(DEMO)), CoremlBackend()
    component, form = COMPONENTS["video_encoder"], backend.form(300)

    def twin():
        return component.twin(checkpoint.load(parts=component.parts), form).eval()

    plan = plan_build(checkpoint, parse("int8", [], list(COMPONENTS)), form)
    assignments = next(list(graph.assignments) for graph in plan.graphs if graph.name == "video_encoder")
    backend.lower(twin(), component.signature(checkpoint.config, form), assignments, tmp_path / "video_encoder.mlpackage")
    backend.check_weights(tmp_path / "video_encoder.mlpackage", twin, assignments)


@pytest.mark.full
class TestDelegate:
    """`.pte` files whose one delegate is a Core ML package."""

    def test_a_bundle_is_proved_through_its_delegates(self, tiny_delegate_bundle):
        bundle = open_bundle(tiny_delegate_bundle)
        manifest = bundle.manifest
        assert manifest.verified and manifest.target == "executorch" and all(rung.passed for rung in manifest.parity)
        assert {graph.delegate for graph in manifest.graphs.values()} == {"coreml"}
        assert {graph.delegated for graph in manifest.graphs.values()} == {1.0}
        assert manifest.decoder.details["functions"] == [{"name": "forward", "tokens": CHUNK}]
        int4 = next(share for share in manifest.graphs["decoder"].schemes if share.scheme == "int4")
        assert int4.weights > 100_000

    def test_it_computes_what_the_packages_compute(self, tiny_delegate_bundle, tiny_coreml_int4_bundle):
        delegate, packages = (backend_of_bundle(open_bundle(folder)) for folder in (tiny_delegate_bundle, tiny_coreml_int4_bundle))
        x = torch.randn(150, 64, generator=torch.Generator().manual_seed(0)) * 0.05
        assert rms_error(delegate.decode(x, 0), packages.decode(x, 0)) <= 0.01
        ids = torch.tensor([7])
        assert torch.equal(delegate.run("token_embedding", ids), packages.run("token_embedding", ids))

    def test_parity_runs_it_again(self, tiny_delegate_bundle, capsys):
        assert parity.main(["--bundle", str(tiny_delegate_bundle)]) == 0
        assert "coreml-interpreted" in capsys.readouterr().out

    def test_a_program_without_the_delegate_is_refused(self, tiny_bundle):
        with pytest.raises(BundleError, match="Core ML runs less than all of it"):
            CoremlDelegateBackend().read(tiny_bundle / "decoder.pte")

    def test_a_damaged_program_is_refused(self, tiny_delegate_bundle, tmp_path):
        data = (tiny_delegate_bundle / "image_projector.pte").read_bytes()
        (tmp_path / "cut.pte").write_bytes(data[: len(data) // 2])
        with pytest.raises(BundleError, match="build the bundle again"):
            CoremlDelegateBackend().read(tmp_path / "cut.pte")
