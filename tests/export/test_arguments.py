"""Options: those of another target, wrong values, abbreviations, and those that commands share."""

import pytest

from export import build
from export.checkpoint import Checkpoint
from runtime_py import bench, chat, dump, parity


def refused(main, capsys, *arguments: str) -> str:
    """The one line on stderr of a command that fails with exit code 2."""
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    "arguments",
    [
        ["--target", "executorch", "--deployment", "iOS18"],
        ["--target", "coreml", "--kernels", "fused"],
        ["--target", "coreml", "--delegate", "coreml"],
    ],
)
def test_an_option_of_another_target_is_refused(arguments, monkeypatch, capsys):
    monkeypatch.setattr("export.checkpoint.open_checkpoint", lambda *_: pytest.fail("the checkpoint was opened"))
    assert "leave" in refused(build.main, capsys, *arguments, "--dry-run")


@pytest.mark.parametrize("option, value", [("--deployment", "iOS12"), ("--min-accuracy", "high"), ("--max-kl", "low")])
def test_a_wrong_value_of_such_an_option_is_one_line(option, value, capsys):
    assert option in refused(build.main, capsys, "--target", "executorch", option, value)


@pytest.mark.parametrize("main, abbreviation", [(build.main, "--dry"), (chat.main, "--prom"), (bench.main, "--run")])
def test_an_abbreviation_is_no_option(main, abbreviation, monkeypatch, capsys):
    monkeypatch.setattr(Checkpoint, "load", lambda *_, **__: pytest.fail("weights were read"))
    required = {
        build.main: ["--target", "executorch"],
        chat.main: ["--bundle", "none", "--video", "none.mp4"],
        bench.main: ["--bundle", "none"],
    }
    assert abbreviation in refused(main, capsys, *required[main], abbreviation)


@pytest.mark.parametrize("main", [build.main, chat.main, bench.main, dump.main, parity.main])
def test_every_command_says_where_missing_weights_come_from(main, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for option in ("--clip", "--videomamba", "--base"):
        assert option in text
