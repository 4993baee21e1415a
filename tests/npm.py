"""Packages of npm that tests read or run, at exact versions, in the ignored folder `build/npm`."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

from tests.kernels.driver import no_tool

FOLDER = Path(__file__).parents[1] / "build" / "npm"
OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-save")
LIMIT_S = 300


def npm_package(name: str, version: str) -> Path:
    """The package's folder, fetched once for all processes of a test run. Skips the test, or fails it in continuous integration, where it
    cannot be had."""
    folder = FOLDER / f"{name.replace('/', '-')}-{version}"
    home = folder / "node_modules" / name
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / "lock"):
        if not home.is_dir():
            _fetch(f"{name}@{version}", folder)
    return home


def _fetch(package: str, folder: Path) -> None:
    """Install into a folder of its own that is renamed when it is whole."""
    npm = shutil.which("npm")
    if not npm:
        no_tool(f"{package} comes from npm: apt-get install npm")
    with tempfile.TemporaryDirectory(dir=FOLDER) as temporary:
        new = Path(temporary, folder.name)
        new.mkdir()
        command = [npm, "install", *OPTIONS, "--prefix", str(new), package]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        if ran.returncode:
            no_tool(f"npm cannot fetch {package}: {ran.stderr.strip()[-300:]}")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
