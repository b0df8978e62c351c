"""Old pickled checkpoints, read without doing what they say: for `python -m benchmark convert`, and for nothing else.

A pickle is a program. Python's unpickler runs it; this reader only follows it: `pickletools` names its operations one by one,
and those that make numbers, texts, lists, dicts and tensors are done here. Where the file names any other class or function,
a placeholder stands: no module is imported, nothing that the file names is called, arguments and state are thrown away.
Tensors stay sketches (which storage, offset, sizes) until the ones to be kept are known.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pickletools import genops
from typing import IO, Any, cast

import torch

KINDS = {  # the class of a storage in torch files, and the type of its values
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Long": torch.int64,
    "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip
STORAGES = {f"torch.{name}Storage": kind for name, kind in KINDS.items()} | {"torch.storage.UntypedStorage": torch.uint8}
TYPES = {str(kind): kind for kind in (*KINDS.values(), torch.uint16, torch.uint32, torch.uint64)}  # "torch.float32" and so on
DICTS = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict"}
TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"}
PARAMETERS = {
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch.nn.parameter.Parameter",
}  # fmt: skip
SUBCLASSED = "torch._tensor._rebuild_from_type_v2"
MOST_AXES = 64  # of a tensor in torch
UNDERSTOOD = {*STORAGES, *TYPES, *DICTS, *TENSORS, *PARAMETERS, SUBCLASSED}


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Something that the file names: a class, a function, or what calling it would have made. A name and no more."""

    name: str


SET = Placeholder("builtins.set")  # no set holds tensors by name


@dataclass(frozen=True, slots=True)
class Storage:
    """Values that lie in the file: `count` of them from `start` on, under a key."""

    key: str
    kind: torch.dtype
    count: int
    start: int = 0

    @property
    def bytes(self) -> int:
        """The size of its values."""
        return self.count * self.kind.itemsize


@dataclass(frozen=True, slots=True)
class Sketch:
    """A tensor before its values are read: offset and strides in values of `kind`."""

    storage: Storage
    kind: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many values it has."""
        return prod(self.size)


class Machine:
    """Follows pickles; `placeholders` collects the names that it did not look up, `storages` the storages by key."""

    def __init__(self) -> None:
        self.placeholders: dict[str, None] = {}
        self.storages: dict[str, Storage] = {}

    def follow(self, file: BytesIO | mmap.mmap) -> object:
        """The value of the pickle at the file's position, which is then behind it. Raises one of DAMAGED."""
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        for operation, argument, _ in genops(cast("IO[bytes]", file)):
            if operation.name in LITERALS:
                self.push(argument)
            elif operation.name not in IGNORED:
                OPERATIONS[operation.name](self, argument)
        return self.stack.pop()

    def push(self, value: object) -> None:
        """Puts a value on top."""
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        """What was pushed since the last mark, which is forgotten."""
        found, self.stack = self.stack, self.marked.pop()
        return found

    def mark(self) -> None:
        """Begins a new group of values."""
        self.marked.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        """Forgets the last value, or the mark that is in its place."""
        self.stack.pop() if self.stack else self.since_mark()

    def last(self, count: int) -> tuple[Any, ...]:
        """Takes the last values off."""
        if len(self.stack) < count:
            raise ValueError("the stack is too short")
        found = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return found

    def remember(self, key: int) -> None:
        """Keeps the last value under a number."""
        self.memo[key] = self.stack[-1]

    def recall(self, key: int) -> None:
        """Pushes the value that was kept under a number."""
        self.push(self.memo[key])

    def named(self, *parts: str) -> Placeholder:
        """A name stays a name: nothing is looked up."""
        name = ".".join(parts)
        if name not in UNDERSTOOD:
            self.placeholders[name] = None
        return Placeholder(name)

    def put(self, values: Iterable[Any]) -> None:
        """Keys and values, in turn, into the dict on top; into a placeholder they vanish."""
        found, target = list(values), self.stack[-1]
        if isinstance(target, dict):
            pairs = zip(found[::2], found[1::2], strict=True)
            target.update({key: value for key, value in pairs if isinstance(key, str | int | float | bytes | None)})
        elif not isinstance(target, Placeholder):
            raise TypeError("no dict to put into")

    def fill(self, target: object, values: list[Any]) -> None:
        """Pushes a dict or a placeholder with its contents."""
        self.push(target)
        self.put(values)

    def add(self, values: Iterable[Any]) -> None:
        """Values onto the list on top; into a placeholder they vanish."""
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)
        elif not isinstance(self.stack[-1], Placeholder):
            raise TypeError("no list to add to")

    def make(self, what: Any, arguments: Any) -> None:
        """Pushes what calling it would have made, where that is a dict or a tensor; else its placeholder."""
        if not isinstance(what, Placeholder) or not isinstance(arguments, tuple):
            raise TypeError("nothing that could be called")
        self.push(self._made(what, arguments))

    def make_from(self, items: list[Any]) -> None:
        """As `make`, of a class and its arguments in one list."""
        self.make(items[0], tuple(items[1:]))

    def _made(self, what: Placeholder, arguments: tuple[Any, ...]) -> object:
        if what.name in DICTS:
            pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
            return {key: value for key, value in pairs if isinstance(key, str | int)}
        if what.name in TENSORS:
            return _sketch(arguments, what.name.endswith("v3"))
        if what.name in PARAMETERS:
            return arguments[0]
        if what.name == SUBCLASSED:  # (function, class, its arguments, state): what lies inside is a tensor of torch
            function, _, inner, _ = arguments
            return self._made(function, inner) if function.name in TENSORS else what
        return what

    def stored(self, identity: Any) -> None:
        """Pushes the storage that a persistent id names; other ids name the source code of modules."""
        if not isinstance(identity, tuple) or identity[0] != "storage":
            self.push(self.named("persistent id"))
            return
        _, kind, key, _, count, *views = identity
        if kind.name not in STORAGES:
            self.push(kind)
            return
        whole = Storage(str(key), STORAGES[kind.name], _natural(count))
        self.storages.setdefault(whole.key, whole)
        view = views[0] if views else None  # (key of its own, first value, number of values)
        found = whole if view is None else Storage(whole.key, whole.kind, _natural(view[2]), _natural(view[1]))
        self.push(found)


def _natural(value: Any) -> int:
    """Raises TypeError or ValueError for anything but a whole number from 0 on that a file can need."""
    if type(value) is not int:
        raise TypeError("not a whole number")
    if not 0 <= value < 1 << 48:
        raise ValueError("a size out of all bounds")
    return value


def _sketch(arguments: tuple[Any, ...], typed: bool) -> Sketch | Placeholder:
    """A tensor from the arguments of torch's rebuilding functions; the placeholder of a storage that is not understood."""
    storage, offset, size, stride = arguments[:4]
    if isinstance(storage, Placeholder):
        return storage
    if typed and arguments[6].name not in TYPES:
        return Placeholder(arguments[6].name)
    kind = TYPES[arguments[6].name] if typed else storage.kind
    if len(size) > MOST_AXES:
        raise ValueError("more axes than a tensor has")
    sizes, strides = tuple(map(_natural, size)), tuple(map(_natural, stride))
    found = Sketch(storage, kind, _natural(offset), sizes, strides)
    end = found.offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) + 1
    if found.count and end * kind.itemsize > storage.bytes:
        raise ValueError("a tensor beyond its storage")
    return found


IGNORED = {"PROTO", "FRAME", "STOP"}
LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8",
}  # fmt: skip
OPERATIONS: dict[str, Callable[[Machine, Any], Any]] = {  # extensions and buffers outside the pickle are missing: refused
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(SET),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.pop(),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "GET": Machine.recall,
    "BINGET": Machine.recall,
    "LONG_BINGET": Machine.recall,
    "PUT": Machine.remember,
    "BINPUT": Machine.remember,
    "LONG_BINPUT": Machine.remember,
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.push(m.last(1)),
    "TUPLE2": lambda m, _: m.push(m.last(2)),
    "TUPLE3": lambda m, _: m.push(m.last(3)),
    "DICT": lambda m, _: m.fill({}, m.since_mark()),
    "FROZENSET": lambda m, _: m.fill(SET, m.since_mark()),
    "SETITEM": lambda m, _: m.put(m.last(2)),
    "SETITEMS": lambda m, _: m.put(m.since_mark()),
    "APPEND": lambda m, _: m.add(m.last(1)),
    "APPENDS": lambda m, _: m.add(m.since_mark()),
    "ADDITEMS": lambda m, _: m.since_mark(),
    "GLOBAL": lambda m, words: m.push(m.named(*words.split(" ", 1))),
    "STACK_GLOBAL": lambda m, _: m.push(m.named(*m.last(2))),
    "REDUCE": lambda m, _: m.make(*m.last(2)),
    "NEWOBJ": lambda m, _: m.make(*m.last(2)),
    "NEWOBJ_EX": lambda m, _: m.make(*m.last(3)[:2]),
    "INST": lambda m, words: m.make(m.named(*words.split(" ", 1)), tuple(m.since_mark())),
    "OBJ": lambda m, _: m.make_from(m.since_mark()),
    "BUILD": lambda m, _: m.last(1),
    "PERSID": lambda m, identity: m.stored(identity),
    "BINPERSID": lambda m, _: m.stored(*m.last(1)),
}  # fmt: skip
