"""Static against dynamic activations: the error that is reported, and that each program computes as it is called."""

import collections
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from calibration.activations import error, main, programs
from export.backends.pte import XNNPACK, _xnnpack_graph, read_pte
from export.build import DEMO_CHECKPOINT
from export.checkpoint import open_checkpoint
from export.config import ClipConfig
from export.executorch_runtime import load_method
from export.model.mobile_videogpt import MobileVideoGPT
from export.quiet import quiet


def test_the_error_of_known_features():
    wanted = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert error(wanted, wanted) == (pytest.approx(1.0), 0.0)
    # One patch turned by 60 degrees: an error of 1, by the root of 25 + 1.
    turned = torch.tensor([[3.0, 4.0], [0.5, math.sqrt(0.75)]])
    assert error(turned, wanted) == (pytest.approx(0.5), pytest.approx(1 / math.sqrt(26)))
    assert error(2 * wanted, wanted) == (pytest.approx(1.0), pytest.approx(1.0))  # another size, the same direction
    assert error(-wanted, wanted) == (pytest.approx(-1.0), pytest.approx(2.0))


class SmallEncoder:
    """A checkpoint whose CLIP has two narrow layers of random weights."""

    def __init__(self):
        clip = ClipConfig(width=32, depth=2, heads=2, mlp_width=64, patch_size=16)
        self.config = dataclasses.replace(open_checkpoint(str(DEMO_CHECKPOINT)).config, clip=clip)

    def load(self, parts: set[str]) -> MobileVideoGPT:
        torch.manual_seed(0)
        return MobileVideoGPT(self.config)


def tensors(path: Path) -> tuple[collections.Counter, list[float]]:
    """XNNPACK's datatypes of all values of a program that are no constants, and the scales of those that have one."""
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary
    program = deserialize_pte_binary(path.read_bytes()).program
    plan = program.execution_plan[0]
    types, scales = collections.Counter(), []
    for delegate in (d for d in plan.delegates if d.id == XNNPACK):
        for value in _xnnpack_graph(program.backend_delegate_data[delegate.processed.index].data)["xvalues"]:
            union = value["xvalue_union"]
            tensor = union.get("tensor_value", union)
            if not tensor["constant_buffer_idx"]:
                types[tensor["datatype"].removeprefix("xnn_datatype_")] += 1
                scales += [union["quant_params"]["scale"]] if "scale" in union.get("quant_params", {}) else []
    return types, scales


@pytest.fixture(scope="module")
def clips() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (16, 3, 224, 224), generator=generator).float() for _ in range(2)]


@pytest.fixture(scope="module")
def made(clips, tmp_path_factory) -> dict[str, Path]:
    with torch.inference_mode():
        return programs(SmallEncoder(), clips[:1], tmp_path_factory.mktemp("programs"))


LINEARS = [(32, 32)] * 8 + [(64, 32), (32, 64)] * 2


@pytest.mark.full  # three programs to lower
def test_each_program_s_weights_are_int8_but_the_float_one_s(made):
    for name, path in made.items():
        stored = [weight.shape for weight in read_pte(path).stored if weight.scheme == "int8"]
        matrices = sorted(shape for shape in stored if shape in LINEARS)  # the static one's table of positions is int8 too
        assert matrices == ([] if name == "fp32" else sorted(LINEARS)), name


@pytest.mark.full  # three programs to lower
def test_the_static_program_s_activations_are_int8_with_scales_of_their_own(made):
    """A scale for each tensor in the file, none computed at run time; the dynamic one has it the other way round."""
    types, scales = tensors(made["int8 static"])
    assert types["qint8"] > 2 * len(LINEARS) and not types["qdint8"]
    assert len(scales) == types["qint8"] and len(set(scales)) > len(LINEARS) and min(scales) > 0
    types, scales = tensors(made["int8 dynamic"])
    assert types["qdint8"] and not types["qint8"] and not scales
    types, _ = tensors(made["fp32"])
    assert set(types) == {"fp32"}


@pytest.mark.full  # three programs to lower
def test_the_programs_compute_the_encoder(made, clips):
    features = {}
    for name, path in made.items():
        method = load_method(path)
        features[name] = method([clips[1]])[0].clone()
    cosine, relative = error(features["int8 dynamic"], features["fp32"])
    assert cosine > 0.99 and 0 < relative < 0.05
    cosine, relative = error(features["int8 static"], features["fp32"])
    assert 0 < relative < 0.5


@pytest.mark.full  # the demo's encoder three times
def test_the_command_prints_a_line_for_each(capsys):
    assert main(["--checkpoint", str(DEMO_CHECKPOINT), "--calibrate", "1"]) == 0
    rows = {line[:14].strip(): line[14:].split() for line in capsys.readouterr().out.splitlines()[1:]}
    assert list(rows) == ["fp32", "int8 dynamic", "int8 static"] and rows["fp32"][3:] == ["1.00000", "0.0000"]
    assert rows["int8 dynamic"][1] == "1.00" and float(rows["int8 dynamic"][4]) < float(rows["int8 static"][4]) < 0.5
    assert float(rows["int8 static"][2]) < float(rows["fp32"][2])  # smaller


@pytest.mark.parametrize(
    "change, says",
    [(["--calibrate", "0"], "at least 1"), (["--calibrate", "x"], "invalid int"), (["--checkpoint", "nowhere/at/all"], "nowhere")],
)
def test_wrong_arguments_are_one_line(change, says, capsys):
    assert main(["--checkpoint", str(DEMO_CHECKPOINT), *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
