"""Hand-written declarations of the Android classes that the app uses (`stubs/*.stubs`), as class files and as facts to check.

Their language is Java's, without bodies and without what goes without saying: every class and member is public, a field with a value is a
constant, one without belongs to an instance. One file a package; names from other packages are imported as in Java.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

from tests.android.android_declarations import Member, ancestors, declarations, erased
from tests.android.toolchain import JVM_TARGET, LIMIT_S, kotlin_home
from tests.kernels.driver import no_tool

STUBS = Path(__file__).with_name("stubs")
PRIMITIVES = {
    **dict.fromkeys(("int", "long", "short", "byte", "float", "double"), "number"),
    "boolean": "boolean", "void": "void", "char": "string", "String": "string", "CharSequence": "string", "Object": "any",
}  # fmt: skip
JAVA_LANG = {"Runnable", "Class", "RuntimeException", "Iterable", "CharSequence"}
UNDECLARED = {("android.net.Uri", "android.os.Parcelable")}  # the declarations leave the interface out, and keep its CREATOR
NULLABLE = "@Nullable "
DEPRECATED = "@Deprecated "

TYPE = r"\w+(?:\.\w+)*(?:<[^()]*?>)?(?:\[\])*"
CLASS = re.compile(rf"^((?:abstract |final )*)(class|interface) (\w+)(?: extends ({TYPE}))?(?: implements (.+?))? \{{$")
METHOD = re.compile(
    rf"^((?:@Nullable |@Deprecated |static |abstract |protected |final )*)(?:<[^()]*?> )?(?:({TYPE}) )?(\w+)\((.*)\)(?: throws [\w., ]+)?;$"
)
FIELD = re.compile(rf"^((?:@Nullable |@Deprecated |static )*)({TYPE}) (\w+)(?: = (.+))?;$")
PARAMETER = re.compile(rf"^(@Nullable )?({TYPE})(\.\.\.)? (\w+)$")


@dataclasses.dataclass
class Stub:
    """A class as the stubs declare it: full name, type of its parent, members with TypeScript's types, and Java source of its own lines."""

    name: str
    interface: bool
    parents: list[str]
    members: list[Member]
    values: dict[str, str]  # of constants


def read(path: Path) -> list[Stub]:
    """The classes of one file. Raises AssertionError for a line that is none of the language."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    package = next(line for line in lines if line.startswith("package "))[8:-1]
    here = _resolver(package, lines)
    stubs: list[Stub] = []
    open_classes: list[Stub] = []
    for number, line in enumerate(lines, 1):
        if not line or line.startswith(("package ", "import ", "//")):
            continue
        if line == "}":
            open_classes.pop()
            continue
        if found := CLASS.match(line):
            outer = open_classes[-1].name if open_classes else package
            parents = [here(parent) for group in found.groups()[3:] if group for parent in re.split(r",\s*(?![^<]*>)", group)]
            open_classes.append(Stub(f"{outer}.{found[3]}", found[2] == "interface", parents, [], {}))
            stubs.append(open_classes[-1])
            continue
        assert open_classes, f"{path.name}:{number}: {line}"
        current = open_classes[-1]
        if found := METHOD.match(line):
            marks, result, name, parameters = found.groups()
            types = []
            for parameter in re.split(r",\s*(?![^<]*>)", parameters) if parameters else []:
                matched = PARAMETER.match(parameter)
                assert matched, f"{path.name}:{number}: {parameter}"
                types.append(_typescript(here, matched[2] + ("[]" if matched[3] else ""), bool(matched[1])))
            constructor = result is None
            assert not constructor or name == current.name.rsplit(".", 1)[1], f"{path.name}:{number}: {line}"
            value = "void" if constructor else _typescript(here, result, NULLABLE in marks)
            current.members.append(
                Member("constructor" if constructor else name, "static" in marks, tuple(types), value, 0, DEPRECATED in marks)
            )
        elif found := FIELD.match(line):
            marks, kind, name, value = found.groups()
            result = _typescript(here, kind, NULLABLE in marks)
            current.members.append(Member(name, value is not None or "static" in marks, None, result, 0, DEPRECATED in marks))
            if value is not None:
                current.values[name] = value
        else:
            raise AssertionError(f"{path.name}:{number}: not understood: {line}")
    return stubs


def all_stubs() -> list[Stub]:
    return [stub for path in sorted(STUBS.glob("*.stubs")) for stub in read(path)]


def errors(stub: Stub) -> list[str]:
    """What the stub says and Android does not."""
    known = declarations().get(stub.name)
    if not known:
        return [f"{stub.name}: no such class"]
    found = []
    if stub.interface != known.interface:
        found.append(f"{stub.name}: Android has {'an interface' if known.interface else 'a class'} of this name")
    family = ancestors(stub.name)
    strangers = [parent for parent in stub.parents if parent not in family and (stub.name, parent) not in UNDECLARED]
    found += [f"{stub.name}: does not extend {parent}" for parent in strangers]
    for member in stub.members:
        places = [stub.name] if member.name == "constructor" else family
        same = [m for place in places if place in declarations() for m in declarations()[place].members if m.name == member.name]
        label = f"{stub.name}.{member.name}{'' if member.parameters is None else '(' + ', '.join(member.parameters) + ')'}"
        candidates = [m for m in same if m.parameters == member.parameters and m.static == member.static]
        if not candidates:
            others = [("static " if m.static else "") + ("" if m.parameters is None else f"({', '.join(m.parameters)})") for m in same]
            found.append(f"{label}: Android has {others or 'no such member'}")
        elif member.name in stub.values:
            if not any(_same_value(stub.values[member.name], m.result) for m in candidates):
                found.append(f"{label} = {stub.values[member.name]}: Android has {[m.result for m in candidates]}")
        elif member.name != "constructor" and not any(_same_type(member.result, m.result) for m in candidates):
            found.append(f"{label}: {member.result}, Android has {[m.result for m in candidates]}")
        elif member.deprecated != candidates[0].deprecated:
            found.append(f"{label}: {'is not deprecated' if member.deprecated else 'is deprecated'}")
    return found


def since(stub: Stub) -> dict[str, int]:
    """The API level from which each member is there, under its name and, for a getter, under the property that Kotlin makes of it; the
    lowest of overloads."""
    family = [declarations()[name] for name in ancestors(stub.name) if name in declarations()]
    levels: dict[str, int] = {}
    for member in stub.members:
        same = [m.since for known in family for m in known.members if m.name == member.name and m.parameters == member.parameters]
        level = max(min(same, default=1), declarations()[stub.name].since)
        for name in {member.name, re.sub(r"^(?:get|set)([A-Z])", lambda m: m[1].lower(), member.name)}:
            levels[name] = min(levels.get(name, level), level)
    levels[stub.name.rsplit(".", 1)[1]] = declarations()[stub.name].since
    return levels


def compile_stubs(out: Path, more: list[Path] = ()) -> Path:
    """Class files of all stubs, and of `more` Java sources, in the folder `out`."""
    javac = shutil.which("javac")
    if not javac:
        no_tool("the stubs of Android's classes need javac: apt-get install openjdk-17-jdk-headless")
    sources = out.with_name(out.name + "-sources")
    for path in sorted(STUBS.glob("*.stubs")):
        for name, text in java(path).items():
            target = sources / (name.replace(".", "/") + ".java")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    hidden = sources / "stubs/Hidden.java"
    hidden.parent.mkdir(parents=True, exist_ok=True)
    hidden.write_text("package stubs;\n\npublic final class Hidden {\n}\n")
    out.mkdir(parents=True, exist_ok=True)
    annotations = next((kotlin_home() / "lib").glob("annotations-*.jar"))
    files = [str(path) for path in [*sources.rglob("*.java"), *more]]
    command = [javac, "--release", JVM_TARGET, "-nowarn", "-proc:none", "-cp", str(annotations), "-d", str(out), *files]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert ran.returncode == 0, ran.stderr[-6000:]
    return out


def java(path: Path) -> dict[str, str]:
    """Java sources by full name of the class: what is left out of the stubs' language is put in.

    Each class gets a constructor that takes a `stubs.Hidden`, for the ones below it to call: Android's classes have constructors that
    are no one's to call, and a class without any would get Java's own.
    """
    lines = path.read_text().splitlines()
    head = [line for line in lines if line.startswith(("package ", "import "))] + ["import org.jetbrains.annotations.Nullable;"]
    package = head[0][8:-1]
    here = _resolver(package, lines)
    files: dict[str, str] = {}
    body: list[str] = []
    kinds: list[tuple[bool, str, str]] = []  # whether it is an interface, its name, and how its constructors begin
    for line in (line.strip() for line in lines):
        if not line or line.startswith(("package ", "import ", "//")):
            continue
        if found := CLASS.match(line):
            interface, name, parent = found[2] == "interface", found[3], found[4]
            above = "super((stubs.Hidden) null); " if parent and here(parent).startswith("android.") else ""
            body.append(f"public {'static ' if kinds else ''}{line}")
            if not interface:
                body.append(f"protected {name}(stubs.Hidden hidden) {{ {above}}}")
            kinds.append((interface, name, above))
        elif line == "}":
            body.append(line)
            _, name, _ = kinds.pop()
            if not kinds:
                files[f"{package}.{name}"] = "\n".join([*head, *body]) + "\n"
                body = []
        else:
            body.append(_member(line, *kinds[-1]))
    return files


def _member(line: str, interface: bool, name: str, above: str) -> str:
    access = "" if "protected " in line or interface else "public "
    if METHOD.match(line):
        bodyless = "abstract " in line or (interface and "static " not in line)
        begin = above if line.startswith(f"{name}(") else ""
        return access + (line if bodyless else f'{line[:-1]} {{ {begin}throw new RuntimeException("a stub"); }}')
    marks = "static final " if " = " in line and "static " not in line else ""
    return access + marks + line


def _resolver(package: str, lines: list[str]):
    imports = {line[7:-1].rsplit(".", 1)[1]: line[7:-1] for line in lines if line.startswith("import ")}

    def resolve(name: str) -> str:
        name = erased(name)
        first, *rest = name.split(".")
        if name in PRIMITIVES and name != "CharSequence":
            return name
        if first in imports:
            return ".".join([imports[first], *rest])
        return f"java.lang.{name}" if first in JAVA_LANG else f"{package}.{name}"

    return resolve


def _typescript(resolve, java_type: str, nullable: bool) -> str:
    depth = java_type.count("[]")
    name = resolve(java_type.replace("[]", ""))
    return PRIMITIVES.get(name.removeprefix("java.lang."), name) + "[]" * depth + ("?" if nullable else "")


def _same_type(ours: str, theirs: str) -> bool:
    """A type variable of ours (T) may stand for whatever the declarations put there."""
    variable = re.search(r"(^|\.)T(\?|\[\])*$", ours)
    return ours == theirs or bool(variable)


def _same_value(ours: str, theirs: str) -> bool:
    if ours.startswith('"'):
        return theirs == ours
    return theirs.lstrip("-").isdigit() and int(ours.rstrip("L"), 0) == int(theirs)
