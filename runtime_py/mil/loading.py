"""From the protobuf of an ML program to `graph.Function`: names resolved to slots, constants to lazy values, parameters to Python
values, element types checked.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from export.errors import PackageError
from export.mlpackage import DTYPES, ListType, Package, StateType, TensorType, ValueType
from export.mlpackage.dtypes import STRING, to_carrier
from export.mlpackage.types import decode_type
from runtime_py.mil.evaluate import run_step
from runtime_py.mil.graph import Block, Constant, Function, Operand, Output, Step
from runtime_py.mil.registry import ANY, OPERATIONS, Operation

CONSTANT_EXPRESSIONS = "constexpr_"  # how the names of operations on compressed weights begin
OPSETS = {"CoreML5": 15, "CoreML6": 16, "CoreML7": 17, "CoreML8": 18, "CoreML9": 26}  # operator set -> the iOS that brought it


class Loader:
    """Loads all functions of one package; constants are shared among them."""

    def __init__(self, package: Package):
        self.package = package
        self._constants: dict[Hashable, Constant] = {}

    def function(self, name: str, proto: Any) -> Function:
        """Raises PackageError, with the place, for what does not fit together or is not known."""
        if proto.opset not in OPSETS or proto.opset not in proto.block_specializations:
            known = ", ".join(OPSETS)
            raise PackageError(f"function {name}: operator set {proto.opset or 'none'} has no block here (known sets: {known})")
        scope = _FunctionLoader(self, name, OPSETS[proto.opset])
        return scope.load(proto, proto.block_specializations[proto.opset])

    def constant(self, key: Hashable, type: ValueType, compute: Callable[[], Any]) -> Constant:
        """The constant of this key, made once per package."""
        if key not in self._constants:
            self._constants[key] = Constant(key, type, compute)
        return self._constants[key]

    def value(self, proto: Any) -> Constant:
        """The constant of a `Value` message."""
        if proto.WhichOneof("value") == "blobFileValue":
            blob = proto.blobFileValue
            key: Hashable = (blob.fileName, blob.offset, proto.type.SerializeToString())
        else:
            key = proto.SerializeToString()
        if key in self._constants:
            return self._constants[key]
        if proto.type.WhichOneof("type") == "listType":  # the classes of a classifier
            parts = [self.value(part) for part in proto.immediateValue.list.values]
            return self.constant(key, decode_type(proto.type), lambda: tuple(part.get() for part in parts))
        type, array = self.package.values.tensor(proto)  # a blob is mapped here, and read when it is computed with
        if type.dtype == STRING:
            value = str(array.item()) if array.ndim == 0 else array
            return self.constant(key, type, lambda: value)
        return self.constant(key, type, lambda: to_carrier(array, DTYPES[type.dtype]))


class _FunctionLoader:
    def __init__(self, loader: Loader, name: str, opset: int):
        self.loader = loader
        self.name = name
        self.opset = opset
        self.slots = 0
        self.counts: dict[str, int] = {}

    def load(self, proto: Any, block: Any) -> Function:
        scope: dict[str, tuple[Operand, ValueType]] = {}
        inputs = [self._declare(scope, value, f"input {value.name}") for value in proto.inputs]
        body = self._block(block, scope)
        body.inputs = inputs
        _find_last_uses(body)
        types = {value.name: value.type for value in inputs}
        return Function(
            name=self.name,
            inputs={n: t for n, t in types.items() if not isinstance(t, StateType)},
            outputs={n: t for n, _, t in body.outputs},
            states={n: t for n, t in types.items() if isinstance(t, StateType)},
            operations=self.counts,
            opset=self.opset,
            block=body,
            slots=self.slots,
        )

    def _declare(self, scope: dict, value: Any, what: str) -> Output:
        """A new slot for a named value."""
        try:
            type = decode_type(value.type)
        except PackageError as error:
            raise PackageError(f"function {self.name}, {what}: {error}") from None
        output = Output(value.name, self.slots, type)
        self.slots += 1
        scope[value.name] = (output.slot, type)
        return output

    def _block(self, proto: Any, outer: dict[str, tuple[Operand, ValueType]]) -> Block:
        scope = dict(outer)
        inputs = [self._declare(scope, value, f"block input {value.name}") for value in proto.inputs]
        steps = []
        for operation in proto.operations:
            step = self._operation(operation, scope)
            if step is not None:
                steps.append(step)
        outputs = []
        for name in proto.outputs:
            if name not in scope:
                raise PackageError(f"function {self.name}: the output {name!r} is computed by no operation")
            outputs.append((name, *scope[name]))
        return Block(inputs, outputs, steps)

    def _operation(self, proto: Any, scope: dict) -> Step | None:
        """The step of one operation; constants only enter the scope."""
        name = proto.outputs[0].name if proto.outputs else "without outputs"
        where = f"function {self.name}, operation {name!r} ({proto.type})"
        self.counts[proto.type] = self.counts.get(proto.type, 0) + 1
        try:
            if proto.type == "const":
                if len(proto.outputs) != 1 or "val" not in proto.attributes:
                    raise PackageError("a constant has one output and the attribute val")
                constant = self.loader.value(proto.attributes["val"])
                declared = decode_type(proto.outputs[0].type)
                if declared != constant.type:
                    raise PackageError(f"declared as {declared}, its value is {constant.type}")
                scope[name] = (constant, constant.type)
                return None
            if proto.type not in OPERATIONS:
                raise PackageError("this interpreter does not know this operation")
            operation = OPERATIONS[proto.type]
            operands, types = self._inputs(proto, operation, scope)
            blocks = [self._block(block, scope) for block in proto.blocks]
            outputs = [self._declare(scope, value, f"output {value.name}") for value in proto.outputs]
            _check_types(operation, types, outputs)
            _check_blocks(proto.type, blocks, types, outputs)
            static, dynamic = {}, []
            for parameter_name, operand in operands.items():
                parameter = operation.parameters[parameter_name]
                if isinstance(operand, Constant) and parameter.kind not in ("Tensor", "TensorList", "State"):
                    static[parameter_name] = parameter.convert(operand.get())
                else:
                    dynamic.append((parameter, operand))
            step = Step(where, operation, static, dynamic, outputs, types, blocks, self.opset)
        except PackageError as error:
            message = str(error)
            raise PackageError(message if message.startswith("function ") else f"{where}: {message}") from None
        if proto.type.startswith(CONSTANT_EXPRESSIONS):
            return self._constant_expression(step, scope)
        return step

    def _inputs(self, proto: Any, operation: Operation, scope: dict) -> tuple[dict, dict]:
        """The operands of an operation and their types, by parameter."""
        operands: dict[str, Any] = {}
        types: dict[str, Any] = {}
        for name, argument in proto.inputs.items():
            if name not in operation.parameters:
                raise PackageError(f"it has no parameter {name!r}")
            found = []
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "value":
                    constant = self.loader.value(binding.value)
                    found.append((constant, constant.type))
                elif binding.name in scope:
                    found.append(scope[binding.name])
                else:
                    raise PackageError(f"its input {name} is {binding.name!r}, which nothing before it computes")
            if operation.parameters[name].kind in ("Tensors",):
                operands[name], types[name] = tuple(v for v, _ in found), tuple(t for _, t in found)
            elif len(found) == 1:
                operands[name], types[name] = found[0]
            else:
                raise PackageError(f"its input {name} has {len(found)} values, and takes one")
        if proto.type.startswith(CONSTANT_EXPRESSIONS):  # before iOS 18 their inputs are attributes
            for name, value in proto.attributes.items():
                if name == "name":
                    continue
                if name not in operation.parameters or name in operands:
                    raise PackageError(f"it has no attribute {name!r}")
                operands[name] = self.loader.value(value)
                types[name] = operands[name].type
        missing = [p.name for p in operation.parameters.values() if p.required and p.name not in operands]
        if missing:
            raise PackageError(f"its input {missing[0]} is missing")
        return operands, types

    def _constant_expression(self, step: Step, scope: dict) -> None:
        """An operation on constants alone: itself a constant, which functions share if their weights are the same."""
        parts = [(p.name, operand.key) for p, operand in step.dynamic if isinstance(operand, Constant)]
        if len(parts) != len(step.dynamic) or any(output.type.shape is None for output in step.outputs):  # type: ignore[union-attr]
            raise PackageError(f"{step.where}: its inputs must be constants")
        static = sorted((name, repr(value)) for name, value in step.static.items())
        key = (step.operation.name, tuple(sorted(parts)), tuple(static), tuple(str(o.type) for o in step.outputs))
        results = self.loader.constant((key, "all"), step.outputs[0].type, lambda: run_step(step, None))
        for index, output in enumerate(step.outputs):
            compute = (lambda index=index: results.get()[index]) if len(step.outputs) > 1 else (lambda: results.get()[0])
            scope[output.name] = (self.loader.constant((key, index), output.type, compute), output.type)


def _check_types(operation: Operation, types: dict[str, Any], outputs: list[Output]) -> None:
    """The declared element types are those that the operation gives."""
    alike = {_dtype(types[name]) for name in operation.same if name in types}
    if len(alike) > 1:
        raise PackageError(f"its inputs {', '.join(operation.same)} have different element types: {', '.join(sorted(alike))}")
    rules = operation.returns
    if len(rules) == 1 and len(outputs) > 1:
        rules = rules * len(outputs)  # `split`: any number of outputs alike
    if len(outputs) > len(rules) or (rules and not outputs):
        raise PackageError(f"it is declared with {len(outputs)} outputs")
    for rule, output in zip(rules, outputs):
        expected = None if rule == ANY else rule if rule in DTYPES else _dtype(types[rule]) if rule in types else None
        if expected is not None and _dtype(output.type) != expected:
            raise PackageError(f"its output {output.name!r} is declared as {output.type}, and is {expected}")


def _check_blocks(kind: str, blocks: list[Block], types: dict[str, Any], outputs: list[Output]) -> None:
    """The nested blocks of `cond` and `while_loop` take and give the element types around them."""
    if len(blocks) != (2 if kind in ("cond", "while_loop") else 0):
        raise PackageError(f"it has {len(blocks)} nested blocks")
    results = [_dtype(output.type) for output in outputs]
    expected = {"cond": (([], results), ([], results))}
    if kind == "while_loop":
        variables = [_dtype(type) for type in types["loop_vars"]]
        expected["while_loop"] = ((variables, ["bool"]), (variables, results))
        if variables != results:
            raise PackageError(f"it changes {', '.join(variables)}, and its outputs are {', '.join(results)}")
    for block, (takes, gives) in zip(blocks, expected.get(kind, ())):
        given = [_dtype(type) for _, _, type in block.outputs]
        taken = [_dtype(place.type) for place in block.inputs]
        if (taken, given) != (takes, gives):
            raise PackageError(f"its nested block takes ({', '.join(taken)}) and gives ({', '.join(given)}): these types do not fit")


def _dtype(type: Any) -> str:
    """The element type of a value, of the first of several, of a list's element or of a state's tensor."""
    if isinstance(type, tuple):
        return _dtype(type[0]) if type else "none"
    if isinstance(type, ListType):
        return _dtype(type.element)
    if isinstance(type, StateType):
        return type.wrapped.dtype
    return type.dtype if isinstance(type, TensorType) else str(type)


def _find_last_uses(block: Block, kept: frozenset[int] = frozenset()) -> None:
    """Let every step free the slots of its block that nothing reads after it. What nested blocks read is read by their step."""
    seen = {operand for _, operand, _ in block.outputs if isinstance(operand, int)} | kept
    own = {output.slot for output in block.inputs} | {output.slot for step in block.steps for output in step.outputs}
    for step in reversed(block.steps):
        for nested in step.blocks:
            _find_last_uses(nested)
        used = _reads(step) | {output.slot for output in step.outputs}
        step.frees = tuple(sorted((used & own) - seen))
        seen |= used
    block.frees = tuple(sorted(own - {slot for step in block.steps for slot in step.frees}))


def _reads(step: Step) -> set[int]:
    slots = set()
    for _, operand in step.dynamic:
        slots |= {o for o in (operand if isinstance(operand, tuple) else (operand,)) if isinstance(o, int)}
    for block in step.blocks:
        slots |= {operand for _, operand, _ in block.outputs if isinstance(operand, int)}
        for nested in block.steps:
            slots |= _reads(nested)
    return slots
