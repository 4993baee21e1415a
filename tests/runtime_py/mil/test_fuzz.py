"""Mutants of a good package's protobuf: each one runs, or is refused in one line, soon and within memory."""

from __future__ import annotations

import random
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.errors import PackageError
from export.mlpackage.package import protobuf
from runtime_py.mil import Program
from runtime_py.mil.operations import control_flow
from tests.runtime_py.mil.making import mb, save

X = np.arange(1, 7, dtype=np.float16).reshape(2, 3)
TABLE = np.arange(48, dtype=np.float16).reshape(16, 3) / 8
MUTANTS = 100  # of each kind
SECONDS = 20
MEGABYTES = 2000  # more than this, one mutant has taken memory for what its file only says
NUMBERS = (0, 1, 2, 3, 7, 64, 255, 65535, (1 << 31) - 1, (1 << 63) - 1)


def build(x, n, total):
    """Broadcasting, a reduction, a state, a loop with a list, both branches, casts, weights in the file and in the protobuf."""
    y = mb.add(x=x, y=mb.reduce_max(x=mb.const(val=TABLE), axes=[0], keep_dims=True))
    limit = mb.reduce_max(x=n, axes=[0], keep_dims=False)

    def body(i, ls):
        value = mb.coreml_update_state(state=total, value=mb.add(x=mb.read_state(input=total), y=y))
        return mb.add(x=i, y=1), mb.list_write(ls=ls, index=i, value=value)

    _, ls = mb.while_loop(
        _cond=lambda i, ls: mb.greater(x=limit, y=i),
        _body=body,
        loop_vars=(np.int32(0), mb.make_list(init_length=2, elem_shape=(2, 3), dtype="fp16")),
    )
    many = mb.greater(x=limit, y=2)
    picked = mb.cond(pred=many, _true_fn=lambda: mb.mul(x=y, y=np.float16(2)), _false_fn=lambda: mb.maximum(x=y, y=x))
    return picked, mb.list_gather(ls=ls, indices=[1, 0]), mb.cast(x=picked, dtype="int32")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    inputs = {"x": X, "n": np.array([3], np.int32)}
    return save(build, inputs, tmp_path_factory.mktemp("good") / "model.mlpackage", states={"total": X})


def run(path: Path) -> list[np.ndarray]:
    program = Program.load(path)
    name = min(program.functions)
    outputs = program.run({"x": X, "n": np.array([3], np.int32)}, name, program.make_state(name))
    return [outputs[output] for output in program.functions[name].outputs]


def messages(message: Any) -> Iterator[Any]:
    """A message and all in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for key in sorted(value):
                    yield from messages(value[key])
        elif field.is_repeated:
            for part in value:
                yield from messages(part)
        else:
            yield from messages(value)


def is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def delete(message: Any, field: Any, value: Any, generator: random.Random) -> None:
    """A field, or one of its elements."""
    if is_map(field) and generator.random() < 0.7:
        del value[generator.choice(sorted(value))]
    elif not is_map(field) and field.is_repeated and generator.random() < 0.7:
        del value[generator.randrange(len(value))]
    else:
        message.ClearField(field.name)


def double(message: Any, field: Any, value: Any, generator: random.Random) -> None:
    """One element of a repeated field stands twice, or two change places; one entry of a map gets another's value."""
    if is_map(field):
        keys = sorted(value)
        if field.message_type.fields_by_name["value"].message_type is not None:
            value[generator.choice([*keys, "another"])].CopyFrom(value[generator.choice(keys)])
    elif field.is_repeated:
        parts = list(value)
        parts.insert(generator.randrange(len(parts) + 1), generator.choice(parts))
        if generator.random() < 0.5:
            generator.shuffle(parts)
        parts = [type(part).FromString(part.SerializeToString()) for part in parts] if field.message_type else parts
        message.ClearField(field.name)
        getattr(message, field.name).extend(parts)


def change(message: Any, field: Any, value: Any, generator: random.Random, texts: list[str]) -> None:
    """A number, a text or some bytes become others."""
    if is_map(field) or field.message_type is not None:
        return
    old = generator.choice(list(value)) if field.is_repeated else value
    if isinstance(old, str):
        new: Any = generator.choice([*texts, "", "no such name", old + "\0"])
    elif isinstance(old, bytes):
        new = generator.choice([b"", old[:-1], old + old, bytes(len(old)), b"\xff" * len(old)])
    elif isinstance(old, bool):
        new = not old
    elif isinstance(old, float):
        new = generator.choice([0.0, -old, float("nan"), float("inf"), 1e30])
    elif field.enum_type is not None:
        new = generator.choice([v.number for v in field.enum_type.values])
    else:
        new = generator.choice([number * sign for number in NUMBERS for sign in (1, -1)] + [old + 1, old - 1])
    try:
        if field.is_repeated:
            value[generator.randrange(len(value))] = new
        else:
            setattr(message, field.name, new)
    except ValueError:  # the field holds no such number
        pass


def mutate(model: Any, kind: str, generator: random.Random) -> None:
    places = [(m, f, v) for m in messages(model) for f, v in m.ListFields()]
    texts = sorted({v for _, f, v in places if isinstance(v, str)})
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        message, field, value = generator.choice(places)
        try:
            if kind == "delete":
                delete(message, field, value, generator)
            elif kind == "double":
                double(message, field, value, generator)
            else:
                change(message, field, value, generator, texts)
        except (IndexError, KeyError):  # an earlier mutation has emptied it
            pass


def too_long(*_: Any) -> None:
    raise AssertionError(f"a mutant runs longer than {SECONDS} s")


@pytest.fixture
def alarm():
    before = signal.signal(signal.SIGALRM, too_long)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["delete", "double", "change", "change more"])
def test_mutants(good, kind, alarm, monkeypatch):
    monkeypatch.setattr(control_flow, "MAX_ITERATIONS", 100)
    file = next(good.rglob("model.mlmodel"))
    data = file.read_bytes()
    generator = random.Random(kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ran = refused = 0
    try:
        for number in range(MUTANTS):
            model = protobuf().Model.FromString(data)
            mutate(model, kind.split()[0], generator)
            file.write_bytes(model.SerializeToString())
            signal.alarm(SECONDS)
            try:
                run(good)
                ran += 1
            except PackageError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 3000, number
            except Exception as error:
                raise AssertionError(f"mutant {number} of {kind!r} is not refused: {type(error).__name__}: {error}") from error
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
            assert grown < MEGABYTES, f"mutant {number} of {kind!r} takes {grown} MB"
    finally:
        file.write_bytes(data)
    assert refused > MUTANTS // 5, "the mutations change too little"
    assert ran > MUTANTS // 20, "the mutations change too much"


def test_the_good_one(good):
    picked, gathered, whole = run(good)
    y = X + TABLE[-1]
    np.testing.assert_array_equal(picked, 2 * y)
    np.testing.assert_array_equal(gathered, np.stack([2 * y, y]))
    np.testing.assert_array_equal(whole, (2 * y).astype(np.int32))
