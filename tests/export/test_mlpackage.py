"""The reader of Core ML packages against coremltools' own writer and reader of weight files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.errors import PackageError
from export.mlpackage import DTYPES, Values
from export.mlpackage.dtypes import from_carrier, rounded, to_carrier
from export.mlpackage.package import protobuf
from export.quiet import quiet

with quiet():
    from coremltools.converters.mil.mil.types import np_int4_dtype, np_uint1_dtype, np_uint2_dtype, np_uint3_dtype, np_uint4_dtype
    from coremltools.converters.mil.mil.types.type_mapping import np_uint6_dtype
    from coremltools.libmilstoragepython import _BlobStorageReader as Reader
    from coremltools.libmilstoragepython import _BlobStorageWriter as Writer

COUNTS = (1, 7, 64, 129)  # 7 elements of less than 8 bits end inside a byte
WRITTEN = {  # element type -> the type of array that coremltools' writer takes
    "fp16": np.uint16,  # its bits
    "fp32": np.float32,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "int4": np_int4_dtype,
    "uint1": np_uint1_dtype,
    "uint2": np_uint2_dtype,
    "uint3": np_uint3_dtype,
    "uint4": np_uint4_dtype,
    "uint6": np_uint6_dtype,
}


def elements(name: str, count: int) -> np.ndarray:
    """Random values, the type's smallest and largest among them; for fp16 as bits."""
    generator = np.random.default_rng(count)
    if name == "fp32":
        return generator.standard_normal(count).astype(np.float32)
    if name == "fp16":
        return generator.standard_normal(count).astype(np.float16).view(np.uint16)
    dtype = DTYPES[name]
    low, high = (-(1 << dtype.bits - 1), (1 << dtype.bits - 1) - 1) if dtype.signed else (0, (1 << dtype.bits) - 1)
    values = generator.integers(low, high, count, endpoint=True)
    values[:2] = [low, high][: len(values[:2])]
    return values.astype(WRITTEN[name])


def blob_value(name: str, shape: tuple[int, ...], file: str, offset: int):
    """A `Value` message of MIL for a blob."""
    value = protobuf().MIL__pb2.Value()
    tensor = value.type.tensorType
    tensor.dataType, tensor.rank = DTYPES[name].proto, len(shape)
    for size in shape:
        tensor.dimensions.add().constant.size = size
    value.blobFileValue.fileName, value.blobFileValue.offset = file, offset
    return value


@pytest.mark.parametrize("name", WRITTEN)
def test_blobs_are_what_coremltools_wrote(name, tmp_path):
    arrays = [elements(name, count) for count in COUNTS]
    writer = Writer(str(tmp_path / "weight.bin"))
    method = "float" if name == "fp32" else name
    offsets = [getattr(writer, f"write_{method}_data")(array) for array in arrays]
    del writer
    reader, values = Reader(str(tmp_path / "weight.bin")), Values(tmp_path)
    for array, offset in zip(arrays, offsets):
        type, read = values.tensor(blob_value(name, array.shape, "@model_path/weight.bin", offset))
        assert type.dtype == name and read.dtype == np.dtype(DTYPES[name].numpy)
        same = read.view(np.uint16) if name == "fp16" else read
        np.testing.assert_array_equal(same, array)
        np.testing.assert_array_equal(same, np.asarray(getattr(reader, f"read_{method}_data")(offset)).view(same.dtype))


@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in ("fp16", "fp32")])
def test_carriers_hold_every_integer(name):
    array = elements(name, 129).astype(DTYPES[name].numpy)
    tensor = to_carrier(array, DTYPES[name])
    assert tensor.dtype == DTYPES[name].carrier
    np.testing.assert_array_equal(tensor.numpy().astype(np.int64), array.astype(np.int64))
    np.testing.assert_array_equal(from_carrier(tensor, DTYPES[name]), array)
    torch.testing.assert_close(rounded(tensor, DTYPES[name]), tensor, rtol=0, atol=0)


def test_integers_wrap():
    assert rounded(torch.tensor([8, -9, 7], dtype=torch.int8), DTYPES["int4"]).tolist() == [-8, 7, 7]
    assert rounded(torch.tensor([65536, -1], dtype=torch.int32), DTYPES["uint16"]).tolist() == [0, 65535]
    assert rounded(torch.tensor([16, 17], dtype=torch.uint8), DTYPES["uint4"]).tolist() == [0, 1]


def test_bfloat16_is_the_upper_half_of_float32():
    values = np.array([1.0, -2.5, 3.140625, np.inf], np.float32)
    tensor = to_carrier((values.view(np.uint32) >> 16).astype(np.uint16), DTYPES["bf16"])
    np.testing.assert_array_equal(tensor.numpy(), values)


@pytest.mark.parametrize("file", ["../outside.bin", "@model_path/../outside.bin", "/etc/hostname", "@model_path//etc/hostname", ""])
def test_weights_outside_the_package_are_refused(file, tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(256))
    with pytest.raises(PackageError, match="is missing, empty or outside the package"):
        Values(folder).tensor(blob_value("fp16", (2,), file, 64))


def test_link_out_of_the_package_is_refused(tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(256))
    (folder / "weight.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(PackageError, match="is missing, empty or outside the package"):
        Values(folder).tensor(blob_value("fp16", (2,), "@model_path/weight.bin", 64))


@pytest.mark.parametrize(
    "name, shape, message",
    [("fp32", (7,), "no fp32 weights"), ("fp16", (8,), "wrong size"), ("fp64", (7,), "holds no fp64")],
)
def test_blob_of_another_type_or_size_is_refused(name, shape, message, tmp_path):
    writer = Writer(str(tmp_path / "weight.bin"))
    offset = writer.write_fp16_data(elements("fp16", 7))
    del writer
    with pytest.raises(PackageError, match=message):
        Values(tmp_path).tensor(blob_value(name, shape, "@model_path/weight.bin", offset))


@pytest.mark.parametrize("offset", [0, 1, 63, 128, 1 << 40, (1 << 64) - 32])
def test_offsets_that_hold_no_blob_are_refused(offset, tmp_path):
    writer = Writer(str(tmp_path / "weight.bin"))
    writer.write_fp16_data(elements("fp16", 7))
    del writer
    with pytest.raises(PackageError, match="no fp16 weights|beyond its end"):
        Values(tmp_path).tensor(blob_value("fp16", (7,), "@model_path/weight.bin", offset))


def test_one_immediate_value_stands_for_all(tmp_path):
    value = blob_value("int32", (2, 3), "", 0)
    value.immediateValue.tensor.ints.values.append(-5)
    _, read = Values(tmp_path).tensor(value)
    np.testing.assert_array_equal(read, np.full((2, 3), -5, np.int32))
