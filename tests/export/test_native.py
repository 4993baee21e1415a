"""Building and loading the kernels: what is compiled when, where it is kept, and what is said where it cannot be."""

import errno
import os
import shutil
import threading
import time
import types
from pathlib import Path

import pytest
import torch

import export.ops.causal_conv
import export.ops.selective_scan.fused  # noqa: F401  (both define their operators)
from export.errors import BackendError
from export.executorch_runtime import operator_names
from export.ops import native
from tests.kernels.driver import no_tool

COMPILER = """#!/bin/sh
# Stands for a compiler: predefines one macro, and takes a moment to write a file.
case "$*" in *-dM*) echo "#define VERSION ${FAKE_VERSION:-1}"; exit 0;; esac
echo "$*" >> "$0.log"
[ -z "$FAKE_ERROR" ] || { printf "$FAKE_ERROR" >&2; exit 1; }
/bin/sleep 0.2
while [ $# -gt 0 ]; do [ "$1" != -o ] || printf "the library" > "$2"; shift; done
"""
KERNELS_LOST = "bundles of --kernels fused can be neither checked nor run in Python here; stock ones can, they are slower"


@pytest.fixture
def folders(tmp_path, monkeypatch) -> list[Path]:
    """Where builds go, in place of the checkout's and the user's folder."""
    folders = [tmp_path / "beside", tmp_path / "user"]
    monkeypatch.setattr(native, "cache_folders", lambda: folders)
    return folders


@pytest.fixture
def compiles(tmp_path, monkeypatch, folders):
    """A compiler that is quick; the calls that it got to compile with."""
    script = tmp_path / "fake-c++"
    script.write_text(COMPILER)
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    log = Path(f"{script}.log")
    return lambda: log.read_text().splitlines() if log.exists() else []


def one_line(text: str) -> str:
    text = text.removesuffix("\n")
    assert text and "\n" not in text, text
    return text


class TestLibrary:
    def test_it_is_compiled_once(self, compiles, folders):
        path = native.library()
        assert path.parent == folders[0] and path.read_text() == "the library"
        assert native.library() == path
        assert len(compiles()) == 1 and list(folders[0].iterdir()) == [path]

    def test_another_compiler_version_builds_another(self, compiles, monkeypatch):
        first = native.library()
        monkeypatch.setenv("FAKE_VERSION", "2")
        assert native.library() != first and first.exists()
        assert len(compiles()) == 2

    @pytest.mark.parametrize("edited", ["operators.cpp", "vectors.h", "selective_scan/kernel.h"])
    def test_edited_sources_build_another(self, compiles, monkeypatch, tmp_path, edited):
        sources = tmp_path / "sources"
        shutil.copytree(native.SOURCES, sources, ignore=shutil.ignore_patterns("build", "__pycache__"))
        monkeypatch.setattr(native, "SOURCES", sources)
        first = native.library()
        with open(sources / edited, "a") as file:
            file.write("// edited\n")
        assert native.library() != first

    def test_other_package_versions_build_another(self, compiles, monkeypatch):
        first = native.library()
        monkeypatch.setattr("importlib.metadata.version", lambda package: "0.0")
        assert native.library() != first

    def test_builders_at_the_same_time_do_not_disturb_each_other(self, compiles, folders):
        found: list[str] = []
        threads = [threading.Thread(target=lambda: found.append(native.library().read_text())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == ["the library"] * 4 and len(list(folders[0].iterdir())) == 1

    def test_a_build_that_fails_leaves_nothing(self, compiles, folders, monkeypatch):
        monkeypatch.setenv("FAKE_ERROR", "In file included from x:\\noperators.cpp:3:10: fatal error: boom\\ncompilation terminated.\\n")
        with pytest.raises(BackendError) as refusal:
            native.library()
        assert "operators.cpp:3:10: fatal error: boom" in one_line(str(refusal.value)) and "CXX" in str(refusal.value)
        assert list(folders[0].iterdir()) == []

    def test_where_the_first_folder_cannot_be_written_the_second_serves(self, compiles, folders):
        folders[0].write_text("a file")
        assert native.library().parent == folders[1]
        assert native.library().parent == folders[1] and len(compiles()) == 1

    def test_no_folder_is_one_line(self, compiles, folders):
        for folder in folders:
            folder.write_text("a file")
        with pytest.raises(BackendError, match="XDG_CACHE_HOME") as refusal:
            native.library()
        assert all(str(folder) in one_line(str(refusal.value)) for folder in folders)

    def test_a_full_disk_is_one_line(self, compiles, folders, monkeypatch):
        monkeypatch.setenv("FAKE_ERROR", f"fatal error: error writing to /tmp/x.s: {os.strerror(errno.ENOSPC)}\\n")
        with pytest.raises(BackendError, match="no space left") as refusal:
            native.library()
        assert str(folders[0]) in one_line(str(refusal.value)) and not folders[1].exists()

    def test_old_builds_beside_the_sources_are_removed(self, compiles, folders, monkeypatch, tmp_path):
        sources = tmp_path / "sources"
        shutil.copytree(native.SOURCES, sources, ignore=shutil.ignore_patterns("build", "__pycache__"))
        monkeypatch.setattr(native, "SOURCES", sources)
        folders[0] = sources / "build"
        for folder in folders:
            (folder / "making-killed").mkdir(parents=True)
            for name in ("operators-old.so", "operators-recent.so", "of-somebody-else"):
                (folder / name).touch()
            for name in ("operators-old.so", "making-killed", "of-somebody-else"):
                os.utime(folder / name, (time.time() - native.KEPT_S - 60,) * 2)
        path = native.library()
        assert {path.name for path in folders[0].iterdir()} == {path.name, "operators-recent.so", "of-somebody-else"}
        assert len(list(folders[1].iterdir())) == 4  # the user's, which other checkouts may be using


class TestUnavailable:
    def test_here_it_agrees_with_the_build(self, folders):
        if native.unavailable():
            with pytest.raises(BackendError):
                native.library()
        else:
            assert native.library().stat().st_size > 10_000

    def test_nothing_is_built(self, compiles, folders):
        assert native.unavailable() is None
        assert compiles() == [] and not folders[0].exists()

    def test_no_compiler(self, folders, monkeypatch, tmp_path):
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert "install g++" in one_line(native.unavailable())
        with pytest.raises(BackendError, match="install g\\+\\+"):
            native.library()

    def test_a_compiler_without_cpp20(self, folders, monkeypatch):
        monkeypatch.setenv("CXX", "false --old")
        assert "$CXX is false --old" in one_line(native.unavailable())

    @pytest.mark.parametrize("package", ["executorch", "torch"])
    def test_no_package(self, monkeypatch, package):
        real = native.importlib.util.find_spec
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else real(name))
        assert package in one_line(native.unavailable()) and "pip install" in native.unavailable()
        with pytest.raises(BackendError, match=package):
            native.load()

    def test_a_package_without_headers(self, monkeypatch, tmp_path):
        real = native.importlib.util.find_spec
        (tmp_path / "executorch").mkdir()
        spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path / "executorch")])
        monkeypatch.setattr("importlib.util.find_spec", lambda name: spec if name == "executorch" else real(name))
        assert "wheel" in one_line(native.unavailable())


class TestCommand:
    def test_it_prints_where_the_library_is(self, compiles, capsys):
        assert native.main([]) == 0
        assert one_line(capsys.readouterr().out) == f"kernels: {native.library()}"

    @pytest.mark.parametrize("trouble", ["no compiler", "broken compiler"])
    def test_where_there_is_none_it_says_what_is_lost(self, compiles, monkeypatch, capsys, trouble):
        if trouble == "no compiler":
            monkeypatch.setenv("CXX", "no-such-compiler")
        else:
            monkeypatch.setenv("FAKE_ERROR", "x.h:1: error: boom\\n")
        assert native.main(["--optional"]) == 0
        printed = capsys.readouterr()
        assert KERNELS_LOST in one_line(printed.out) and printed.err == ""
        assert native.main([]) == 2
        printed = capsys.readouterr()
        assert KERNELS_LOST in one_line(printed.err) and printed.err.startswith("error: ") and printed.out == ""

    def test_a_wrong_option_is_one_line(self, capsys):
        assert native.main(["--optonal"]) == 2
        assert "--help" in one_line(capsys.readouterr().err)


class TestLoad:
    @pytest.fixture
    def loaded(self) -> None:
        if reason := native.unavailable():
            no_tool(f"the kernels cannot be loaded here: {reason}")
        native.load()

    def test_it_registers_what_pytorch_knows_by_the_same_names(self, loaded):
        assert native.operators() <= operator_names()
        for name in native.operators():
            space, _, rest = name.partition("::")
            operator, _, overload = rest.partition(".")
            assert overload in getattr(getattr(torch.ops, space), operator).overloads()

    def test_again_and_from_threads_it_does_nothing(self, loaded, monkeypatch):
        def never() -> Path:
            raise AssertionError("a second registration would abort the process")

        monkeypatch.setattr(native, "library", never)
        threads = [threading.Thread(target=native.load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        native.load()

    def test_a_part_of_the_operators_is_refused(self, loaded, monkeypatch):
        names = native.operators() | {"mobile_videogpt::new.out"}
        monkeypatch.setattr(native, "operators", lambda: names)
        with pytest.raises(BackendError, match="another version"):
            native.load()

    def test_a_damaged_library_is_one_line(self, monkeypatch, tmp_path):
        monkeypatch.setattr(native, "operators", lambda: {"mobile_videogpt::new.out"})
        monkeypatch.setattr(native, "library", lambda: tmp_path / "damaged.so")
        (tmp_path / "damaged.so").write_text("not a library")
        with pytest.raises(BackendError, match="delete it") as refusal:
            native.load()
        one_line(str(refusal.value))

    def test_a_library_that_registers_nothing_is_one_line(self, monkeypatch):
        monkeypatch.setattr(native, "operators", lambda: {"mobile_videogpt::new.out"})
        monkeypatch.setattr(native, "library", lambda: native.find_packages().runtime)  # loads, and is there already
        with pytest.raises(BackendError, match="did not register") as refusal:
            native.load()
        one_line(str(refusal.value))
