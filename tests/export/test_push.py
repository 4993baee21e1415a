"""`python -m export.push`: a bundle reaches the phone whole, or the user is told what to do. The phone is a folder behind stand-ins for
adb and xcrun that take the arguments of the real ones."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from export.push import ANDROID_FOLDER, IOS_FOLDER, main

ADB = """#!{python}
import json, os, pathlib, shutil, subprocess, sys
phone = pathlib.Path({phone!r})
arguments = sys.argv[1:]
with open(phone / "log", "a") as log:
    log.write(json.dumps(arguments) + "\\n")
if arguments == ["devices"]:
    print("List of devices attached")
    print((phone / "devices").read_text(), end="")
    sys.exit()
assert arguments[:2] == ["-s", "PIXEL"], arguments
where = lambda path: phone / path.lstrip("/")
if arguments[2] == "shell":
    here = arguments[3].replace("/sdcard", str(phone / "sdcard"))
    sys.exit(subprocess.run(["sh", "-c", here]).returncode)
assert arguments[2] == "push"
if (phone / "full").exists():
    print("adb: error: failed to copy: remote No space left on device", file=sys.stderr)
    sys.exit(1)
source, target = pathlib.Path(arguments[3]), where(arguments[4])
shutil.copytree(source, target / source.name if target.exists() else target)
"""
XCRUN = """#!{python}
import json, pathlib, shutil, sys
phone = pathlib.Path({phone!r})
arguments = sys.argv[1:]
assert arguments[0] == "devicectl"
if arguments[1:3] == ["list", "devices"]:
    states = json.loads((phone / "devices").read_text())
    found = [{{"identifier": name, "connectionProperties": {{"pairingState": state}}}} for name, state in states.items()]
    pathlib.Path(arguments[arguments.index("--json-output") + 1]).write_text(json.dumps({{"result": {{"devices": found}}}}))
    sys.exit()
assert arguments[1:4] == ["device", "copy", "to"]
options = dict(zip(arguments[4::2], arguments[5::2]))
assert options["--domain-type"] == "appDataContainer" and options["--domain-identifier"] == "org.mobilevideogpt.demo"
target = phone / options["--device"] / options["--destination"]
if options["--remove-existing-content"] == "true":
    shutil.rmtree(target, ignore_errors=True)
shutil.copytree(options["--source"], target)
"""


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The phone's files; the stand-ins are all that PATH has."""
    folder, tools = tmp_path / "phone", tmp_path / "tools"
    (folder / ANDROID_FOLDER.lstrip("/")).mkdir(parents=True)
    tools.mkdir()
    for name, script in (("adb", ADB), ("xcrun", XCRUN)):
        (tools / name).write_text(script.format(python=sys.executable, phone=str(folder)))
        (tools / name).chmod(0o755)
    (folder / "devices").write_text("PIXEL\tdevice\n")
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_executorch_bundle_reaches_the_app_whole_and_replaces_the_one_before(
    demo_bundle: Path, phone: Path, capsys: pytest.CaptureFixture
):
    target = phone / f"{ANDROID_FOLDER}/demo".lstrip("/")
    target.mkdir()
    (target / "old").write_text("")
    assert main([str(demo_bundle)]) == 0
    assert files(target) == files(demo_bundle) and list(target.parent.iterdir()) == [target]
    assert capsys.readouterr().out.startswith(f"PIXEL:{ANDROID_FOLDER}/demo\npin ")


def test_a_bundle_is_never_seen_in_part(demo_bundle: Path, phone: Path, capsys: pytest.CaptureFixture):
    target = phone / f"{ANDROID_FOLDER}/demo".lstrip("/")
    target.mkdir()
    (target / "old").write_text("")
    (phone / "full").write_text("")
    assert main([str(demo_bundle)]) == 2
    said = "(adb: error: failed to copy: remote No space left on device)"
    assert capsys.readouterr().err == f"error: the bundle cannot be copied to PIXEL {said}\n"
    assert [path.name for path in target.iterdir()] == ["old"]


def test_an_app_that_never_ran_is_said(demo_bundle: Path, phone: Path, capsys: pytest.CaptureFixture):
    (phone / ANDROID_FOLDER.lstrip("/")).rmdir()
    assert main([str(demo_bundle)]) == 2
    assert capsys.readouterr().err.startswith("error: PIXEL has no folder for the app: install it and start it once")
    assert not (phone / ANDROID_FOLDER.lstrip("/")).exists()


@pytest.mark.parametrize(
    ("devices", "arguments", "says"),
    [
        ("", [], "no phone is connected"),
        ("PIXEL\tunauthorized\n", [], "PIXEL is unauthorized: connect one by USB, unlock it, and allow USB debugging"),
        ("PIXEL\tdevice\nOTHER\tdevice\n", [], "2 phones are connected: name one with --device (PIXEL, OTHER)"),
        ("PIXEL\tdevice\nOTHER\tdevice\n", ["--device", "PIXEL"], None),
    ],
)
def test_which_phone(devices: str, arguments: list[str], says: str | None, demo_bundle: Path, phone: Path, capsys: pytest.CaptureFixture):
    (phone / "devices").write_text(devices)
    assert main([str(demo_bundle), *arguments]) == (2 if says else 0)
    error = capsys.readouterr().err
    assert (says in error and error.count("\n") == 1) if says else not error


def test_a_coreml_bundle_reaches_the_apps_documents(tiny_coreml_bundle: Path, phone: Path):
    (phone / "devices").write_text(json.dumps({"PHONE-1": "paired", "PHONE-2": "unpaired"}))
    for _ in range(2):  # the second takes the first one's place
        assert main([str(tiny_coreml_bundle)]) == 0
    assert files(phone / "PHONE-1" / IOS_FOLDER / tiny_coreml_bundle.name) == files(tiny_coreml_bundle)


def test_missing_tools_and_damaged_bundles_are_said(
    demo_bundle: Path, phone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    copy = shutil.copytree(demo_bundle, tmp_path / "copy")
    data = bytearray((copy / "decoder.pte").read_bytes())
    data[-1] ^= 1
    (copy / "decoder.pte").write_bytes(data)
    assert main([str(copy)]) == 2 and "decoder.pte: its contents are not those that were built" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 2 and "no such folder" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([str(demo_bundle)]) == 2
    assert capsys.readouterr().err == "error: there is no adb here: install Android's platform tools\n"
