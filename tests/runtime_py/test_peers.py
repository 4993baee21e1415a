"""`bench --peers` and `bench_scan`: who is timed, that all of them do the same work, and what is said where they cannot be."""

import json

import pytest

from export.bundle import open_bundle
from export.checkpoint import open_checkpoint
from export.errors import BackendError
from export.ops import native
from runtime_py import bench, bench_scan, peers
from tests.kernels.driver import no_tool
from tests.numerics import DEMO


def refused(capsys, main, *arguments) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_the_products_are_all_linears_of_the_graph_with_the_rows_that_they_meet(demo_bundle):
    bundle, checkpoint = open_bundle(demo_bundle), open_checkpoint(DEMO)
    mamba, clip = checkpoint.config.videomamba, checkpoint.config.clip
    D, maps = mamba.d_inner, mamba.dt_rank + 2 * mamba.d_state
    each = [(mamba.width, 2 * D, False), (D, maps, False), (D, maps, False), (mamba.dt_rank, D, True), (mamba.dt_rank, D, True)]
    expected: dict[peers.Product, int] = {}
    for columns, out, bias in [*each, (D, mamba.width, False)]:
        product = peers.Product(mamba.sequence, columns, out, bias, "int8")
        expected[product] = expected.get(product, 0) + mamba.depth
    assert dict(peers.linear_products(bundle, "video_encoder")) == expected
    images = peers.linear_products(bundle, "image_encoder")
    assert sum(images.values()) == 6 * clip.depth
    assert {product.rows for product in images} == {16 * (1 + clip.patches)}


def test_the_vision_graphs_are_timed_beside_all_of_their_peers(tiny_fused_bundle, tiny_checkpoint, capsys):
    arguments = ["--bundle", tiny_fused_bundle, "--peers", tiny_checkpoint, "--runs", "1", "--new-tokens", "1"]
    assert bench.main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out.splitlines()[-1])["peers_s"]
    assert list(report["image_encoder"]) == ["bundle", "eager-sequential", "matrix products", "onnxruntime"]
    assert list(report["video_encoder"]) == ["bundle", "eager-sequential", "matrix products"]
    assert all(seconds > 0 for graph in report.values() for seconds in graph.values())
    assert printed.err.count("the bundle takes") == 5


def test_without_onnxruntime_a_line_says_so(monkeypatch, capsys):
    assert peers._has_onnxruntime()  # it comes with what tests need
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda package: None)
    assert not peers._has_onnxruntime()
    assert "pip install -e '.[peers]'" in capsys.readouterr().err


def fails(what):
    raise ValueError(f"no {what}\nhere")


def test_a_peer_that_fails_is_one_line_and_leaves_no_process():
    peer = peers.Elsewhere(fails, "weights")
    with pytest.raises(BackendError, match="no weights") as caught, peer:
        pytest.fail("it was ready")
    assert "\n" not in str(caught.value)


def test_peers_of_another_size_or_of_no_bundle_are_refused(tiny_fused_bundle, tiny_checkpoint, capsys):
    line = refused(capsys, bench.main, "--checkpoint", tiny_checkpoint, "--peers", tiny_checkpoint)
    assert "--peers" in line and "--bundle" in line
    assert "no/such" in refused(capsys, bench.main, "--bundle", tiny_fused_bundle, "--peers", "no/such/folder/at all")
    assert "sizes" in refused(capsys, bench.main, "--bundle", tiny_fused_bundle, "--peers", DEMO)


@pytest.fixture
def small(monkeypatch):
    if why := native.unavailable():
        no_tool(f"the kernel cannot be timed here: {why}")
    for name, value in {"LENGTH": 40, "CHANNELS": 32, "LENGTHS": (16, 48), "RUNS": 1}.items():
        monkeypatch.setattr(bench_scan, name, value)


def test_the_scan_s_forms_are_compared_and_then_timed(small, tmp_path, capsys):
    assert bench_scan.main(["--plot", str(tmp_path / "plot.svg"), "--json", str(tmp_path / "scan.json")]) == 0
    report = json.loads((tmp_path / "scan.json").read_text())
    assert report == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(report["forms_s"]) == ["fused kernel", "plain C++ loop", "looped graph", "unrolled graph", "sequential"]
    assert list(report["lengths_s"]) == ["16", "48"]
    plot = (tmp_path / "plot.svg").read_text()
    assert plot.startswith("<svg") and plot.count("<circle") == 2


def test_a_form_that_computes_something_else_is_not_timed(small, monkeypatch, capsys):
    looped = bench_scan.selective_scan_looped
    monkeypatch.setattr(bench_scan, "selective_scan_looped", lambda *arguments: 1.01 * looped(*arguments))
    assert "looped graph" in refused(capsys, bench_scan.main)
