"""Each exportable twin against the eager part that it takes over, and the declared shapes against what really comes out."""

import pytest
import torch
import torch.nn.functional as F

from export.checkpoint import open_checkpoint
from export.components import COMPONENTS, Form
from export.components.base import DTYPES
from export.components.decoder import DecoderGraph
from export.components.mamba_mixer import softplus
from export.components.projectors import pooling_matrix
from export.components.token_embedding import Int8Embedding
from export.manifest import GRAPHS, DynamicAxis
from export.model.qwen2 import KeyValueCache
from export.quiet import quiet
from tests.numerics import DEMO, define_llm_operators, distinct_weights, max_error
from tests.released_layout import write_checkpoint

SAME_MATHS = 1e-5  # of the largest magnitude: the same float32 operations, some sums in another order (4e-7 measured)
CONTEXT = 48  # tokens of the decoder's cache in these tests


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, tiny_checkpoint):
    """Opened once; each kind of projector stands once for images and once for video."""
    folder = tmp_path_factory.mktemp("projectors")
    return {
        "demo": open_checkpoint(DEMO),
        "tiny": open_checkpoint(tiny_checkpoint),
        "linear": open_checkpoint(write_checkpoint(folder / "linear", image_projector="linear", video_projector="mlp3x_gelu")),
        "mlp": open_checkpoint(write_checkpoint(folder / "mlp", image_projector="mlp3x_gelu", video_projector="linear")),
    }


def load(checkpoint, *parts):
    return distinct_weights(checkpoint.load(parts=parts))


def inputs_of(signature, config, seed=0, dynamic=5):
    """Random values of the declared shapes: pixels in 0 to 255, ids within the vocabulary, features around 1."""
    generator = torch.Generator().manual_seed(seed)
    values = []
    for spec in signature.inputs:
        shape = [dynamic if isinstance(size, str) else size for size in spec.shape]
        if spec.name == "pixels":
            values.append(torch.rand(shape, generator=generator) * 255)
        elif spec.name == "position":
            values.append(torch.zeros(shape, dtype=torch.int64))
        elif spec.dtype == "int64":
            values.append(torch.randint(config.decoder.vocab, shape, generator=generator))
        else:
            values.append(torch.randn(shape, generator=generator))
    return values


def test_there_is_one_component_for_each_graph_of_a_bundle():
    assert tuple(COMPONENTS) == tuple(GRAPHS)
    assert all(component.name == name for name, component in COMPONENTS.items())


def test_the_dynamic_axes_are_the_tokens_from_one_to_the_whole_context(checkpoints):
    for name, component in COMPONENTS.items():
        signature = component.signature(checkpoints["demo"].config, Form(CONTEXT))
        axes = (DynamicAxis("tokens", 1, CONTEXT),) if name in ("token_embedding", "decoder") else ()
        assert signature.dynamic_axes == axes
        named = {size for spec in (*signature.inputs, *signature.outputs) for size in spec.shape if isinstance(size, str)}
        assert named == {axis.name for axis in axes}


WITHOUT_CACHE = [name for name in COMPONENTS if name != "decoder"]
CASES = [(name, which) for name in WITHOUT_CACHE for which in ("demo", "tiny")]
CASES += [(name, which) for name in ("image_projector", "video_projector") for which in ("linear", "mlp")]


@torch.inference_mode()
@pytest.mark.parametrize("scan", ["looped", "unrolled", "fused"])
def test_the_video_encoder_s_twin_is_the_eager_one_with_every_form_of_the_scan(scan, checkpoints):
    checkpoint, component = checkpoints["demo"], COMPONENTS["video_encoder"]
    model = load(checkpoint, *component.parts)
    (pixels,) = inputs_of(component.signature(checkpoint.config, Form(CONTEXT)), checkpoint.config)
    wanted = model.video_encoder(pixels)
    assert max_error(component.twin(model, Form(CONTEXT, scan=scan)).eval()(pixels), wanted) <= SAME_MATHS


@torch.inference_mode()
@pytest.mark.parametrize("name, which", CASES)
def test_a_twin_computes_what_the_eager_part_does_in_the_declared_shapes(name, which, checkpoints):
    checkpoint, component = checkpoints[which], COMPONENTS[name]
    signature = component.signature(checkpoint.config, Form(CONTEXT))
    model = load(checkpoint, *component.parts)
    values = inputs_of(signature, checkpoint.config)
    wanted = getattr(model, name)(*values)  # before the twin takes the part over
    got = component.twin(model, Form(CONTEXT)).eval()(*values)
    assert max_error(got, wanted) <= SAME_MATHS
    (output,) = signature.outputs
    assert [5 if isinstance(size, str) else size for size in output.shape] == list(got.shape)
    assert DTYPES[output.dtype] == got.dtype


@torch.inference_mode()
def test_the_decoder_has_its_declared_shapes(checkpoints):
    define_llm_operators()
    for checkpoint in checkpoints.values():
        signature = COMPONENTS["decoder"].signature(checkpoint.config, Form(CONTEXT))
        twin = COMPONENTS["decoder"].twin(load(checkpoint, "decoder"), Form(CONTEXT))
        logits = twin(*inputs_of(signature, checkpoint.config))
        assert tuple(logits.shape) == signature.outputs[0].shape and logits.dtype == torch.float32


@torch.inference_mode()
def test_frames_of_padding_and_extreme_pixels_stay_the_same(checkpoints):
    for name in ("image_encoder", "video_encoder"):
        component, checkpoint = COMPONENTS[name], checkpoints["demo"]
        model = load(checkpoint, name)
        (pixels,) = inputs_of(component.signature(checkpoint.config, Form(CONTEXT)), checkpoint.config)
        frames = pixels[0] if name == "video_encoder" else pixels  # a view: [frames, 3, 224, 224]
        frames[0], frames[1] = 0, 255
        frames[2] = getattr(model, name).normalize.mean[0] * 255
        wanted = getattr(model, name)(pixels)
        assert max_error(component.twin(model, Form(CONTEXT))(pixels), wanted) <= SAME_MATHS


@torch.inference_mode()
def test_the_video_encoder_s_directions_and_frames_all_matter(checkpoints):
    """A twin that drops the backward scan, or a frame, would still run: each must move tokens at the other end."""
    checkpoint = checkpoints["demo"]
    twin = COMPONENTS["video_encoder"].twin(load(checkpoint, "video_encoder"), Form(CONTEXT))
    (pixels,) = inputs_of(COMPONENTS["video_encoder"].signature(checkpoint.config, Form(CONTEXT)), checkpoint.config)
    before = twin(pixels)
    for frame, seen_at in ((0, 7), (7, 0)):
        changed = pixels.clone()
        changed[0, frame] = 255 - changed[0, frame]
        assert not torch.allclose(twin(changed)[seen_at], before[seen_at], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", WITHOUT_CACHE)
def test_one_trace_computes_what_the_twin_does_at_every_length(name, checkpoints):
    checkpoint, component = checkpoints["demo"], COMPONENTS[name]
    signature = component.signature(checkpoint.config, Form(CONTEXT))
    twin = component.twin(load(checkpoint, *component.parts), Form(CONTEXT)).eval()
    program = torch.export.export(twin, signature.example_inputs(), dynamic_shapes=signature.dynamic_shapes(), strict=False).module()
    with torch.inference_mode():
        for length in (1, 2, 17, CONTEXT) if signature.dynamic_axes else (0,):
            values = inputs_of(signature, checkpoint.config, seed=length, dynamic=length)
            assert max_error(program(*values), twin(*values)) <= SAME_MATHS, length


class TestPooling:
    @pytest.mark.parametrize("side, pooled", [(14, 12), (14, 7), (14, 14), (14, 1), (7, 3), (16, 12), (5, 4), (3, 5), (1, 1)])
    def test_the_matrix_is_adaptive_average_pooling(self, side, pooled):
        grid = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side), dtype=torch.float64)
        got = (grid.flatten(2) @ pooling_matrix(side, pooled).double().T).reshape(2, 3, pooled, pooled)
        assert torch.allclose(got, F.adaptive_avg_pool2d(grid, pooled), rtol=0, atol=1e-6)  # the matrix is float32


class TestSoftplus:
    X = torch.linspace(-100, 100, 200_001)

    def exact(self, x):
        return torch.log1p(torch.exp(-x.double().abs())) + x.double().clamp(min=0)

    def test_small_results_keep_their_digits(self):
        x = self.X[self.X > -87]  # below, exp(x) is no normal float32 any more
        wrong = (softplus(x).double() - self.exact(x)).abs() / self.exact(x)
        assert wrong.max() <= 5e-7  # 4 units in the last place of float32; a plain log(1 + e) is wrong by 1 here
        assert softplus(torch.tensor([-9.0])).item() == pytest.approx(1.2340218972333965e-4, rel=5e-7)

    def test_every_result_is_finite_and_right(self):
        y = softplus(self.X)
        assert torch.isfinite(y).all() and (y >= 0).all()
        assert max_error(y.double(), self.exact(self.X)) <= 1e-7
        assert torch.equal(softplus(torch.tensor([1e4, -1e4, 3e38])), torch.tensor([1e4, 0, 3e38]))


class TestInt8Embedding:
    def test_no_value_is_further_off_than_half_a_step_of_its_row(self):
        weight = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 64)[:, None]
        weight[5] = 0
        weight[6, 1:] = 0  # one value alone
        got = Int8Embedding(weight)(torch.arange(64))
        step = weight.abs().amax(dim=1, keepdim=True) / 127
        assert ((got - weight).abs() <= step * (0.5 + 1e-4)).all()  # 1e-4 of a step: float32 rounding of the product
        assert torch.equal(got[5], torch.zeros(48)) and torch.allclose(got[6], weight[6])

    def test_rows_come_in_the_order_of_the_ids(self):
        table = Int8Embedding(torch.randn(8, 4, generator=torch.Generator().manual_seed(1)))
        assert table.rows.dtype == torch.int8 and table.scale.shape == (8, 1)
        rows = table(torch.arange(8))
        assert torch.equal(table(torch.tensor([3, 0, 3])), rows[[3, 0, 3]])


HALF_CACHE = 5e-3  # of the largest logit: keys and values of 11 bits, through a few layers


class Both:
    """The eager decoder with its cache and a decoder graph, asked the same."""

    def __init__(self, model, form, graph=None):
        define_llm_operators()
        self.config, self.eager = model.config.decoder, model.decoder
        self.cache = KeyValueCache(self.config, CONTEXT, torch.float32)
        self.graph = graph or DecoderGraph(model.decoder, form)  # shares the eager weights and changes nothing in them
        self.generator = torch.Generator().manual_seed(3)

    def embeds(self, tokens):
        return torch.randn(tokens, self.config.width, generator=self.generator)

    def error(self, embeds, position):
        wanted = self.eager(embeds, position, self.cache)
        return max_error(self.graph(embeds, torch.tensor([position])), wanted)


@pytest.fixture(scope="module", params=["demo", "tiny"])
def decoder_model(request, checkpoints):
    return load(checkpoints[request.param], "decoder")


@pytest.fixture(params=["stock", "fused"])
def form(request):
    return Form(CONTEXT, attention=request.param)


@torch.inference_mode()
@pytest.mark.parametrize("tokens", [1, 2, 17, CONTEXT - 3])
def test_prefill_and_the_steps_after_it_are_the_eager_decoder_s(tokens, decoder_model, form):
    both = Both(decoder_model, form)
    assert both.error(both.embeds(tokens), 0) <= SAME_MATHS
    for step in range(3):  # from the longest prefill up to the very last position
        assert both.error(both.embeds(1), tokens + step) <= SAME_MATHS


@torch.inference_mode()
def test_a_prefill_in_two_calls_is_one_call(decoder_model, form):
    split, whole = Both(decoder_model, form), Both(decoder_model, form)
    embeds = split.embeds(17)
    split.graph(embeds[:9], torch.tensor([0]))
    last = split.graph(embeds[9:], torch.tensor([9]))
    assert max_error(last, whole.graph(embeds, torch.tensor([0]))) <= SAME_MATHS
    assert whole.error(embeds, 0) <= SAME_MATHS
    assert split.error(embeds[9:], 9) > 1e-3  # the eager cache of this pair is still empty: the first half does matter


@torch.inference_mode()
def test_the_context_can_be_filled_and_no_more(decoder_model, form):
    both = Both(decoder_model, form)
    assert both.error(both.embeds(CONTEXT), 0) <= SAME_MATHS
    assert both.error(both.embeds(5), CONTEXT - 5) <= SAME_MATHS
    with pytest.raises(RuntimeError):
        both.graph(both.embeds(6), torch.tensor([CONTEXT - 5]))


@torch.inference_mode()
def test_starting_again_needs_no_reset(decoder_model, form):
    both = Both(decoder_model, form)
    assert both.error(both.embeds(30), 0) <= SAME_MATHS
    assert both.error(both.embeds(4), 10) <= SAME_MATHS
    fresh = Both(decoder_model, form)
    embeds = both.embeds(4)
    assert torch.equal(both.graph(embeds, torch.tensor([0])), fresh.graph(embeds, torch.tensor([0])))


def test_one_trace_serves_prefill_and_steps(decoder_model, form):
    define_llm_operators()
    signature = COMPONENTS["decoder"].signature(decoder_model.config, form)
    with quiet(), torch.no_grad():  # tracing the stock operators warns of their own code
        twin = COMPONENTS["decoder"].twin(decoder_model, form)
        traced = torch.export.export(twin, signature.example_inputs(), dynamic_shapes=signature.dynamic_shapes(), strict=False).module()
        both = Both(decoder_model, form, traced)
        position = 0
        for tokens in (17, 1, 1, 2, 3, CONTEXT - 24):
            assert both.error(both.embeds(tokens), position) <= SAME_MATHS, (tokens, position)
            position += tokens
        assert position == CONTEXT


@torch.inference_mode()
def test_a_half_precision_cache_costs_its_rounding_and_no_more(decoder_model):
    """The new token sees what the cache holds of the others, and of itself."""
    both = Both(decoder_model, Form(CONTEXT, attention="fused", half_cache=True))
    assert both.graph.layers[0].attention.keys.dtype == torch.float16
    assert 0 < both.error(both.embeds(20), 0) <= HALF_CACHE
    assert both.error(both.embeds(1), 20) <= HALF_CACHE
