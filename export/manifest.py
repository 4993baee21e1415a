"""What a bundle says of itself: `manifest.json` as frozen dataclasses, and the strict reading of it.

The dataclasses are the schema: `export.strict_json` walks their type hints, refuses a missing or an unknown key, a wrong type
and a value out of range, and names the place. `manifest.schema.json` says the same for readers in other languages; a test keeps
the two in step. The manifest holds the SHA-256 of its own canonical form, so that an edit by hand does not pass for a verified build.

Sizes are in bytes, `sha256` is lower-case hex. For a graph that is a folder (a Core ML package) see `export.bundle.hash_path`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from export.config import GRAPHS, GraphName, ModelConfig
from export.errors import BundleError
from export.strict_json import REMEDY, Rule, decode, refuse

SCHEMA_VERSION = 3  # 3: golden vectors and SHA256SUMS beside it
MANIFEST_FILE = "manifest.json"
CHECKSUMS = "SHA256SUMS"  # as `sha256sum` prints them, of every file but itself; its own hash is the bundle's pin
DIGEST = "manifest_sha256"

_PART = r"(?!\.{1,2}(/|$))[A-Za-z0-9._-]+"  # no '.', no '..': a path cannot leave the bundle
RelativePath = Annotated[str, Rule("a relative path inside the bundle, of letters, digits, '.', '_', '-'", pattern=f"^{_PART}(/{_PART})*$")]
Sha256 = Annotated[str, Rule("a SHA-256 in lower-case hex", pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Rule("a name, not empty", pattern=r"^[^\x00-\x1f]+$")]
Timestamp = Annotated[str, Rule("a UTC time like 2026-01-31T12:00:00Z", pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Count = Annotated[int, Rule("0 or more", minimum=0)]
Size = Annotated[int, Rule("1 or more", minimum=1)]
Share = Annotated[float, Rule("a share from 0 to 1", minimum=0, maximum=1)]
Amount = Annotated[float, Rule("0 or more", minimum=0)]
Dimension = Annotated[int | str, Rule("a size of 1 or more, or a dynamic axis's name", pattern="^[A-Za-z_][A-Za-z0-9_]*$", minimum=1)]
Rgb = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph. A string in `shape` is the name of a dynamic axis."""

    name: Name
    shape: tuple[Dimension, ...]
    dtype: Literal["float32", "float16", "int64", "int32", "int8", "uint8", "bool"]
    description: str


@dataclasses.dataclass(frozen=True)
class DynamicAxis:
    """An axis whose size the host chooses, from `minimum` to `maximum`, both included."""

    name: Name
    minimum: Count
    maximum: Count


@dataclasses.dataclass(frozen=True)
class SchemeShare:
    """How many weights of an artifact really are in one scheme, and the bytes they take (scales included)."""

    scheme: Name
    weights: Count
    bytes: Count


@dataclasses.dataclass(frozen=True)
class GraphEntry:
    """One graph. `excluded` maps a layer that the recipe left out to the reason; `delegated` is the share of compute operators
    that the delegate runs, `operators` are the others, which a host must have. Two graphs may live in one file."""

    name: Name
    file: RelativePath
    sha256: Sha256
    bytes: Count
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dynamic_axes: tuple[DynamicAxis, ...]
    schemes: tuple[SchemeShare, ...]
    excluded: dict[str, str]
    activations: str
    delegated: Share
    operators: tuple[Name, ...]
    peak_memory_bytes: Count
    delegate: str


@dataclasses.dataclass(frozen=True)
class DecoderInterface:
    """How a host drives the decoder; `details` is the interface's own (functions, chunk sizes, padding and mask rule, cache names)."""

    interface: Literal["internal", "coreml_state", "explicit"]
    max_context: Size
    details: dict


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a host does before and between graphs. Means and stds are for RGB in 0..1; frame scores within `tie_tolerance`,
    relative, tie, and ties go to the lower index; `topk` False takes the lowest scores."""

    frames: Size
    image_size: Size
    image_mean: Rgb
    image_std: Rgb
    video_mean: Rgb
    video_std: Rgb
    chunk_frames: Size
    key_frames_per_chunk: Size
    topk: bool
    tie_tolerance: Amount
    image_resize: Name
    video_resize: Name


@dataclasses.dataclass(frozen=True)
class Prompt:
    r"""First turn: system, user, `image` once a frame, "\n", question, end_of_turn, "\n", assistant. Later turns: end_of_turn, "\n",
    user, question, end_of_turn, "\n", assistant. The pieces around `image` are tokenized one by one; it becomes `placeholder_id`."""

    system: str
    user: str
    image: Name
    end_of_turn: Name
    assistant: str
    placeholder_id: int
    stop_ids: tuple[Count, ...]


@dataclasses.dataclass(frozen=True)
class StageParity:
    """One rung of the parity ladder: fed with the reference's input (own), and as the user gets it (chained)."""

    stage: Name
    own_error: float
    chained_error: float
    threshold_own: float
    threshold_chained: float
    metric: Name
    passed: bool
    note: str


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file of the bundle that is no graph."""

    sha256: Sha256
    bytes: Count


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All that `manifest.json` holds. `graphs` has the seven names of `GRAPHS`; `accuracy` what the
    gates measured, empty where none was set; `files` every other file but `README.md`, `SHA256SUMS` and the
    manifest itself; `bundle_bytes` is the size of graphs and files together. `BundleWriter.commit` fills what it alone knows:
    hashes, sizes, `files`, `bundle_bytes`, and `created` where it is empty."""

    schema_version: int
    target: Literal["executorch", "coreml", "onnx"]
    recipe: Name
    recipe_rules: dict
    quant_overrides: dict[str, str]
    kernels: Literal["stock", "fused"]
    custom_operators: tuple[Name, ...]
    verified: bool
    checkpoint_name: str
    checkpoint_fingerprint: Name
    model: dict
    graphs: dict[GraphName, GraphEntry]
    decoder: DecoderInterface
    preprocessing: Preprocessing
    prompt: Prompt
    parity: tuple[StageParity, ...]
    accuracy: dict[str, float]
    files: dict[RelativePath, FileEntry]
    expected_memory_bytes: Count
    bits_per_weight: Amount
    bundle_bytes: Count
    tool_versions: dict[str, str]
    created: Timestamp
    licenses: dict[str, str]

    def config(self) -> ModelConfig:
        """The sizes of the checkpoint that the bundle was built from."""
        return ModelConfig.from_json(self.model)

    def to_json(self) -> dict:
        """What `json.dump` writes: lists for tuples, and the digest of all the rest under `manifest_sha256`."""
        data = json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))
        return data | {DIGEST: digest(data)}

    @classmethod
    def from_json(cls, data: Any, where: str = MANIFEST_FILE) -> Manifest:
        """The manifest in parsed JSON. Raises BundleError, one line that names the place, unless all of it is as declared here."""
        try:
            _check_version(data)
            content = {key: value for key, value in data.items() if key != DIGEST}
            manifest = decode(cls, content, "")
            decode(ModelConfig, manifest.model, "model")
            _check_graphs(manifest.graphs)
            if data.get(DIGEST) != digest(content):
                raise BundleError(f"{DIGEST} does not match the contents, as after an edit by hand: {REMEDY}")
        except BundleError as error:
            raise BundleError(f"{where}: {error}") from None
        return manifest


def read_manifest(folder: Path | str) -> Manifest:
    """Read a bundle's manifest. Raises BundleError where the folder or file is missing, or is not what this version writes."""
    path = Path(folder) / MANIFEST_FILE
    try:
        return Manifest.from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (FileNotFoundError, NotADirectoryError):
        missing = f"no {MANIFEST_FILE} in it, so it is no bundle" if path.parent.is_dir() else "no such folder"
        raise BundleError(f"{folder}: {missing}: give the bundle folder that `python -m export.build` wrote") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON and NaN are ValueErrors, endless nesting is the other
        raise BundleError(f"{path}: not valid JSON ({str(error)[:100]}): {REMEDY}") from error


def digest(content: dict) -> str:
    """SHA-256 of the canonical form of a manifest without its `manifest_sha256`: sorted keys, no spaces, ASCII."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def _check_version(data: Any) -> None:
    version = decode(dict, data, "").get("schema_version")
    decode(int, version, "schema_version")
    versions = f"(schema {version}, this one reads {SCHEMA_VERSION})"
    if version > SCHEMA_VERSION:
        raise BundleError(f"made by a newer version of this tool {versions}: update it")
    if version < SCHEMA_VERSION:
        raise BundleError(f"made by an older version of this tool {versions}: build the bundle again")


def _check_graphs(graphs: dict[str, GraphEntry]) -> None:
    """What a type cannot say: all seven names, each under its own key, and axes that are declared and not empty."""
    for name in sorted(set(GRAPHS) - set(graphs)):
        raise BundleError(f"graphs.{name} is missing: {REMEDY}")
    for key, graph in graphs.items():
        if graph.name != key:
            refuse(f"graphs.{key}.name", repr(key), graph.name)
        axes = {axis.name for axis in graph.dynamic_axes if axis.minimum <= axis.maximum}
        for size in (size for tensor in (*graph.inputs, *graph.outputs) for size in tensor.shape):
            if isinstance(size, str) and size not in axes:
                raise BundleError(f"graphs.{key}: a shape names {size!r}, but dynamic_axes has no such axis with a valid range: {REMEDY}")
