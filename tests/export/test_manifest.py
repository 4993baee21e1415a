import copy
import dataclasses
import json
import random
import subprocess
import sys
import types
import typing
from pathlib import Path

import jsonschema
import pytest

from export import manifest as m
from export.config import ModelConfig
from export.errors import BundleError, one_line

SCHEMA_FILE = Path(m.__file__).with_name("manifest.schema.json")
ROOT = SCHEMA_FILE.parents[1]


def sample_manifest() -> m.Manifest:
    """A manifest with every kind of value in it: dynamic axes, a package folder, exclusions, negative numbers."""
    tensor = m.TensorSpec("pixels", (16, 3, 224, 224), "float32", "RGB, 0 to 255")
    tokens = m.TensorSpec("ids", (1, "tokens"), "int64", "token ids")
    graph = m.GraphEntry(
        "decoder", "decoder.bin", "0" * 64, 10, (tensor, tokens), (tensor,), (m.DynamicAxis("tokens", 1, 512),),
        (m.SchemeShare("int4", 900, 480), m.SchemeShare("fp32", 100, 400)), {"layers.0.dt_proj": "36 has no group of 32"},
        "int8 dynamic", 0.97, ("aten::topk",), 5_000_000, "xnnpack",
    )  # fmt: skip
    graphs = {name: dataclasses.replace(graph, name=name, file=f"{name}.bin") for name in m.GRAPHS}
    graphs["video_encoder"] = dataclasses.replace(graphs["video_encoder"], file="packages/video_encoder.mlpackage")
    model = {
        "clip": dict(width=768, depth=11, heads=12, mlp_width=3072, patch_size=16, layer_norm_eps=1e-5),
        "videomamba": dict(width=576, depth=32, d_inner=1152, d_state=16, d_conv=4, dt_rank=36, patch_size=16, rms_norm_eps=1e-5),
        "image_projector": dict(kind="etp", depth=2, in_width=768, out_width=896),
        "video_projector": dict(kind="etp", depth=2, in_width=576, out_width=896),
        "decoder": dict(width=896, layers=24, heads=14, kv_heads=2, head_dim=64, ffn_width=4864, vocab=151936, tied=True, rope_theta=1e6,
                        rms_norm_eps=1e-6, max_positions=32768),
        "topk": True,
        "stop_ids": [151645],
    }  # fmt: skip
    rgb = (0.5, 0.25, 0.125)
    return m.Manifest(
        schema_version=m.SCHEMA_VERSION,
        target="executorch",
        recipe="int4",
        recipe_rules={"rules": [{"match": "decoder.*", "scheme": "int4", "group": 32}]},
        quant_overrides={"decoder": "int8"},
        kernels="stock",
        custom_operators=(),
        verified=True,
        checkpoint_name="Mobile-VideoGPT-0.5B",
        checkpoint_fingerprint="sha256:abc",
        model=model,
        graphs=graphs,
        decoder=m.DecoderInterface("internal", 4096, {"position": "start_pos", "chunks": [1, 64]}),
        preprocessing=m.Preprocessing(16, 224, rgb, rgb, rgb, rgb, 8, 4, True, 1e-5, "crop, PIL bicubic", "squash, OpenCV bilinear"),
        prompt=m.Prompt("<|im_start|>system\n", "<|im_start|>user\n", "<image>", "<|im_end|>", "<|im_start|>assistant\n", -200, (151645,)),
        parity=(m.StageParity("image_tokens", 0.001, 0.002, 0.01, 0.02, "relative error", True, ""),),
        accuracy={"questions": 6.0, "right": 5.0, "reference_right": 6.0},
        files={"reference.npz": m.FileEntry("1" * 64, 20), "golden/ids.json": m.FileEntry("2" * 64, 30)},
        expected_memory_bytes=600_000_000,
        bits_per_weight=4.6,
        bundle_bytes=120,
        tool_versions={"torch": "2.13.0"},
        created="2026-01-31T12:00:00Z",
        licenses={"decoder": "CC BY-NC-SA 4.0"},
    )


def signed(data: dict) -> dict:
    """`data` with the digest that fits its contents, so that only its contents can be refused."""
    content = {key: value for key, value in data.items() if key != m.DIGEST}
    return content | {m.DIGEST: m.digest(content)}


def write(folder: Path, data: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / m.MANIFEST_FILE).write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="module")
def schema() -> dict:
    return json.loads(SCHEMA_FILE.read_text())


def schema_of(kind, definitions: dict) -> dict:
    """JSON Schema of a type hint of the manifest; dataclasses go to `definitions`."""
    if dataclasses.is_dataclass(kind):
        if kind.__name__ not in definitions:
            hints = typing.get_type_hints(kind, include_extras=True)
            definitions[kind.__name__] = None  # holds its place, in reading order
            if kind is m.Manifest:
                hints["model"] = ModelConfig
            properties = {name: schema_of(hint, definitions) for name, hint in hints.items()}
            if kind is m.Manifest:
                properties["schema_version"] = {"const": m.SCHEMA_VERSION}
                properties["graphs"] = closed({name: {"$ref": "#/$defs/GraphEntry"} for name in m.GRAPHS})
                properties[m.DIGEST] = schema_of(m.Sha256, definitions)
            definitions[kind.__name__] = {"description": " ".join(kind.__doc__.split())} | closed(properties)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        rule = {"description": args[1].says, "pattern": args[1].pattern, "minimum": args[1].minimum, "maximum": args[1].maximum}
        return schema_of(args[0], definitions) | {key: value for key, value in rule.items() if value is not None}
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is tuple:
        assert args[-1] is ... or len(set(args)) == 1
        size = {} if args[-1] is ... else {"minItems": len(args), "maxItems": len(args)}
        return {"type": "array", "items": schema_of(args[0], definitions)} | size
    if origin is dict:
        names = {} if args[0] is str else {"propertyNames": schema_of(args[0], definitions)}
        return {"type": "object"} | names | {"additionalProperties": schema_of(args[1], definitions)}
    if origin in (typing.Union, types.UnionType):
        return {"type": [schema_of(choice, definitions)["type"] for choice in args]}
    return {"type": {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}[kind]}


def closed(properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def test_the_json_schema_says_what_the_dataclasses_say(schema):
    definitions: dict = {}
    expected = schema_of(m.Manifest, definitions) | {"$defs": definitions}
    found = {key: value for key, value in schema.items() if key not in ("$schema", "$id", "title")}
    assert found == expected, f"manifest.schema.json should hold:\n{json.dumps(expected, indent=1)}"
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def test_a_manifest_survives_the_file(tmp_path, schema):
    manifest = sample_manifest()
    data = manifest.to_json()
    jsonschema.Draft202012Validator(schema).validate(data)
    assert m.read_manifest(write(tmp_path, data)) == manifest
    assert manifest.config() == ModelConfig.from_json(data["model"])
    assert manifest.config().visual_tokens == 2402


def test_an_edit_by_hand_does_not_pass_for_a_verified_build(tmp_path):
    data = sample_manifest().to_json()
    data["graphs"]["decoder"]["delegated"] = 1.0
    with pytest.raises(BundleError, match="edit by hand"):
        m.read_manifest(write(tmp_path, data))


def test_reading_a_manifest_needs_neither_torch_nor_numpy():
    code = "import sys, export.manifest; print([n for n in ('torch', 'numpy', 'jsonschema') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def at(data: dict, path: tuple):
    for step in path:
        data = data[step]
    return data


DECODER = ("graphs", "decoder")
REFUSED = [  # path, value, what the line must say
    (("schema_version",), 4, "newer version of this tool (schema 4, this one reads 3): update it"),
    (("schema_version",), 0, "older version"),
    (("schema_version",), True, "schema_version must be an integer, not True"),
    (("target",), "windows", "target must be one of executorch, coreml, onnx"),
    (("verified",), 1, "verified must be true or false"),
    (("bits_per_weight",), -1.0, "bits_per_weight must be 0 or more"),
    (("bits_per_weight",), 10**400, "bits_per_weight must be a finite number"),
    (("created",), "yesterday", "created must be a UTC time"),
    (("model", "clip", "width"), "768", "model.clip.width must be an integer, not '768'"),
    (("model", "extra"), 1, "model.extra is not known"),
    (("parity",), {}, "parity must be a list, not an object"),
    (("preprocessing", "image_mean"), [0.5, 0.5], "preprocessing.image_mean must be a list of 3"),
    (("graphs", "audio_encoder"), {}, "a key of graphs must be one of image_encoder"),
    ((*DECODER, "name"), "frame_scorer", "graphs.decoder.name must be 'decoder'"),
    ((*DECODER, "delegated"), 1.5, "graphs.decoder.delegated must be a share from 0 to 1, not 1.5"),
    ((*DECODER, "sha256"), "0" * 63, "graphs.decoder.sha256 must be"),
    ((*DECODER, "bytes"), -1, "graphs.decoder.bytes must be 0 or more"),
    ((*DECODER, "bytes"), True, "graphs.decoder.bytes must be an integer"),
    ((*DECODER, "inputs", 1, "shape", 1), 0, "graphs.decoder.inputs[1].shape[1] must be a size of 1 or more"),
    ((*DECODER, "inputs", 1, "shape", 1), "frames", "names 'frames'"),
    ((*DECODER, "dynamic_axes", 0, "minimum"), 513, "names 'tokens', but dynamic_axes has no such axis with a valid range"),
    ((*DECODER, "inputs", 0, "dtype"), "float", "graphs.decoder.inputs[0].dtype must be one of float32"),
]


@pytest.mark.parametrize(("path", "value", "says"), REFUSED)
def test_a_value_out_of_place_is_refused_with_its_place(tmp_path, path, value, says):
    data = sample_manifest().to_json()
    at(data, path[:-1])[path[-1]] = value
    with pytest.raises(BundleError) as caught:
        m.read_manifest(write(tmp_path, signed(data)))
    assert says in str(caught.value) and str(tmp_path / m.MANIFEST_FILE) in str(caught.value)
    assert "\n" not in str(caught.value)


ESCAPES = ["../decoder.bin", "/etc/passwd", "a/../../b", "a/..", ".", "", "a//b", "a\\..\\b", "C:b", "a/\0", "ü", "a\n"]


@pytest.mark.parametrize("file", ESCAPES)
def test_a_path_that_leaves_the_bundle_is_refused(tmp_path, file):
    data = sample_manifest().to_json()
    for place in (data["graphs"]["decoder"], data["files"]):
        changed = copy.deepcopy(data)
        if "file" in place:
            changed["graphs"]["decoder"]["file"] = file
        else:
            changed["files"][file] = changed["files"]["reference.npz"]
        with pytest.raises(BundleError, match="must be a relative path inside the bundle"):
            m.read_manifest(write(tmp_path, signed(changed)))


NO_MANIFESTS = ["", "{", "[]", "3", "null", '"x"', "\ufeff{}", '{"schema_version": NaN}', "[" * 100_000, "9" * 5000]


@pytest.mark.parametrize("text", NO_MANIFESTS)
def test_a_file_that_is_no_manifest_is_refused_in_one_line(tmp_path, text):
    (tmp_path / m.MANIFEST_FILE).write_text(text)
    with pytest.raises(BundleError) as caught:
        m.read_manifest(tmp_path)
    assert m.MANIFEST_FILE in str(caught.value) and len(one_line(caught.value)) < 400


def test_numbers_that_json_has_not_are_refused_where_anything_may_stand(tmp_path):
    data = sample_manifest().to_json()
    text = json.dumps(data).replace('"start_pos"', "1e999")
    (tmp_path / m.MANIFEST_FILE).write_text(text)
    with pytest.raises(BundleError, match="not valid JSON"):
        m.read_manifest(tmp_path)


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="nowhere: no such folder: give the bundle folder"):
        m.read_manifest(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="so it is no bundle"):
        m.read_manifest(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="no such folder"):
        m.read_manifest(tmp_path / "file")
    (tmp_path / m.MANIFEST_FILE).write_bytes(b"\xff\xfe{}")
    with pytest.raises(BundleError, match="not valid JSON"):
        m.read_manifest(tmp_path)
    (tmp_path / "odd" / m.MANIFEST_FILE).mkdir(parents=True)
    with pytest.raises(BundleError, match="cannot be read"):
        m.read_manifest(tmp_path / "odd")


def places(value, path=()):
    """Every path in a JSON value, containers included."""
    yield path
    steps = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for step in steps:
        yield from places(value[step], (*path, step))


OTHER_VALUES = [None, True, -1, 0, 1.5, 10**400, "", "x", "../x", [], {}, ["x"], {"x": 1}, [[1, 2], [3]], "\ud800", "\x1b[2J"]


def mutate(rng: random.Random, data: dict) -> None:
    path = rng.choice([path for path in places(data) if path])
    parent = at(data, path[:-1])
    action = rng.choice(["delete", "replace", "rename"])
    if action == "delete":
        del parent[path[-1]]
    elif action == "rename" and isinstance(parent, dict):
        parent[rng.choice(["x", "..", "decoder", "\n"])] = parent.pop(path[-1])
    else:
        parent[path[-1]] = rng.choice(OTHER_VALUES)


@pytest.mark.parametrize("resign", [False, True], ids=["digest kept", "digest renewed"])
def test_a_mutated_manifest_is_refused_or_means_what_it_says(tmp_path, schema, resign):
    """200 seeded mutations: never another exception, and never a quiet repair. The JSON Schema, where it judges alone, agrees."""
    rng = random.Random(7)
    original = sample_manifest().to_json()
    validator = jsonschema.Draft202012Validator(schema)
    refused = 0
    for _ in range(200):
        data = copy.deepcopy(original)
        mutate(rng, data)
        data = signed(data) if resign else data
        try:
            loaded = m.read_manifest(write(tmp_path, data))
        except BundleError as error:
            refused += 1
            if validator.is_valid(data) and resign:  # beyond a schema's reach: references between values
                assert ".name must be" in str(error) or "a shape names" in str(error), str(error)
        else:
            assert loaded.to_json() == data
            assert validator.is_valid(data), data
            assert resign or data == original
    assert refused > 100


def test_a_truncated_manifest_is_refused(tmp_path):
    text = json.dumps(sample_manifest().to_json())
    rng = random.Random(8)
    for length in rng.sample(range(len(text)), 60):
        (tmp_path / m.MANIFEST_FILE).write_text(text[:length])
        with pytest.raises(BundleError):
            m.read_manifest(tmp_path)
