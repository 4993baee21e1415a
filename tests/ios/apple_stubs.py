"""The stubs of Apple's Objective-C frameworks in `stubs/`, held against `apple_declarations`.

Each declaration stands on one line with a note behind it:

- `// objc: class X`, `protocol X`, `struct X`, `enum X`, `constant X`, `function X`, `-selector:` (of an object), `+selector:` (of a
  class), `property`, `X.Case`: the thing that Swift shows under the stub's name;
- `// overlay of: ...`: a Swift form of that thing, made by Apple by hand;
- `// swift: why`: nothing in Objective-C; it is not checked.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from tests.ios.apple_declarations import Api, Container, Declared

STUBS = Path(__file__).with_name("stubs")
CHECKED = tuple("AppleFoundation AVFoundation CoreGraphics CoreMedia CoreML CoreVideo Darwin UIKit UniformTypeIdentifiers os".split())
DEPLOYMENT = 18.0  # of iOS
DECLARATION = re.compile(r"\b(class|protocol|struct|enum|extension|case|func|init|var|let|typealias)\b")
NOTE = re.compile(r"  // (objc|overlay of|swift): (.+)$")
OF_ITSELF = re.compile(r"public (let rawValue|init\(rawValue)")  # what every option set has
NUMBERS = {"Int", "Int32", "Int64", "UInt32", "UInt64", "Float", "Double", "CGFloat", "TimeInterval", "OSType", "CVReturn", "FourCharCode"}
FOUNDATION = {
    "String": "string",
    "Bool": "boolean",
    "URL": "NSURL",
    "Data": "NSData",
    "NSNumber": "number",
    "CFData": "NSData",
    "CFString": "string",
}


@dataclasses.dataclass(frozen=True)
class Stub:
    """One line of a stub file: the Objective-C container around it, the Swift code, and the note."""

    place: str
    container: str
    code: str
    kind: str
    note: str


def read(path: Path) -> tuple[list[Stub], list[str]]:
    """The declarations of a stub file, and the lines that have no note and should."""
    stubs, bare, scopes = [], [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        note = NOTE.search(line)
        code = line[: note.start()].rstrip() if note else line.split("  //")[0].rstrip()
        if code.lstrip().startswith("//"):
            continue
        container = scopes[-1] if scopes else ""
        if note:
            stubs.append(Stub(f"{path.name}:{number}", container, code.strip(), note[1], note[2]))
        elif DECLARATION.search(code) and not OF_ITSELF.search(code) and not code.startswith("import"):
            bare.append(f"{path.name}:{number}: {code.strip()}")
        if code.endswith("{"):
            named = re.match(r"(?:class|protocol|struct|enum) (\w+)", note[2]) if note else None
            scopes.append(named[1] if named else container)
        elif code.strip() == "}":
            scopes.pop()
    return stubs, bare


def problems(stub: Stub, api: Api) -> list[str]:
    """What is wrong with one stub: one line each."""
    if stub.kind == "swift":
        return []
    found = _find(stub, api)
    if isinstance(found, str):
        return [f"{stub.place}: {found}"]
    wrong = []
    if found.since > DEPLOYMENT:
        wrong.append(f"{stub.note} came with iOS {found.since}")
    if found.deprecated:
        wrong.append(f"{stub.note} is deprecated")
    if isinstance(found, Container):
        inherits = re.search(r"\bclass \w+: (\w+)", stub.code)
        if inherits and inherits[1] not in found.parents:
            wrong.append(f"{found.name} extends {found.parents}, not {inherits[1]}")
    elif stub.kind == "objc":
        wrong += _signature(stub, found)
    return [f"{stub.place}: {line}" for line in wrong]


def _find(stub: Stub, api: Api) -> Declared | Container | str:
    """The Objective-C thing that a note names, or why there is none."""
    kind, _, name = stub.note.partition(" ")
    if kind in ("class", "protocol", "struct", "enum"):
        expected = {"class": "class", "enum": "const enum"}.get(kind, "interface")
        container = api.containers.get(name)
        return container if container is not None and container.kind == expected else f"there is no {stub.note}"
    if kind in ("function", "constant"):
        return (api.functions if kind == "function" else api.constants).get(name) or f"there is no {stub.note}"
    if stub.note[0] in "+-":
        parts = [part for part in stub.note[1:].split(":") if part]
        method = parts[0] + "".join(part[0].upper() + part[1:] for part in parts[1:])
        colons = stub.note.count(":")
        for member in api.members(stub.container, method):
            if member.parameters is not None and member.static == (stub.note[0] == "+") and len(member.parameters) == colons:
                return member
        return f"{stub.container} has no method {stub.note}"
    owner, _, name = stub.note.rpartition(".")
    members = api.members(owner or stub.container, name)
    return next((member for member in members if member.parameters is None), None) or f"{owner or stub.container} has no {name}"


def _signature(stub: Stub, found: Declared) -> list[str]:
    """Parameters, result, errors, and whether it can be set."""
    wrong = []
    if "case " in stub.code:
        value = re.search(r"= (\d+)$", stub.code)
        return [] if value and value[1] == found.value else [f"{stub.note} is {found.value}"]
    if found.parameters is None:
        settable = "set {" in stub.code or bool(re.search(r"\bvar \w+: [^{]+$|\bvar \w+: [\w.]+ = ", stub.code))
        if settable and found.readonly and not stub.note.startswith("constant"):
            wrong.append(f"{stub.note} cannot be set")
        declared = re.search(r"\b(?:var|let) \w+: ([^{=]+?)\s*(?:=.*|\{.*)?$", stub.code)
        return wrong + (_differs(declared[1], found.type, stub.note) if declared else [])
    if stub.code.startswith("public var") or " class var " in stub.code:
        return wrong  # a method without parameters that Swift shows as a property
    swift = _swift_parameters(stub.code)
    expected = list(found.parameters)
    asynchronous, fails = " async " in stub.code, " throws" in stub.code
    if stub.note.endswith("ompletionHandler:"):
        expected.pop()
        if not asynchronous:
            wrong.append("it has a completion handler, and is not async")
    elif asynchronous:
        wrong.append("it is async without a completion handler")
    if stub.note.endswith("rror:"):
        expected.pop()
        if not fails:
            wrong.append("it has an error, and does not throw")
    elif fails and not asynchronous:
        wrong.append("it throws without an error")
    if len(swift) != len(expected):
        return [*wrong, f"{stub.note} has {len(expected)} parameters, not {len(swift)}"]
    for type, other in zip(swift, expected):
        wrong += _differs(type, other, stub.note)
    result = re.search(r"-> ([^{]+?)\s*\{", stub.code)
    if result and not asynchronous:
        wrong += _differs(result[1], found.type, stub.note)
    return wrong


def _differs(swift: str, declared: str, what: str) -> list[str]:
    """Whether a Swift type cannot be the declared one. What TypeScript calls `any` may be anything."""
    swift = swift.replace("any ", "").strip()
    optional, swift = swift.endswith("?"), swift.removesuffix("?")
    declared = declared.split(" | ")[0] if " | null" not in declared else declared
    nullable, declared = " | null" in declared, declared.split(" | ")[0].strip()
    if declared in ("any", "") or declared.startswith(("interop.", "(", "{")):
        return []
    if optional and not nullable and not declared.startswith("NS"):
        return [f"{what} is never null"]
    if swift.startswith("["):
        expected = "NSDictionary" if ":" in swift else "NSArray"
    elif swift in NUMBERS:
        expected = "number"
    elif swift.startswith("Set<"):
        expected = "NSSet"
    else:
        expected = FOUNDATION.get(swift)
    base = declared.split("<")[0]
    if expected is None:  # a class, a protocol or an enumeration: nested ones have Objective-C's prefix in front
        return [] if base.endswith(swift.split(" ")[0]) or base in ("string", "number", "NSError") else [f"{what}: {declared}, not {swift}"]
    return [] if base == expected else [f"{what}: {declared}, not {swift}"]


def _swift_parameters(code: str) -> list[str]:
    """The types of a function's or initializer's parameters that have no default."""
    begin = code.index("(", code.index("init") if "init" in code and "func " not in code else code.index("func "))
    depth, parts, part = 0, [], ""
    for character in code[begin + 1 :]:
        if character == ")" and depth == 0:
            break
        depth += (character in "([<{") - (character in ")]>}")
        if character == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    parts += [part] if part.strip() else []
    return [re.split(r" = ", part.split(":", 1)[1])[0].strip() for part in parts]
