"""Turns one sample of torch's op database into a program: the ATen overloads that the Python function really calls, in
order, with their arguments (recorded above autograd, so that composite ops stay whole), and replays programs. It knows
nothing of the database and of JSON files; ops.py does."""
import math

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.schema_check_mode import SchemaCheckMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from worker import CODES


class Unpassable(Exception):
    """The sample has no form that can cross the bridge; the text is the reason."""


class Program:
    """calls: [(overload, args by schema position, result ids)]; inputs: {id: Held}; every tensor has one id."""

    def __init__(self):
        self.calls, self.inputs, self.ids, self.alive = [], {}, {}, []

    def name(self, tensor):
        if id(tensor) not in self.ids:
            self.ids[id(tensor)] = len(self.ids)
            self.alive.append(tensor)  # an id must not be given again while the program is recorded
        return self.ids[id(tensor)]

    def use(self, tensor):
        """The id of an argument; one that no call made is an input or a constant, kept as it is now."""
        known = id(tensor) in self.ids
        number = self.name(tensor)
        if not known:
            self.inputs[number] = Held(tensor)
        return number


class Held:
    """A copy of a tensor with its strides: the storage's used part, and how it is viewed."""

    def __init__(self, tensor):
        if type(tensor) is not torch.Tensor and type(tensor) is not torch.nn.Parameter:
            raise Unpassable("an argument is a tensor subclass of Python's")
        if tensor.layout is not torch.strided:
            raise Unpassable("an argument is sparse: a typed array holds dense values only")
        if tensor.is_quantized:
            raise Unpassable("an argument is quantized: a typed array holds no scale")
        if tensor.device.type != "cpu":
            raise Unpassable("an argument lies on the device " + tensor.device.type)
        if tensor.dtype not in CODES:
            raise Unpassable("an argument is of the dtype " + str(tensor.dtype).removeprefix("torch."))
        if tensor.requires_grad and not tensor.is_leaf:
            raise Unpassable("an argument with a graph was made outside of the dispatcher")
        self.requires_grad = tensor.requires_grad
        plain = tensor.detach().resolve_conj().resolve_neg()
        self.size, self.stride, self.offset = list(plain.size()), list(plain.stride()), plain.storage_offset()
        elements = plain.untyped_storage().nbytes() // plain.element_size()
        self.whole = plain.is_contiguous() and elements == plain.numel()
        if self.whole:
            self.values = plain.clone(memory_format=torch.contiguous_format)
        else:  # the storage as it is: strides, overlaps and what lies before and behind
            self.values = plain.as_strided((elements,), (1,), 0).clone()

    def make(self):
        values = self.values.clone()
        if not self.whole:
            values = values.as_strided(self.size, self.stride, self.offset)
        return values.requires_grad_(self.requires_grad)


class Recorder(SchemaCheckMode):
    """A mode on the PreDispatch key, the one place that sees calls before autograd and before composite ops come
    apart. Only SchemaCheckMode and two others are let onto that key, hence the base class; its checks are not run."""

    def __init__(self, program):
        TorchDispatchMode.__init__(self, _dispatch_key=torch._C.DispatchKey.PreDispatch)
        self.program = program

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        called = with_scalars(func, args, kwargs)
        schema = called._schema
        if not schema.name.startswith("aten::"):
            raise Unpassable("it calls " + schema.name + ", which Python registers and libtorch lacks")
        values = []
        for position, argument in enumerate(schema.arguments):
            if position < len(args):
                values.append(encode(args[position], argument.type, self.program))
            elif argument.name in kwargs:
                values.append(encode(kwargs[argument.name], argument.type, self.program))
            else:
                values.append({"u": 1})
        while values and values[-1] == {"u": 1}:
            values.pop()
        result = func(*args, **kwargs)
        name = schema.name + ("." + schema.overload_name if schema.overload_name else "")
        outs = [self.program.name(r) if isinstance(r, torch.Tensor) else None for r in tree_flatten(result)[0]]
        self.program.calls.append((name, called, values, outs))
        return result


def with_scalars(func, args, kwargs):
    """Python lets a number stand for a Tensor (a wrapped number, which promotes as a Scalar does); a schema does not.
    Gives the overload that takes a Scalar there."""
    given = {a.name: v for a, v in zip(func._schema.arguments, args)} | kwargs
    numbers = {a.name for a in func._schema.arguments
               if str(a.type) == "Tensor" and isinstance(given.get(a.name), (bool, int, float, complex))}
    if not numbers:
        return func
    for overload in func.overloadpacket.overloads():
        other = getattr(func.overloadpacket, overload)
        kinds = {a.name: str(a.type) for a in other._schema.arguments}
        if list(kinds) == [a.name for a in func._schema.arguments] and all(
                ("Scalar" in kind or "number" in kind) == (name in numbers) or name not in given
                or not isinstance(given[name], torch.Tensor) and name not in numbers for name, kind in kinds.items()):
            return other
    raise Unpassable("a Python number stands for a Tensor in " + func._schema.name + ", which has no Scalar overload")


def encode(value, kind, program):
    """A JSON form that says the type where JSON cannot; `kind` is the schema's type of the argument."""
    if str(kind) == "Tensor" and isinstance(value, (bool, int, float, complex)):
        raise Unpassable("a Python number stands for a Tensor")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, torch.Tensor):
        return {"t": program.use(value)}
    if isinstance(value, int):
        return value if abs(value) <= 2**53 else {"i": str(value)}
    if isinstance(value, float):
        return {"f": value if math.isfinite(value) else str(value), "scalar": "Scalar" in str(kind) or "number" in str(kind)}
    if isinstance(value, complex):
        return {"c": [repr(value.real), repr(value.imag)]}
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return {type(value).__name__: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, (list, tuple)):
        return [encode(v, kind, program) for v in value]
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        raise Unpassable("an argument is symbolic")
    raise Unpassable("an argument is a " + type(value).__name__)


def decode(value, tensors):
    if isinstance(value, list):
        return [decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((tag, inner),) = [(k, v) for k, v in value.items() if k != "scalar"]
    if tag == "t":
        return tensors[inner]
    if tag == "i":
        return int(inner)
    if tag == "f":
        return float(inner)
    if tag == "c":
        return complex(float(inner[0]), float(inner[1]))
    return torch.device(inner) if tag == "device" else getattr(torch, inner)


def record(inputs, run):
    """Calls run() and returns the program, with `inputs` as its first tensors, and what run() returned."""
    program = Program()
    for tensor in inputs:
        program.use(tensor)
    with enable_python_dispatcher(), Recorder(program):
        result = run()
    return program, result


def replay(program):
    """Runs the recorded overloads again, without any mode: {id: tensor}. This is what the bridge must match."""
    tensors = {number: held.make() for number, held in program.inputs.items()}
    for _, func, values, outs in program.calls:
        arguments, keywords = [], {}
        for argument, value in zip(func._schema.arguments, values):
            if value == {"u": 1}:
                continue
            if argument.kwarg_only:
                keywords[argument.name] = decode(value, tensors)
            else:
                arguments.append(decode(value, tensors))
        results = tree_flatten(func(*arguments, **keywords))[0]
        for number, result in zip(outs, results):
            if number is not None:
                tensors[number] = result
    return tensors
