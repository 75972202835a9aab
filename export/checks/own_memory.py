"""Find what a module keeps on itself between calls, and where it draws random numbers.

Used only where a module has answered one chunk and state in two ways: to name the culprit.
"""

import collections
import contextlib
import hashlib
import inspect
import itertools
import random
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

DEPTH = 6
"""How deep attributes of attributes are followed."""
_PLAIN = (int, float, complex, bool, str, bytes, type(None), np.generic)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def memory_of(module: nn.Module) -> dict[str, str]:
    """Return a digest of everything a call may have changed, by a name a person can find.

    Attributes, buffers and parameters of the module and of its parts, class attributes, values
    held by closures, and globals of the files in which their `forward` stands.
    """
    seen: set[int] = set()
    found: dict[str, str] = {}
    for label, value in _attributes(module):
        found |= _digests(label, value, seen, DEPTH)
    for part in module.modules():
        for owner in type(part).__mro__:
            if owner.__module__.split(".")[0] not in ("torch", "builtins", "abc"):
                for name, value in list(vars(owner).items()):
                    if isinstance(value, types.FunctionType):
                        found |= _of_function(value, seen)
                    elif not name.startswith("__"):
                        found |= _digests(f"class attribute `{name}`", value, seen, DEPTH)
        for value in vars(part).values():
            if isinstance(value, types.FunctionType):
                found |= _of_function(value, seen)
    return found


def generators_of(module: nn.Module) -> list[str]:
    """Name the random generators that the module's parts hold."""
    return [label for label, value in _attributes(module) if isinstance(value, _GENERATORS)]


class Number(NamedTuple):
    """A number that a module keeps outside torch: what holds it, and under which name."""

    label: str
    holder: object
    name: str

    @property
    def held(self) -> object:
        """The number."""
        return getattr(self.holder, self.name)

    def far(self, count: int) -> object:
        """Return a number of the same kind, as it may be after so many calls."""
        if isinstance(self.held, itertools.count):
            return itertools.count(count)
        return type(self.held)(count)  # type: ignore[call-arg]


def numbers_of(module: nn.Module) -> Iterator[Number]:
    """Find the numbers in attributes of a module's parts, and in closures that these hold."""
    for path, part in module.named_modules():
        for name, value in list(vars(part).items()):
            if _is_number(value):
                yield Number(f"attribute `{path + '.' if path else ''}{name}`", part, name)
            if isinstance(value, types.FunctionType):
                names = value.__code__.co_freevars
                for inner, cell in zip(names, value.__closure__ or (), strict=True):
                    with contextlib.suppress(ValueError):  # a cell that holds nothing yet
                        if _is_number(cell.cell_contents):
                            label = f"`{inner}` around `{value.__qualname__}`"
                            yield Number(label, cell, "cell_contents")


def _is_number(value: object) -> bool:
    return type(value) in (int, float, itertools.count)


class Operators(TorchDispatchMode):
    """Record the random operators that run, and whether one had a generator of its own."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.random: list[str] = []
        self.own_generator = False
        self.batch_norm = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = str(func).removeprefix("aten.").split(".")[0]
        if torch.Tag.nondeterministic_seeded in func.tags and "attention" not in name:
            self.random.append(name)
            self.own_generator |= kwargs.get("generator") is not None
        self.batch_norm |= "batch_norm" in name
        return func(*args, **kwargs)


def python_randomness() -> tuple[object, ...]:
    """A digest of numpy's and Python's own random states: changed where a call has drawn."""
    state = np.random.get_state(legacy=True)
    return (state[1].tobytes(), state[2], random.getstate())  # type: ignore[index]


def _attributes(module: nn.Module) -> Iterator[tuple[str, object]]:
    """What the parts of a module hold as attributes, each by a name that a person can find."""
    for path, part in module.named_modules():
        own = vars(part)
        for name, value in [*own.items(), *own["_parameters"].items(), *own["_buffers"].items()]:
            torchs = name in ("_parameters", "_buffers", "_modules", "training")
            if not torchs and not name.startswith("_forward"):
                yield f"attribute `{path + '.' if path else ''}{name}`", value


def _of_function(function: types.FunctionType, seen: set[int]) -> dict[str, str]:
    if id(function) in seen:
        return {}
    seen.add(id(function))
    found: dict[str, str] = {}
    closed = inspect.getclosurevars(function)
    for name, value in closed.nonlocals.items():
        found |= _digests(f"`{name}` around `{function.__qualname__}`", value, seen, DEPTH)
    for name, value in closed.globals.items():
        found |= _digests(f"global `{name}`", value, seen, DEPTH)
    for name, value in vars(function).items():
        found |= _digests(f"`{function.__qualname__}.{name}`", value, seen, DEPTH)
    return found


def _digests(label: str, value: object, seen: set[int], depth: int) -> dict[str, str]:
    """Digest one value; what it holds is digested under the same label."""
    parts: list[str] = []
    _gather(value, seen, depth, parts.append)
    return {label: hashlib.sha256("|".join(parts).encode()).hexdigest()} if parts else {}


def _gather(value: object, seen: set[int], depth: int, tell: Callable[[str], None]) -> None:
    if isinstance(value, _PLAIN):
        tell(repr(value))
        return
    if isinstance(value, nn.Module | types.ModuleType | type) or depth == 0 or id(value) in seen:
        return
    if isinstance(value, Tensor):
        tell(f"{value.dtype}{list(value.shape)}{_bytes(value)}")
        return
    if isinstance(value, np.ndarray):
        tell(hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest())
        return
    if isinstance(value, _GENERATORS):
        tell(_generator(value))
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        for key, held in list(value.items()):
            tell(repr(key) if isinstance(key, _PLAIN) else "key")
            _gather(held, seen, depth - 1, tell)
    elif isinstance(value, list | tuple | set | frozenset | collections.deque):
        for held in list(value):
            _gather(held, seen, depth - 1, tell)
    elif isinstance(value, types.FunctionType):
        for text in _of_function(value, seen).values():
            tell(text)
    elif isinstance(value, types.MethodType):
        _gather(value.__self__, seen, depth - 1, tell)
    elif hasattr(value, "__dict__"):  # an object of the user's, which may well be callable
        _gather(vars(value), seen, depth - 1, tell)
    seen.discard(id(value))


def _bytes(tensor: Tensor) -> str:
    try:
        array = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    except (RuntimeError, TypeError):
        return "?"
    return hashlib.sha256(array.tobytes()).hexdigest()


def _generator(value: object) -> str:
    if isinstance(value, torch.Generator):
        return _bytes(value.get_state())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    return repr(value.getstate()) if isinstance(value, random.Random) else ""
