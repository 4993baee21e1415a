"""Compressed weights: what coremltools compresses, against its own decompression, and each operation against its definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from coremltools.optimize import coreml as optimize
from torch import ones, zeros

from export.errors import PackageError
from export.quiet import quiet
from runtime_py.mil import Program
from runtime_py.mil.operations.compression import constexpr_affine_dequantize, constexpr_blockwise_shift_scale
from tests.runtime_py.mil.making import ct, mb, run, save, types

ROWS, COLUMNS = 64, 128
RNG = np.random.default_rng(8)
LINEAR = RNG.standard_normal((ROWS, COLUMNS)).astype(np.float16)
KERNEL = RNG.standard_normal((ROWS, 32, 2, 2)).astype(np.float16)


def layers(x, image):
    """Their outputs are the weights themselves: x is an identity, each pixel of the image one input channel."""
    return mb.linear(x=x, weight=LINEAR, name="linear"), mb.conv(x=image, weight=KERNEL, name="kernel")


IDENTITY = np.eye(COLUMNS, dtype=np.float16)
IMAGE = np.zeros((128, 32, 2, 2), np.float16)
IMAGE.reshape(128, 128)[:] = np.eye(128)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = save(layers, {"x": IDENTITY, "image": IMAGE}, tmp_path_factory.mktemp("model") / "model.mlpackage", "iOS18")
    return ct.models.MLModel(str(path), skip_model_load=True)


def weights_of(model, folder):
    """(linear, kernel) as the interpreter reads them from a saved model, and the operation types."""
    model.save(str(folder / "saved.mlpackage"))
    program = Program.load(folder / "saved.mlpackage")
    linear, kernel = program.run({"x": IDENTITY, "image": IMAGE}).values()
    return linear.T, kernel.reshape(128, ROWS).T.reshape(KERNEL.shape), set(program.functions["main"].operations)


def quantize(model, joint=False, **options):
    config = optimize.OptimizationConfig(optimize.OpLinearQuantizerConfig(weight_threshold=0, **options))
    return optimize.linear_quantize_weights(model, config, joint_compression=joint)


def palettize(model, joint=False, **options):
    config = optimize.OptimizationConfig(optimize.OpPalettizerConfig(weight_threshold=0, **options))
    return optimize.palettize_weights(model, config, joint_compression=joint)


def prune(model, sparsity=0.6):
    config = optimize.OptimizationConfig(optimize.OpMagnitudePrunerConfig(target_sparsity=sparsity, weight_threshold=0))
    return optimize.prune_weights(model, config)


GROUPED = {"granularity": "per_grouped_channel", "group_size": 16}
WAYS = {
    "int8 per channel": lambda m: quantize(m, mode="linear_symmetric", dtype="int8"),
    "uint8 per channel with offset": lambda m: quantize(m, mode="linear", dtype="uint8"),
    "int4 per block": lambda m: quantize(m, mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32),
    "uint4 per block with offset": lambda m: quantize(m, mode="linear", dtype="uint4", granularity="per_block", block_size=16),
    "int4 per tensor": lambda m: quantize(m, mode="linear_symmetric", dtype="int4", granularity="per_tensor"),
    **{f"{bits} bits": lambda m, bits=bits: palettize(m, nbits=bits, mode="uniform") for bits in (1, 2, 3, 4, 6, 8)},
    "4 bits by kmeans": lambda m: palettize(m, nbits=4, mode="kmeans"),
    "4 bits by groups": lambda m: palettize(m, nbits=4, mode="kmeans", **GROUPED),
    "3 bits with a scale": lambda m: palettize(m, nbits=3, mode="kmeans", enable_per_channel_scale=True),
    "2 bits for vectors": lambda m: palettize(m, nbits=2, mode="kmeans", cluster_dim=4),
    "2 bits for vectors by groups": lambda m: palettize(m, nbits=2, mode="kmeans", cluster_dim=2, **GROUPED),
    "sparse": prune,
    "sparse and int8": lambda m: quantize(prune(m), joint=True, mode="linear_symmetric", dtype="int8"),
    "sparse and int4 per block": lambda m: quantize(
        prune(m), joint=True, mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32
    ),
    "sparse and 4 bits": lambda m: palettize(prune(m), joint=True, nbits=4, mode="kmeans"),
    "4 bits of int8": lambda m: quantize(
        palettize(m, nbits=4, mode="kmeans", **GROUPED), joint=True, mode="linear_symmetric", dtype="int8", granularity="per_tensor"
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_as_coremltools_decompresses(model, way, tmp_path):
    with quiet():
        compressed = WAYS[way](model)
        plain = optimize.decompress_weights(compressed)
        expected = {n: m.val for n, m in optimize.get_weights_metadata(plain, weight_threshold=1000).items()}
    linear, kernel, operations = weights_of(compressed, tmp_path)
    assert any(name.startswith("constexpr_") for name in operations)
    assert linear.dtype == kernel.dtype == np.float16
    shapes = {value.shape: value for value in expected.values()}
    np.testing.assert_array_equal(linear, shapes[LINEAR.shape])
    np.testing.assert_array_equal(kernel, shapes[KERNEL.shape])


@pytest.mark.parametrize("opset", ["iOS16", "iOS17"])
def test_before_ios18(opset):
    """There the inputs are attributes, and bits are packed in bytes."""
    data, scale, zero = RNG.integers(-128, 128, (3, 5)).astype(np.int8), np.float16([0.5, 0.1, 3]), np.int8([1, -7, 100])
    tables = {bits: (RNG.standard_normal(1 << bits).astype(np.float32), RNG.integers(0, 1 << bits, 21)) for bits in (1, 2, 4, 6, 8)}
    mask = RNG.integers(0, 2, (3, 7))
    values = RNG.standard_normal(int(mask.sum())).astype(np.float16)
    halves = RNG.standard_normal((2, 3)).astype(np.float16)

    def packed(numbers, bits):
        return np.packbits(((numbers.reshape(-1, 1) >> np.arange(bits)) & 1).astype(np.uint8).reshape(-1), bitorder="little")

    def build(x):
        shape = np.uint32([3, 7])
        found = [
            mb.constexpr_affine_dequantize(quantized_data=data, zero_point=zero, scale=scale, axis=-2),
            mb.constexpr_affine_dequantize(quantized_data=data.view(np.uint8), zero_point=np.uint8(3), scale=np.float32(0.1), axis=0),
            mb.constexpr_cast(source_val=halves, output_dtype="fp32"),
            mb.constexpr_sparse_to_dense(nonzero_data=values, mask=packed(mask, 1), shape=shape),
            *(mb.constexpr_lut_to_dense(indices=packed(i, bits), lut=lut, shape=shape) for bits, (lut, i) in tables.items()),
        ]
        return [mb.identity(x=value) if value is not found[2] else mb.add(x=value, y=x) for value in found]

    affine, scalar, cast, sparse, *looked_up = run(build, {"x": np.zeros(1, np.float32)}, opset)
    np.testing.assert_array_equal(
        affine, ((data.astype(np.float32) - zero[:, None]) * scale.astype(np.float32)[:, None]).astype(np.float16)
    )
    np.testing.assert_array_equal(scalar, (data.view(np.uint8).astype(np.float32) - 3) * np.float32(0.1))
    np.testing.assert_array_equal(cast, halves.astype(np.float32))
    dense = np.zeros((3, 7), np.float16)
    dense[mask != 0] = values
    np.testing.assert_array_equal(sparse, dense)
    for result, (lut, indices) in zip(looked_up, tables.values(), strict=True):
        np.testing.assert_array_equal(result, lut[indices].reshape(3, 7))


def nbits(array, name):
    return array.astype(types.nptype_from_builtin(types.string_to_builtin(name)))


def test_blocks_along_every_dimension():
    data = RNG.integers(-8, 8, (4, 6, 5))
    scale, offset = RNG.standard_normal((2, 3, 1)).astype(np.float32), RNG.integers(-8, 8, (2, 3, 1))
    mask = RNG.integers(0, 2, (4, 6, 5))
    fractions = RNG.standard_normal((2, 3, 1)).astype(np.float32)

    def build(x):
        shifted = mb.constexpr_blockwise_shift_scale(data=nbits(data, "int4"), scale=scale, offset=nbits(offset, "int4"))
        by_fractions = mb.constexpr_blockwise_shift_scale(data=data.astype(np.int8), scale=scale, offset=fractions)
        bits, values = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=nbits(mask, "uint1"), nonzero_data=data[mask != 0].astype(np.int8), scale=scale, offset=offset.astype(np.int8)
        )
        return [mb.add(x=x, y=y) for y in (shifted, by_fractions, mb.constexpr_sparse_to_dense(nonzero_data=values, mask=bits))]

    shifted, by_fractions, sparse = run(build, {"x": np.zeros((4, 6, 5), np.float32)}, "iOS18")
    expected, other = np.empty(data.shape, np.float32), np.empty(data.shape, np.float32)
    for i, j, k in np.ndindex(*data.shape):
        block = (i // 2, j // 2, 0)
        expected[i, j, k] = np.float32(data[i, j, k] - offset[block]) * scale[block]
        other[i, j, k] = (np.float32(data[i, j, k]) - fractions[block]) * scale[block]
    np.testing.assert_array_equal(shifted, expected)
    np.testing.assert_array_equal(by_fractions, other)
    np.testing.assert_array_equal(sparse, np.where(mask != 0, expected, 0))


@pytest.mark.parametrize(("axis", "length"), [(None, 1), (0, 2), (1, 3), (-1, 2)])
def test_tables_of_numbers_and_vectors(axis, length):
    indices, mask = RNG.integers(0, 4, (4, 6, 2)), RNG.integers(0, 2, (4, 6, 2))
    lut = RNG.standard_normal((2, 3, 1, 4, length)).astype(np.float32)
    options = {} if axis is None else {"vector_axis": axis}
    sizes = [s * length if axis is not None and i == axis % 3 else s for i, s in enumerate(indices.shape)]

    def build(x):
        dense = mb.constexpr_lut_to_dense(indices=nbits(indices, "uint2"), lut=lut, **options)
        chosen = nbits(indices[mask != 0], "uint2")
        bits, values = mb.constexpr_lut_to_sparse(indices_mask=nbits(mask, "uint1"), indices_nonzero_data=chosen, lut=lut, **options)
        return mb.add(x=x, y=dense), mb.add(x=x, y=mb.constexpr_sparse_to_dense(nonzero_data=values, mask=bits))

    dense, sparse = run(build, {"x": np.zeros(sizes, np.float32)}, "iOS18")
    expected, kept = np.empty(sizes, np.float32), np.zeros(sizes, np.float32)
    for (i, j, k), step in itertools.product(np.ndindex(*indices.shape), range(length)):
        place = [i, j, k]
        if axis is not None:
            place[axis] = place[axis] * length + step
        expected[tuple(place)] = lut[i // 2, j // 2, 0, indices[i, j, k], step]
        kept[tuple(place)] = mask[i, j, k] * expected[tuple(place)]
    np.testing.assert_array_equal(dense, expected)
    np.testing.assert_array_equal(sparse, kept)


def test_what_does_not_fit_is_refused():
    """Shapes that the builder of coremltools does not write, and a damaged file may have."""
    with pytest.raises(PackageError, match="do not split in"):
        constexpr_blockwise_shift_scale(zeros(4, 6), ones(3, 1))
    with pytest.raises(PackageError, match="its offset is"):
        constexpr_blockwise_shift_scale(zeros(4, 6), ones(2, 1), ones(1, 2))
    with pytest.raises(PackageError, match="along the axis 2"):
        constexpr_affine_dequantize(zeros(4, 6), zeros(()), ones(4), 2)
