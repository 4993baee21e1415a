"""Apple's Objective-C API as npm package @nativescript/types-ios declares it (TypeScript, generated from the SDK of iOS 26).

A method's name there is its selector without colons, each part but the first capitalised. `@since` is the version of iOS that brought
something; a deprecation that Apple announced without a version is one too.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path

from tests.npm import npm_package

PACKAGE = "@nativescript/types-ios"
VERSION = "9.1.2"
FOLDER = "lib/ios/objc-x86_64"


@dataclasses.dataclass(frozen=True)
class Declared:
    """A function, method, property, constant or case. `parameters` is None for what is not called; `value` is a case's."""

    name: str
    static: bool = False
    readonly: bool = False
    parameters: tuple[str, ...] | None = None
    type: str = ""
    value: str = ""
    since: float = 0
    deprecated: bool = False


@dataclasses.dataclass
class Container:
    """A class, protocol, structure (`interface`) or enumeration."""

    kind: str
    name: str
    parents: list[str]
    since: float
    deprecated: bool
    members: list[Declared] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Api:
    containers: dict[str, Container] = dataclasses.field(default_factory=dict)
    functions: dict[str, Declared] = dataclasses.field(default_factory=dict)
    constants: dict[str, Declared] = dataclasses.field(default_factory=dict)

    def members(self, container: str, name: str) -> list[Declared]:
        """Members of this name of a class, or of what it inherits from."""
        if container not in self.containers:
            return []
        here = self.containers[container]
        found = [member for member in here.members if member.name == name]
        return found or [member for parent in here.parents for member in self.members(parent, name)]


@functools.cache
def declarations() -> Api:
    """All frameworks."""
    api = Api()
    for path in sorted((package_folder() / FOLDER).glob("objc!*.d.ts")):
        parse(path.read_text(encoding="utf-8"), api)
    return api


def package_folder() -> Path:
    """The package's folder."""
    return npm_package(PACKAGE, VERSION)


PARENTS = r"(?: extends ([\w, <>]+?))?(?: implements ([\w, ]+))?"
OPENING = re.compile(rf"^(?:declare )?(class|interface|const enum) (\w+)(?:<[^{{]*?>)?{PARENTS} \{{$")
FUNCTION = re.compile(r"^declare function (\w+)\((.*)\): (.*);$")
CONSTANT = re.compile(r"^declare (?:var|const) (\w+): (.*);$")
METHOD = re.compile(r"^\t(static )?(\w+)\??\((.*)\): (.*?);")
PROPERTY = re.compile(r"^\t(static )?(readonly )?(\w+): (.*?);")
CASE = re.compile(r"^\t(\w+) = (-?\d+),?$")
SINCE = re.compile(r"@since (\d+(?:\.\d+)?)")


def parse(text: str, api: Api) -> None:
    inside: Container | None = None
    comment = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(("/**", "*")):
            comment = stripped if stripped.startswith("/**") else comment + stripped
            continue
        if not stripped:
            continue
        since = SINCE.search(comment)
        age = {"since": float(since[1]) if since else 0.0, "deprecated": "@deprecated" in comment}
        comment = ""
        if inside is not None:
            if line == "}":
                inside = None
            else:
                inside.members += _member(line, age)
        elif found := OPENING.match(line):
            kind, name, extends, implements = found.groups()
            parents = [part.split("<")[0].strip() for part in f"{extends or ''},{implements or ''}".split(",") if part.strip()]
            inside = Container(kind, name, parents, age["since"], age["deprecated"])
            api.containers[name] = inside
        elif found := FUNCTION.match(line):
            api.functions[found[1]] = Declared(found[1], parameters=_parameters(found[2]), type=found[3], **age)
        elif found := CONSTANT.match(line):
            api.constants[found[1]] = Declared(found[1], readonly=True, type=found[2], **age)


def _member(line: str, age: dict) -> list[Declared]:
    if found := CASE.match(line):
        return [Declared(found[1], value=found[2], **age)]
    if found := METHOD.match(line):
        return [Declared(found[2], bool(found[1]), parameters=_parameters(found[3]), type=found[4], **age)]
    if found := PROPERTY.match(line):
        return [Declared(found[3], bool(found[1]), bool(found[2]), type=found[4], **age)]
    return []


def _parameters(text: str) -> tuple[str, ...]:
    """The types of `a: T, b?: U<V, W>`, in their order."""
    parts, depth, part = [], 0, ""
    for character in text.replace("=>", "->"):
        depth += (character in "([{<") - (character in ")]}" or character == ">" and not part.endswith("-"))
        if character == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    parts += [part] if part.strip() else []
    return tuple(part.split(":", 1)[1].strip() for part in parts)
