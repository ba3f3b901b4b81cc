"""What a function or a class does, as plain JSON: its compiled code and everything that the code refers to.

Source text would not do: two lambdas on one line have the same, and notebooks and `exec` have none. So the bytecode is
hashed, with its constants and names, its defaults, what it closes over, and the functions and values of its module that
it names, and theirs in turn. Comments and formatting don't count. Bytecode differs between versions of Python, so the
version is told beside it. Code of this package stands for itself by name, and for other installed packages by name and
version.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Describe = Callable[[Any], Any]
"""`identity.describe`, for values that aren't code."""

PACKAGE = __name__.partition(".")[0]
_INSTALLED = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
_GENERATED = frozenset("__init__ __repr__ __eq__ __hash__ __setattr__ __delattr__ __replace__ __match_args__".split())


class _Active(threading.local):
    """What is being described in this thread, so that recursion ends."""

    def __init__(self) -> None:
        self.ids: list[int] = []


_ACTIVE = _Active()


def is_foreign(thing: Any) -> bool:
    """Whether a function or class is the user's own: neither of this package nor of an installed one.

    >>> is_foreign(eval("lambda: 0", {"__name__": "mine"})), is_foreign(len)
    (True, False)
    """
    module = getattr(thing, "__module__", None) or ""
    top = module.partition(".")[0]
    if top == "__main__":
        return True
    if top in (PACKAGE, "builtins") or top in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not str(Path(file)).startswith(_INSTALLED)


def describe_function(function: Any, describe: Describe) -> dict[str, Any]:
    """What a function, method or partial does.

    Args:
        function: any of these.
        describe: describes the values that it refers to.

    Raises:
        ValueError: it refers to a value that has no description.

    >>> double, triple = (eval(f"lambda x: {n} * x", {"__name__": "mine"}) for n in (2, 3))
    >>> describe_function(double, repr) == describe_function(triple, repr)
    False
    """
    if isinstance(function, functools.partial):
        parts = [list(function.args), dict(function.keywords)]
        return {"partial": describe_function(function.func, describe), "arguments": describe(parts)}
    if isinstance(function, types.MethodType):
        return {"method": describe_function(function.__func__, describe), "of": _value(function.__self__, describe)}
    if isinstance(function, types.BuiltinFunctionType):
        owner = function.__self__
        is_bound = owner is not None and not isinstance(owner, types.ModuleType)
        return {**_named(function), **({"of": _value(owner, describe)} if is_bound else {})}
    if isinstance(inner := getattr(function, "__wrapped__", None), types.FunctionType):
        return {"wrapped": describe_function(inner, describe)}
    if not isinstance(function, types.FunctionType):
        return _value(function, describe)
    if not is_foreign(function):
        return {**_named(function), **_closure(function, describe)}
    if id(function) in _ACTIVE.ids:
        return {"function": "recursive"}
    with _describing(function):
        there, names = function.__globals__, sorted(_names(function.__code__))
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        return {
            "code": _hash(function.__code__),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "defaults": [_value(default, describe) for default in defaults],
            "names": {name: _value(there[name], describe) for name in names if name in there},
            **_closure(function, describe),
        }


def describe_class(kind: type, describe: Describe) -> dict[str, Any]:
    """What a class does: of the user's own classes among its bases, all functions and values.

    Raises:
        ValueError: a value of the class has no description.

    >>> describe_class(dict, repr)
    {'name': 'builtins.dict'}
    """
    own = [base for base in kind.__mro__ if is_foreign(base)]
    if not own or id(kind) in _ACTIVE.ids:
        return _named(kind)
    with _describing(kind):
        return {base.__qualname__: dict(_members(base, describe)) for base in own}


def describe_object(thing: Any, describe: Describe) -> dict[str, Any]:
    """What an object of the user's own class is: its class's code and its attributes, cached properties left out.

    Raises:
        ValueError: an attribute has no description.
    """
    kind = type(thing)
    cached = {name for base in kind.__mro__ for name, m in vars(base).items() if hasattr(m, "attrname")}
    own = {name: value for name, value in getattr(thing, "__dict__", {}).items() if name not in cached}
    return {"class": describe_class(kind, describe), **{name: _value(value, describe) for name, value in own.items()}}


def _members(kind: type, describe: Describe) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(vars(kind).items()):
        if isinstance(value, property):
            parts = [part for part in (value.fget, value.fset) if part is not None]
        elif isinstance(value, staticmethod | classmethod):
            parts = [value.__func__]
        else:
            parts = [value.func if isinstance(value, functools.cached_property) else value]
        described = [_value(part, describe) for part in parts if _counts(name, part)]
        if described:
            yield name, described


def _counts(name: str, member: Any) -> bool:
    """Whether a member of a class was written by its author."""
    if isinstance(member, types.FunctionType):
        return not (name in _GENERATED and member.__code__.co_filename == "<string>")  # by dataclasses
    return not (name.startswith(("__", "_abc_")) or isinstance(member, types.MemberDescriptorType))


def _value(value: Any, describe: Describe) -> Any:
    if isinstance(value, types.ModuleType):
        return {"module": value.__name__, "version": str(getattr(value, "__version__", ""))}
    if isinstance(value, type):
        return describe_class(value, describe)
    if isinstance(value, types.FunctionType | types.MethodType | types.BuiltinFunctionType | functools.partial):
        return describe_function(value, describe)
    if isinstance(getattr(value, "__wrapped__", None), types.FunctionType):
        return describe_function(value, describe)
    if id(value) in _ACTIVE.ids:
        return {"object": "recursive"}
    kind = type(value)
    with _describing(value):
        try:
            return describe(value)
        except ValueError:
            if kind.__module__.partition(".")[0] == PACKAGE:  # a task, say: what it asks is described elsewhere
                return _named(kind)
            if not is_foreign(kind):
                raise
        return describe_object(value, describe)


@contextmanager
def _describing(thing: Any) -> Iterator[None]:
    _ACTIVE.ids.append(id(thing))
    try:
        yield
    finally:
        _ACTIVE.ids.pop()


def _closure(function: types.FunctionType, describe: Describe) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if cell != types.CellType():  # an empty one belongs to a function that isn't defined yet
            found[name] = _value(cell.cell_contents, describe)
    return {"closure": found} if found else {}


def _named(thing: Any) -> dict[str, Any]:
    module = str(getattr(thing, "__module__", None) or "builtins")
    top = module.partition(".")[0]
    version = "" if top == PACKAGE else str(getattr(sys.modules.get(top), "__version__", ""))
    name = f"{module}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
    return {"name": name, "version": version} if version else {"name": name}


def _names(code: types.CodeType) -> set[str]:
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _hash(code: types.CodeType) -> str:
    constants = [_hash(c) if isinstance(c, types.CodeType) else _constant(c) for c in code.co_consts]
    parts = (code.co_code, code.co_exceptiontable, code.co_names, code.co_varnames, code.co_freevars, code.co_flags)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
    return hashlib.sha256(repr((parts, counts, constants)).encode()).hexdigest()


def _constant(constant: Any) -> str:
    return repr(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)
