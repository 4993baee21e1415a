"""A real Swift compiler for Linux: Debian trixie's package `swiftlang`, unpacked into a folder of its own and run inside it.

Nothing is installed on the machine: apt keeps a state of its own in `build/swift/`, the packages are unpacked there, and a command runs
with that folder as its root, in a mount namespace that ends with it. That takes root, and a Debian whose mirror also has trixie.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tests.kernels.driver import no_tool

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "build" / "swift"  # git ignores it, `make clean` removes it
SUITE = "trixie"
VERSION = "6.0.3"
PACKAGES = ("swiftlang", "libc6-dev", "libstdc++-14-dev", "bash", "dash", "coreutils")
COMMANDS = ("apt-get", "dpkg-deb", "tar", "unshare", "mount", "chroot")
MERGED = ("bin", "sbin", "lib", "lib64")  # links into /usr, which the packages expect
SOURCES = Path("/etc/apt")
UNPACK_LIMIT_S, LIMIT_S = 1500, 1800


@dataclass(frozen=True)
class Swift:
    """The compiler. `root` is what a command sees as `/`."""

    root: Path

    def run(
        self, *command: object, mounts: Mapping[str, Path], env: Mapping[str, str] | None = None, limit_s: float = LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; `mounts`: folders of this machine by the absolute paths under which it sees them. It works in the first."""
        return subprocess.run(self._wrapped(command, mounts, env or {}), capture_output=True, text=True, timeout=limit_s)

    def start(self, *command: object, mounts: Mapping[str, Path], env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """The same, not waited for; its output is one text."""
        return subprocess.Popen(
            self._wrapped(command, mounts, env or {}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def _wrapped(self, command: tuple[object, ...], mounts: Mapping[str, Path], env: Mapping[str, str]) -> list[str]:
        root, lines = shlex.quote(str(self.root)), ["set -e", "mount --make-rprivate /"]
        for place, folder in {"/proc": Path("/proc"), "/dev": Path("/dev"), **mounts}.items():
            inside = shlex.quote(f"{self.root}{place}")
            lines += [f"mkdir -p {inside}", f"mount --rbind {shlex.quote(str(folder.resolve()))} {inside}"]
        # Swift's own backtraces wait for ever where a process ends while it crashes.
        quiet = {"HOME": "/tmp", "LANG": "C.UTF-8", "SWIFT_BACKTRACE": "enable=no"}
        settings = quiet | {"PATH": "/usr/libexec/swift/bin:/usr/bin:/bin"} | dict(env)
        inner = " ".join(shlex.quote(part) for part in ["env", "-i", *(f"{k}={v}" for k, v in settings.items()), *map(str, command)])
        work = f"cd {shlex.quote(next(iter(mounts)))} && exec {inner}"
        lines.append(f"exec chroot {root} /bin/bash -c {shlex.quote(work)}")
        # The mounts are the namespace's, and it ends with its last process: with the command, or with this one.
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", "\n".join(lines)]


def swift() -> Swift:
    """The compiler, fetched and unpacked the first time. Skips the test, or fails it in continuous integration, where it cannot be had."""
    if os.geteuid():
        no_tool("Swift is unpacked and run in a folder of its own, and that takes root")
    if missing := [command for command in COMMANDS if not shutil.which(command)]:
        no_tool(f"Swift comes from Debian's packages, and this machine has no {missing[0]}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / "lock"):
        root = FOLDER / _name() / "root"
        if not root.is_dir():
            _unpack(root)
    return Swift(root)


def _name() -> str:
    """Another list of packages is another folder."""
    return hashlib.sha256(" ".join((SUITE, VERSION, *PACKAGES)).encode()).hexdigest()[:12]


def _unpack(root: Path) -> None:
    part = root.with_name("root.part")
    shutil.rmtree(root.parent, ignore_errors=True)  # of a run that was interrupted
    part.mkdir(parents=True)
    for name in MERGED:
        (part / "usr" / name).mkdir(parents=True)
        (part / name).symlink_to(f"usr/{name}")
    for archive in _download(root.parent / "apt"):
        tar = ("tar", "--extract", "--directory", part, "--keep-directory-symlink")
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as packed:
            unpacked = subprocess.run(tar, stdin=packed.stdout, capture_output=True, text=True, timeout=UNPACK_LIMIT_S)
        assert unpacked.returncode == 0 and packed.returncode == 0, f"{archive.name}: {unpacked.stderr}"
    for folder in ("tmp", "proc", "dev"):
        (part / folder).mkdir(exist_ok=True)
    (part / "tmp").chmod(0o1777)
    compiler = Swift(part).run("swift", "--version", mounts={"/mnt": REPOSITORY / "ios_demo"})
    if VERSION not in compiler.stdout:
        no_tool(f"Debian's package is not Swift {VERSION}: {compiler.stdout} {compiler.stderr}")
    shutil.rmtree(root.parent / "apt")
    part.rename(root)


def _download(state: Path) -> list[Path]:
    """Debian's archives of the packages and of all that they need, none of which counts as installed."""
    for folder in ("lists/partial", "cache/archives/partial", "log"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text(_source() + "\n")
    options = {
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": "-",
        "Dir::Etc::preferencesparts": "-",
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Log": state / "log",
        "APT::Sandbox::User": "root",
        "APT::Update::Post-Invoke": "",
        "APT::Update::Post-Invoke-Success": "",
    }
    apt = ["apt-get", "--quiet", "--yes", *(f"-o{name}={value}" for name, value in options.items())]
    for command in (["update"], ["install", "--download-only", "--no-install-recommends", *PACKAGES]):
        try:
            ran = subprocess.run([*apt, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=UNPACK_LIMIT_S)
        except subprocess.TimeoutExpired:
            no_tool("Debian's mirror takes too long to give Swift")
        if ran.returncode or (command == ["update"] and not list((state / "lists").glob("*Packages*"))):
            no_tool(f"Debian's mirror does not give Swift: {' '.join((ran.stderr or ran.stdout).split())[-400:]}")
    return sorted((state / "cache" / "archives").glob("*.deb"))


def _source() -> str:
    """The line for trixie at the mirror that this machine's own Debian comes from."""
    for fields in _deb822():
        if "deb" in fields.get("types", "").split() and "main" in fields.get("components", "").split():
            uri, signed = fields.get("uris", "").split()[0], fields.get("signed-by")
            if uri.rstrip("/").endswith("/debian"):
                return f"deb {f'[signed-by={signed}] ' if signed else ''}{uri} {SUITE} main"
    for line in (line.split() for path in _files("list") for line in path.read_text().splitlines()):
        rest = [word for word in line if not word.startswith("[") and not word.endswith("]")]
        if rest[:1] == ["deb"] and "main" in rest[3:] and rest[1].rstrip("/").endswith("/debian"):
            return f"deb {rest[1]} {SUITE} main"
    no_tool(f"no mirror of Debian in {SOURCES}")


def _deb822() -> Iterator[dict[str, str]]:
    """Paragraphs of the newer form of apt's sources."""
    for path in _files("sources"):
        for paragraph in path.read_text().split("\n\n"):
            lines = (line for line in paragraph.splitlines() if ":" in line and not line.startswith(("#", " ")))
            yield {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _files(ending: str) -> list[Path]:
    found = [*sorted((SOURCES / "sources.list.d").glob(f"*.{ending}")), SOURCES / f"sources.{ending}"]
    return [path for path in found if path.is_file()]
