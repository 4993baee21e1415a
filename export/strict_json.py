"""Parsed JSON as frozen dataclasses, read strictly: the type hints are the schema.

A missing or an unknown key, a wrong type and a value that breaks a `Rule` are refused in one line that names the place, such as
`graphs.decoder.inputs[1].shape[0]`. Nothing is converted or repaired.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
import types
import typing
from typing import Annotated, Any, Literal

from export.errors import BundleError

REMEDY = "build the bundle again or copy it anew"
_JSON_NAMES = {bool: "true or false", int: "an integer", float: "a finite number", str: "a string", dict: "an object"}


@dataclasses.dataclass(frozen=True)
class Rule:
    """A limit on a value, in JSON Schema's terms: a pattern binds strings (whole), a minimum and a maximum bind numbers."""

    says: str
    pattern: str | None = None
    minimum: int | None = None
    maximum: int | None = None

    def allows(self, value: Any) -> bool:
        if isinstance(value, str):
            return self.pattern is None or re.fullmatch(self.pattern, value) is not None
        return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)


def decode(kind: Any, value: Any, where: str) -> Any:
    """`value`, parsed from JSON, as the type `kind`: a dataclass, a plain or annotated type, a tuple, dict, union or literal of such.

    `where` is the place of `value`, empty for the whole. Raises BundleError, one line that names the place, for anything else.
    """
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        value = decode(args[0], value, where)
        return value if args[1].allows(value) else refuse(where, args[1].says, value)
    if origin is Literal:
        return value if isinstance(value, str) and value in args else refuse(where, f"one of {', '.join(args)}", value)
    if origin is tuple:
        return _decode_tuple(args, value, where)
    if origin is dict:
        items = decode(dict, value, where).items()
        return {decode(args[0], key, f"a key of {where}"): decode(args[1], item, _join(where, key)) for key, item in items}
    choices = args if origin in (typing.Union, types.UnionType) else (kind,)
    if not any(_is(choice, value) for choice in choices):
        refuse(where, " or ".join(_JSON_NAMES[choice] for choice in choices), value)
    return float(value) if kind is float else value


def _decode_dataclass(kind: type, value: Any, where: str) -> Any:
    hints = _hints(kind)
    value = decode(dict, value, where)
    for key in [*hints, *value]:
        if key not in hints or key not in value:
            raise BundleError(f"{_join(where, key)} is {'missing' if key in hints else 'not known to this version'}: {REMEDY}")
    return kind(**{key: decode(hint, value[key], _join(where, key)) for key, hint in hints.items()})


def _decode_tuple(args: tuple, value: Any, where: str) -> tuple:
    if not isinstance(value, list) or (args[-1] is not ... and len(value) != len(args)):
        refuse(where, "a list" if args[-1] is ... else f"a list of {len(args)}", value)
    return tuple(decode(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))  # a tuple of ours has one type


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _is(kind: type, value: Any) -> bool:
    """JSON's types, which are stricter than Python's: true is no number, and neither is what a float cannot hold."""
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max  # False for NaN and infinity
    return isinstance(value, kind)


def refuse(where: str, wanted: str, value: Any) -> typing.NoReturn:
    """Raise the BundleError that says what must stand at `where`, and what stands there."""
    if isinstance(value, dict | list):
        shown = "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    else:
        shown = "null" if value is None else repr(value)[:60]
    raise BundleError(f"{where or 'the manifest'} must be {wanted}, not {shown}: {REMEDY}")


def _join(where: str, key: str) -> str:
    """`where.key`, with a key from the file quoted where it could play tricks on a terminal."""
    step = key if re.fullmatch(r"[A-Za-z0-9_./-]{1,80}", key) else repr(key[:80])
    return f"{where}.{step}" if where else step
