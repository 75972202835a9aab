"""Take the tensors out of a nested state and put others back: names, tensors, and the way back."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from dst.export.errors import ExportError

_NUMBERS = (bool, int, float)
_ODD = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Tree:
    """The shape of a nested value without its tensors, as torch spells it in ``spec``.

    ``names`` are the keys that lead to each tensor, such as ``lstm.0``; ``""`` for a bare one.
    ``empty`` are the leaves that are ``None``.
    """

    names: tuple[str, ...]
    spec: pytree.TreeSpec
    empty: frozenset[int]

    def filled(self, tensors: Sequence[Tensor]) -> object:
        """Build the nested value again around other tensors."""
        left = iter(tensors)
        count = len(self.names) + len(self.empty)
        leaves = [None if place in self.empty else next(left) for place in range(count)]
        return pytree.tree_unflatten(leaves, self.spec)

    def __str__(self) -> str:
        """The names, for a message."""
        if self.names == ("",):
            return "one tensor"
        tensors = "tensor" if len(self.names) == 1 else "tensors"
        named = f" ({', '.join(self.names)})" if self.names else ""
        return f"{len(self.names)} {tensors}{named}"


def taken(value: object, what: str) -> tuple[Tree, list[Tensor]]:
    """Take a nested value apart: dict, tuple, list, dataclass, named tuple, or one tensor.

    Numbers become tensors without axes. ``None`` holds no tensor. ``what`` it is, messages tell.

    Raises:
        ExportError: `step-contract`: something in it is neither a tensor nor a number.
    """
    for kind in _dataclasses(value):
        if kind not in pytree.SUPPORTED_NODES:
            pytree.register_dataclass(kind)
    leaves, spec = pytree.tree_flatten_with_path(value)
    names: list[str] = []
    tensors: list[Tensor] = []
    empty = frozenset(place for place, (_, leaf) in enumerate(leaves) if leaf is None)
    for path, leaf in leaves:
        if leaf is None:
            continue
        name = ".".join(_key(entry) for entry in path)
        if isinstance(leaf, _NUMBERS):
            leaf = torch.tensor(leaf)
        if not isinstance(leaf, Tensor):
            where = f" at `{name}`" if name else ""
            raise ExportError(
                f"{what}{where} is {type(leaf).__name__}; expected tensors, in a tuple, list, "
                "dict, named tuple or dataclass if there are several",
                code="step-contract",
            )
        names.append(name)
        tensors.append(leaf)
    return Tree(_distinct(names), spec, empty), tensors


def _dataclasses(value: object) -> Iterator[type]:
    """Yield every dataclass within a nested value, which torch cannot open by itself."""
    held: Iterable[object] = ()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value)
        held = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    elif isinstance(value, dict | tuple | list):
        held = value.values() if isinstance(value, dict) else value
    for part in held:
        yield from _dataclasses(part)


def _key(entry: pytree.KeyEntry) -> str:
    attribute = next((a for a in ("key", "name", "idx") if hasattr(entry, a)), None)
    return _ODD.sub("_", str(getattr(entry, attribute) if attribute else entry)) or "_"


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Number names that odd characters have made equal."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}.{seen[name]}")
    return tuple(found)
