"""`python -m export.push BUNDLE`: copy a bundle to the phone that is connected, where the demo app finds it.

    python -m export.push bundles/demo                       # an executorch bundle by adb, a coreml one by devicectl
    python -m export.push bundles/demo --device R58M123ABC   # where several phones are connected

Android: `adb` of the platform tools, USB debugging allowed on the phone, the app started once. iOS: Xcode's `devicectl`, the phone
paired, the app installed; the bundle goes to the app's documents, where the Files app shows it too. Every hash is checked before anything
is copied.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from export.arguments import ArgumentParser
from export.bundle import Bundle, open_bundle, pin
from export.errors import DeviceError, command, one_line

ANDROID_APP = "org.mobilevideogpt.demo"  # android_demo/app/build.gradle.kts
IOS_APP = "org.mobilevideogpt.demo"  # ios_demo/project.yml
ANDROID_FOLDER = f"/sdcard/Android/data/{ANDROID_APP}/files/bundles"
IOS_FOLDER = "Documents/bundles"


def push_android(bundle: Bundle, device: str | None) -> str:
    """Copy to a hidden folder and rename it when all is there, so that the app never sees half a bundle; the place on the phone.

    Raises:
        DeviceError: adb is missing, no phone or more than one is connected, or the phone refuses.
    """
    adb = _tool("adb", "install Android's platform tools")
    serials = re.findall(r"^(\S+)\t(\S+)", _run([adb, "devices"], "adb lists no devices"), re.MULTILINE)
    ready = [serial for serial, state in serials if state == "device"]
    if device is None and not ready:
        waiting = f"{serials[0][0]} is {serials[0][1]}" if serials else "no phone is connected"
        raise DeviceError(f"{waiting}: connect one by USB, unlock it, and allow USB debugging")
    phone = _chosen(device, ready)
    target = f"{ANDROID_FOLDER}/{bundle.folder.name}"
    partial = f"{ANDROID_FOLDER}/.{bundle.folder.name}.partial"
    shell = [adb, "-s", phone, "shell"]
    quoted = {"folder": shlex.quote(ANDROID_FOLDER), "target": shlex.quote(target), "partial": shlex.quote(partial)}
    # The app makes its folder; one that is made from here may be closed to it.
    no_folder = f"{phone} has no folder for the app: install it and start it once"
    _run([*shell, "test -d {folder} && rm -rf {partial}".format(**quoted)], no_folder)
    _run([adb, "-s", phone, "push", str(bundle.folder), partial], f"the bundle cannot be copied to {phone}")
    _run([*shell, "rm -rf {target} && mv {partial} {target}".format(**quoted)], f"the bundle cannot be put in place on {phone}")
    return f"{phone}:{target}"


def push_ios(bundle: Bundle, device: str | None) -> str:
    """Copy into the app's documents; the place on the phone.

    Raises:
        DeviceError: Xcode is missing, no phone or more than one is connected, or the phone refuses.
    """
    xcrun = _tool("xcrun", "bundles go to an iPhone from a Mac with Xcode; without one, copy the folder with the Files app")
    phone = _chosen(device, _ios_devices(xcrun))
    target = f"{IOS_FOLDER}/{bundle.folder.name}"
    copy = [xcrun, "devicectl", "device", "copy", "to", "--device", phone, "--domain-type", "appDataContainer"]
    copy += ["--domain-identifier", IOS_APP, "--source", str(bundle.folder), "--destination", target, "--remove-existing-content", "true"]
    _run(copy, f"the bundle cannot be copied to {phone}: is the app installed there, and the phone unlocked")
    return f"{phone}:{target}"


def _ios_devices(xcrun: str) -> list[str]:
    """Identifiers of the paired phones."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "devices.json"
        _run([xcrun, "devicectl", "list", "devices", "--json-output", str(file)], "devicectl lists no devices")
        try:
            found = json.loads(file.read_text())["result"]["devices"]
            return [one["identifier"] for one in found if one["connectionProperties"].get("pairingState") == "paired"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DeviceError(f"devicectl's list of devices cannot be read ({one_line(error)}): name one with --device") from error


def _chosen(device: str | None, found: list[str]) -> str:
    if device is not None:
        return device
    if not found:
        raise DeviceError("no phone is connected: connect one, unlock it, and trust this computer")
    if len(found) > 1:
        raise DeviceError(f"{len(found)} phones are connected: name one with --device ({', '.join(found)})")
    return found[0]


def _tool(name: str, remedy: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise DeviceError(f"there is no {name} here: {remedy}")
    return path


def _run(arguments: list[str], failed: str) -> str:
    """What a tool prints. Raises DeviceError with its own last line where it fails."""
    done = subprocess.run(arguments, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise DeviceError(f"{failed} ({said[-1].strip() if said else f'exit code {done.returncode}'})")
    return done.stdout


@command
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m export.push", description=__doc__)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the folder that export.build wrote")
    parser.add_argument("--device", metavar="ID", help="the phone's serial (adb devices) or identifier (xcrun devicectl list devices)")
    args = parser.parse_args(argv)
    bundle = open_bundle(args.bundle.resolve(), verify=True)
    push = {"executorch": push_android, "coreml": push_ios}.get(bundle.manifest.target)
    if push is None:
        loaded = "the apps load executorch bundles (Android) and coreml ones (iOS)"
        raise DeviceError(f"{args.bundle} is a bundle for {bundle.manifest.target}: {loaded}")
    print(f"{push(bundle, args.device)}\npin {pin(bundle.folder)}")


if __name__ == "__main__":
    sys.exit(main())
