"""The Android API as npm package @nativescript/types-android declares it (TypeScript, generated from Android 37), read for its members.

A number in TypeScript may be an int, a long or a float in Java, and a string a String or a CharSequence: there the declarations cannot
tell. They do tell names, what is static, parameters, what may be null, values of constants, what is deprecated, and since when.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path

from tests.npm import npm_package

PACKAGE = "@nativescript/types-android"
VERSION = "9.1.1"
DECLARATIONS = "lib/android/android-platform-37.d.ts"
INTERFACE = "of the {} interface with the provided implementation"  # how the generator marks one


@dataclasses.dataclass(frozen=True)
class Member:
    """A field (`parameters` None), a method, or a constructor (name `constructor`). `result`: type of the value or of the field."""

    name: str
    static: bool
    parameters: tuple[str, ...] | None
    result: str
    since: int
    deprecated: bool


@dataclasses.dataclass
class Declared:
    """A class or an interface, and what it extends or implements."""

    name: str
    since: int
    deprecated: bool
    parents: list[str]
    members: list[Member] = dataclasses.field(default_factory=list)
    interface: bool = False


@functools.cache
def declarations() -> dict[str, Declared]:
    """All classes by full name, nested ones with dots."""
    return parse((package_folder() / DECLARATIONS).read_text(encoding="utf-8"))


def package_folder() -> Path:
    """The package's folder."""
    return npm_package(PACKAGE, VERSION)


OPENING = re.compile(r"^\t*(?:declare|export) (?:module|namespace) ([\w.]+) \{$")
CLASS = re.compile(r"^\t*export (?:abstract )?class (\w+)(?:<.*?>)?\s*(?:extends (.*?))?(?: implements (.*?))? \{$")
MEMBER = re.compile(r"^\t*public (static )?(?:abstract )?(\w+)(?:<[^(]*>)?(?:\((.*)\))?(?:: (.*))?;$")
SINCE = re.compile(r"@since (\d+)")


def parse(text: str) -> dict[str, Declared]:
    classes: dict[str, Declared] = {}
    scope: list[tuple[str, Declared | None]] = []  # names of modules and classes that are open; "" for an implementation's braces
    comment = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(("/**", "*")):
            comment = (comment if not stripped.startswith("/**") else "") + stripped
            continue
        since, deprecated = int(found[1]) if (found := SINCE.search(comment)) else 1, "@deprecated" in comment
        if opened := OPENING.match(line):
            scope.append((opened[1], None))
        elif found := CLASS.match(line):
            name = ".".join([part for part, _ in scope] + [found[1]])
            parents = [erased(parent) for group in found.groups()[1:] if group for parent in _split(group)]
            declared = classes.setdefault(name, Declared(name, since, deprecated, []))
            declared.parents += parents
            scope.append((found[1], declared))
        elif stripped == "}" or stripped == "});":
            if scope:
                scope.pop()
        elif stripped.endswith("{"):
            if scope and scope[-1][1] and INTERFACE.format(scope[-1][1].name) in erased(comment).replace("$", "."):
                scope[-1][1].interface = True
            scope.append(("", None))
        elif scope and scope[-1][1] and (found := MEMBER.match(line)):
            static, name, parameters, result = found.groups()
            types = None if parameters is None else tuple(_type(p.partition(":")[2].strip()) for p in _split(parameters))
            scope[-1][1].members.append(Member(name, bool(static), types, _type(result or "void"), since, deprecated))
        comment = ""
    return classes


def ancestors(name: str) -> list[str]:
    """A class and all that it extends or implements, itself first."""
    found, waiting = [], [name]
    while waiting:
        current = waiting.pop(0)
        if current in found:
            continue
        found.append(current)
        waiting += declarations()[current].parents if current in declarations() else []
    return found


def erased(type_name: str) -> str:
    """A type without its type arguments."""
    while (shorter := re.sub(r"<[^<>]*>", "", type_name)) != type_name:
        type_name = shorter
    return type_name.strip()


def _type(text: str) -> str:
    """`androidNative.Array<X>` is X[], type arguments go, ` | null` stays as a trailing `?`."""
    nullable = text.endswith("| null")
    text = text.removesuffix("| null").strip()
    depth = 0
    while text.startswith("androidNative.Array<") and text.endswith(">"):
        text = text[len("androidNative.Array<") : -1]
        depth += 1
    return erased(text) + "[]" * depth + ("?" if nullable else "")


def _split(text: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "<({[") - (character in ">)}]")
        if character == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [part for part in [*parts, text[start:].strip()] if part]
