import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export import bundle as b
from export import bundle_writer
from export.bundle_writer import BundleWriter
from export.errors import BundleError, one_line
from export.manifest import CHECKSUMS, MANIFEST_FILE, read_manifest
from tests.export.test_manifest import sample_manifest, signed

ROOT = Path(b.__file__).parents[1]
STAGES = {"frame_scores": np.arange(16, dtype=np.float32).reshape(2, 8), "greedy_ids": np.arange(24)}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def draft(**changes):
    """A manifest as a pipeline has it before the files are measured."""
    manifest = sample_manifest()
    graphs = {name: dataclasses.replace(graph, sha256="", bytes=0) for name, graph in manifest.graphs.items()}
    return dataclasses.replace(manifest, **{"graphs": graphs, "files": {}, "bundle_bytes": 0, "created": "", **changes})


def write_files(writer: BundleWriter) -> None:
    for name, graph in sample_manifest().graphs.items():
        if graph.file.endswith(".mlpackage"):
            writer.path(f"{graph.file}/Manifest.json").write_text("{}")
            writer.path(f"{graph.file}/Data/weights/weight.bin").write_bytes(b"w" * 300)
        else:
            writer.path(graph.file).write_bytes(name.encode() * 20)
    np.savez(writer.path("reference.npz"), **STAGES)
    writer.path("golden/ids.json").write_text("[1, 2]")


def build(out: Path, **changes):
    with BundleWriter(out) as writer:
        write_files(writer)
        return writer.commit(draft(**changes))


def files_in(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def flip(file: Path, keep_time: bool = False) -> None:
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    later = before.st_mtime_ns if keep_time else before.st_mtime_ns + 1
    os.utime(file, ns=(before.st_atime_ns, later))


# Writing


def test_a_bundle_comes_out_whole_and_measured(tmp_path):
    out = tmp_path / "new" / "bundle"
    manifest = build(out)
    assert manifest == read_manifest(out) == b.open_bundle(out).manifest
    assert list(tmp_path.iterdir()) == [tmp_path / "new"] and list((tmp_path / "new").iterdir()) == [out]
    assert manifest.graphs["decoder"].sha256 == hashlib.sha256(b"decoder" * 20).hexdigest()
    assert manifest.graphs["decoder"].bytes == 140
    assert manifest.graphs["video_encoder"].bytes == 302
    assert set(manifest.files) == {"reference.npz", "golden/ids.json"}
    counted = [file for file in files_in(out) if file not in (MANIFEST_FILE, CHECKSUMS, "README.md")]
    assert manifest.bundle_bytes == sum((out / file).stat().st_size for file in counted)
    assert manifest.created.endswith("Z")
    assert "Mobile-VideoGPT-0.5B" in (out / "README.md").read_text()


def test_a_folders_hash_is_that_of_sha256sums_listing(tmp_path):
    for name, content in {"b": b"1", "a/c": b"22", "a.x": b"333"}.items():
        (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / name).write_bytes(content)
    in_order = [("a.x", b"333"), ("a/c", b"22"), ("b", b"1")]
    listing = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in in_order)
    assert b.hash_path(tmp_path / "package") == (hashlib.sha256(listing.encode()).hexdigest(), 6)
    (tmp_path / "package" / ".DS_Store").write_bytes(b"the Finder was here")
    assert b.hash_path(tmp_path / "package")[1] == 6


def test_graphs_that_share_a_file_count_once(tmp_path):
    manifest = draft()
    shared = dataclasses.replace(manifest.graphs["token_embedding"], file=manifest.graphs["decoder"].file)
    with BundleWriter(tmp_path / "out") as writer:
        write_files(writer)
        writer.path("token_embedding.bin").unlink()
        manifest = writer.commit(dataclasses.replace(manifest, graphs=manifest.graphs | {"token_embedding": shared}))
    assert manifest.graphs["token_embedding"].sha256 == manifest.graphs["decoder"].sha256
    sizes = {graph.file: graph.bytes for graph in manifest.graphs.values()}
    assert manifest.bundle_bytes == sum(sizes.values()) + sum(entry.bytes for entry in manifest.files.values())
    b.open_bundle(tmp_path / "out")


@pytest.mark.parametrize("parent_exists", [True, False])
def test_an_error_leaves_nothing(tmp_path, parent_exists):
    out = tmp_path / "out" if parent_exists else tmp_path / "a" / "b" / "out"
    with pytest.raises(ZeroDivisionError), BundleWriter(out) as writer:
        write_files(writer)
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_leaving_without_commit_leaves_nothing(tmp_path):
    with BundleWriter(tmp_path / "out") as writer:
        write_files(writer)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_was_not_written_is_named(tmp_path):
    says = "graph frame_scorer: nothing was written to frame_scorer.bin"
    with pytest.raises(BundleError, match=says), BundleWriter(tmp_path / "out") as writer:
        write_files(writer)
        writer.path("frame_scorer.bin").unlink()
        writer.commit(draft())
    assert not list(tmp_path.iterdir())


def test_a_manifest_that_no_reader_would_take_is_not_written(tmp_path):
    with pytest.raises(BundleError, match="bits_per_weight must be 0 or more"):
        build(tmp_path / "out", bits_per_weight=-1.0)
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_replaced_and_nothing_else_is(tmp_path):
    out = tmp_path / "out"
    build(out)
    (out / "left from before").write_text("x")
    build(out, recipe="int8")
    assert read_manifest(out).recipe == "int8" and "left from before" not in files_in(out)
    assert list(tmp_path.iterdir()) == [out]

    (tmp_path / "empty").mkdir()
    build(tmp_path / "empty")
    assert b.open_bundle(tmp_path / "empty")

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("x")
    (tmp_path / "web app").mkdir()
    (tmp_path / "web app" / MANIFEST_FILE).write_text('{"name": "somebody else\'s", "icons": []}')
    (tmp_path / "file").write_text("x")
    for taken in ("photos", "web app", "file", "file/below", "."):
        with pytest.raises(BundleError, match="choose another folder"):
            BundleWriter(tmp_path / taken).__enter__()
    assert (tmp_path / "photos" / "one.jpg").exists()


def test_what_came_to_the_same_place_in_the_meantime_is_not_replaced(tmp_path):
    with pytest.raises(BundleError, match="cannot be written"), BundleWriter(tmp_path / "out") as writer:
        write_files(writer)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "one.jpg").write_text("x")
        writer.commit(draft())
    assert files_in(tmp_path) == ["out/one.jpg"]


def test_a_mount_point_is_refused_before_hours_of_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path)
    with pytest.raises(BundleError, match="choose another folder"):
        BundleWriter(tmp_path)
    build(tmp_path / "out")


def test_a_bundle_behind_a_link_is_replaced_where_it_is(tmp_path):
    build(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    build(tmp_path / "link", recipe="int8")
    assert (tmp_path / "link").is_symlink() and read_manifest(tmp_path / "real").recipe == "int8"


def test_the_old_bundle_stays_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    out = tmp_path / "out"
    build(out)
    rename = Path.rename

    def fails_for_the_new(self, target):
        if ".partial-" in self.name:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new)
    with pytest.raises(BundleError, match="cannot be written"):
        build(out, recipe="int8")
    assert b.open_bundle(out, verify=True).manifest.recipe == "int4"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    if os.geteuid() == 0:  # root may write anywhere: let the kernel's refusal be played
        mkdir = Path.mkdir

        def refused(self, *args, **kwargs):
            if self.parent == tmp_path:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
            mkdir(self, *args, **kwargs)

        monkeypatch.setattr(Path, "mkdir", refused)
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(BundleError, match=r"cannot be written \(Permission denied\): choose another folder") as caught:
        build(tmp_path / "out")
    assert "\n" not in str(caught.value)


CHILD = """
import os, signal, sys, time
from export.bundle_writer import BundleWriter
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the test runner inherited
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with BundleWriter(sys.argv[1]) as writer:
    writer.path("decoder.bin").write_bytes(b"x" * 1000)
    print("writing", flush=True)
    time.sleep(60)
"""


def interrupted_child(out: Path, number: int) -> subprocess.Popen:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(out)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "writing\n"
    child.send_signal(number)
    child.communicate(timeout=30)
    return child


def test_kill_9_leaves_no_bundle_and_the_next_build_cleans_up(tmp_path):
    out = tmp_path / "bundle [1]"
    interrupted_child(out, signal.SIGKILL)
    assert not out.exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".bundle [1].partial-")
    with BundleWriter(out):
        assert not left.exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing(tmp_path, number):
    child = interrupted_child(tmp_path / "parent" / "out", number)
    assert child.returncode in (128 + number, -number)
    assert not list(tmp_path.iterdir())


def test_the_work_of_a_living_build_is_not_cleaned_away(tmp_path):
    with BundleWriter(tmp_path / "out") as first:
        write_files(first)
        with BundleWriter(tmp_path / "out"):
            first.commit(draft())
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    foreign = tmp_path / f".out.partial-{other.pid}-0a0a0a0a"
    foreign.mkdir()
    build(tmp_path / "out")
    assert foreign.exists()
    other.communicate(b"\n")
    build(tmp_path / "out")
    assert not foreign.exists()


def test_what_a_namesake_of_this_process_left_is_cleaned_up(tmp_path):
    left = tmp_path / f".out.partial-{os.getpid()}-0a0a0a0a"  # pid 7 in each run of a container
    left.mkdir()
    build(tmp_path / "out")
    assert not left.exists()


def test_a_bundle_caught_between_the_two_renames_comes_back(tmp_path):
    build(tmp_path / "out")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "out").rename(tmp_path / f".out.old-{dead.pid}-0a0a0a0a")
    with BundleWriter(tmp_path / "out"):
        assert b.open_bundle(tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_second_ctrl_c_does_not_stop_the_clean_up(tmp_path, monkeypatch):
    remove = shutil.rmtree

    def removed_by_the_impatient(path, ignore_errors):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        remove(path, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", removed_by_the_impatient)
    with pytest.raises(KeyboardInterrupt), BundleWriter(tmp_path / "out") as writer:
        write_files(writer)
        signal.raise_signal(signal.SIGINT)
    assert not list(tmp_path.iterdir())


def test_signals_are_given_back(tmp_path):
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in watched]
    build(tmp_path / "out")
    assert [signal.getsignal(number) for number in watched] == before
    mine = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with BundleWriter(tmp_path / "out"):
            assert signal.getsignal(signal.SIGTERM) is not bundle_writer._end
    finally:
        signal.signal(signal.SIGTERM, mine)


def test_a_disk_without_the_space_is_refused_up_front(tmp_path):
    writer = BundleWriter(tmp_path / "not" / "there" / "yet")
    writer.need_space(1)
    with pytest.raises(BundleError) as caught:
        writer.need_space(10**18)
    assert str(tmp_path) in str(caught.value) and "1,000,000,000,000,000,000" in str(caught.value)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    """On a real 64 KiB disk where this user may mount one, else on one that is played."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)]
    mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        if not mounted:

            def full(self, data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

            monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(BundleError) as caught, BundleWriter(disk / "out") as writer:
            writer.path("decoder.bin").write_bytes(b"x" * 1_000_000)
        assert str(disk) in str(caught.value) and "no space left (" in str(caught.value) and "bytes were free)" in str(caught.value)
        assert len(one_line(caught.value)) < 300
        assert not list(disk.iterdir())
        if mounted:  # full while committing: the files fit, the manifest does not
            with pytest.raises(BundleError, match="no space left"), BundleWriter(disk / "out") as writer:
                write_files(writer)
                writer.path("golden/padding.bin").write_bytes(b"x" * shutil.disk_usage(disk).free)
                writer.commit(draft())
            assert not list(disk.iterdir())
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)


# Reading


def every_file(folder: Path) -> list[str]:
    return [file for file in files_in(folder) if file not in ("README.md", CHECKSUMS)]


def test_a_flipped_byte_in_any_file_is_found(tmp_path):
    out = tmp_path / "out"
    build(out)
    for file in every_file(out):
        original = (out / file).read_bytes()
        flip(out / file)
        with pytest.raises(BundleError) as caught:
            b.open_bundle(out)
        named = file.split(".mlpackage")[0]
        assert named in str(caught.value) and "build the bundle again or copy it anew" in str(caught.value), file
        (out / file).write_bytes(original)
        b.open_bundle(out)


def test_a_flipped_byte_is_found_after_a_load_that_was_good(tmp_path):
    out = tmp_path / "out"
    build(out)
    for file in every_file(out):
        b.open_bundle(out)
        flip(out / file)
        with pytest.raises(BundleError):
            b.open_bundle(out)
        flip(out / file)


def test_another_file_of_the_same_size_and_time_is_found(tmp_path):
    out = tmp_path / "out"
    build(out)
    b.open_bundle(out)
    other = tmp_path / "other"
    other.write_bytes(b"DECODER" * 20)
    time = (out / "decoder.bin").stat().st_mtime_ns
    os.utime(other, ns=(time, time))
    other.replace(out / "decoder.bin")
    with pytest.raises(BundleError, match="decoder.bin: its contents"):
        b.open_bundle(out)


def test_verify_hashes_whatever_the_stamp_says(tmp_path):
    out = tmp_path / "out"
    build(out)
    b.open_bundle(out)
    flip(out / "decoder.bin", keep_time=True)
    b.open_bundle(out)  # what size, time and inode cannot show
    with pytest.raises(BundleError, match="decoder.bin: its contents are not those that were built"):
        b.open_bundle(out, verify=True)


WEIGHT_OF_A_PACKAGE = "packages/video_encoder.mlpackage/Data/weights/weight.bin"


@pytest.mark.parametrize("file", ["decoder.bin", WEIGHT_OF_A_PACKAGE, "reference.npz", "golden/ids.json"])
def test_a_missing_and_a_short_file_are_named(tmp_path, file):
    out = tmp_path / "out"
    build(out)
    b.open_bundle(out)
    (out / file).write_bytes((out / file).read_bytes()[:-1])
    with pytest.raises(BundleError, match="bytes where .* were built: build the bundle again"):
        b.open_bundle(out)
    (out / file).unlink()
    with pytest.raises(BundleError) as caught:
        b.open_bundle(out)
    assert file.split("/Data")[0] in str(caught.value)


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """The names of the files that were hashed."""
    names = []
    real = hashlib.file_digest

    def spy(file, algorithm):
        names.append(Path(file.name).name)
        return real(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", spy)
    return names


def test_a_second_load_reads_no_graph(tmp_path, hashed):
    out = tmp_path / "out"
    build(out)
    hashed.clear()
    b.open_bundle(out)
    assert sorted(hashed) == sorted(Path(file).name for file in every_file(out) if file != MANIFEST_FILE)
    hashed.clear()
    b.open_bundle(out)
    b.open_bundle(os.path.relpath(out))  # the same folder by another name
    assert hashed == []
    b.open_bundle(out, verify=True)
    assert len(hashed) == len(every_file(out)) - 1


def test_a_copy_a_rebuild_and_a_spoilt_stamp_are_hashed(tmp_path, hashed, cache):
    out = tmp_path / "out"
    build(out)
    b.open_bundle(out)
    hashed.clear()
    out.rename(tmp_path / "moved")
    b.open_bundle(tmp_path / "moved")
    assert hashed
    build(out, recipe="int8")
    hashed.clear()
    b.open_bundle(out)
    assert hashed
    for stamp in cache.rglob("*.json"):
        stamp.write_text("{")
    hashed.clear()
    b.open_bundle(out)
    assert hashed


def test_the_bundle_itself_is_not_written_to(tmp_path):
    out = tmp_path / "out"
    build(out)
    before = {file: (out / file).stat().st_mtime_ns for file in files_in(out)}
    b.open_bundle(out)
    assert {file: (out / file).stat().st_mtime_ns for file in files_in(out)} == before


@pytest.mark.parametrize("home", ["/dev/null", "relative"])
def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch, hashed, home):
    build(tmp_path / "out")
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        hashed.clear()
        b.open_bundle(tmp_path / "out")
        assert hashed
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_bundle_that_nobody_verified_warns_once(tmp_path, capsys):
    build(tmp_path / "good")
    b.open_bundle(tmp_path / "good")
    assert capsys.readouterr().err == ""
    build(tmp_path / "hasty", verified=False)
    b.open_bundle(tmp_path / "hasty")
    b.open_bundle(tmp_path / "hasty")
    out, err = capsys.readouterr()
    assert out == "" and err.count("warning:") == 1 and "--no-verify" in err and "hasty" in err


def test_paths_graphs_and_reference_stages(tmp_path):
    build(tmp_path / "out")
    bundle = b.open_bundle(tmp_path / "out")
    assert bundle.graph_path("video_encoder").is_dir() and bundle.graph_path("decoder").is_file()
    assert bundle.path("golden/ids.json").read_text() == "[1, 2]"
    reference = bundle.reference()
    assert reference.keys() == STAGES.keys() and all((reference[name] == STAGES[name]).all() for name in STAGES)
    with pytest.raises(BundleError, match="has no tokenizer.json; it has decoder.bin"):
        bundle.path("tokenizer.json")
    with pytest.raises(BundleError, match="there is no graph 'audio'"):
        bundle.graph_path("audio")


@pytest.mark.parametrize("content", [b"", b"no zip", np.array([{}])])
def test_a_reference_that_holds_no_arrays_is_refused(tmp_path, content):
    with BundleWriter(tmp_path / "out") as writer:
        write_files(writer)
        if isinstance(content, bytes):
            writer.path("reference.npz").write_bytes(content)
        else:
            np.savez(writer.path("reference.npz"), pickled=content)
        writer.commit(draft())
    with pytest.raises(BundleError, match="reference.npz: cannot be read as arrays"):
        b.open_bundle(tmp_path / "out").reference()


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    build(tmp_path / "out")

    def refused(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(b, "hash_path", refused)
    with pytest.raises(BundleError, match=r"image_encoder.bin: cannot be read \(Permission denied\)"):
        b.open_bundle(tmp_path / "out")


def test_a_manifest_cannot_send_the_reader_out_of_the_bundle(tmp_path):
    build(tmp_path / "out")
    (tmp_path / "secret").write_bytes(b"decoder" * 20)
    path = tmp_path / "out" / MANIFEST_FILE
    data = json.loads(path.read_text())
    data["graphs"]["decoder"]["file"] = "../secret"
    path.write_text(json.dumps(signed(data)))
    with pytest.raises(BundleError, match="inside the bundle"):
        b.open_bundle(tmp_path / "out")
