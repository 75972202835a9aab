"""Call a user's module on flat tensors, and say clearly what it did wrong if it fails."""

import copy
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dst.export.errors import ExportError, StepFaultError
from dst.export.infer.call import Tensors, first_line, seed_all, spelled
from dst.export.infer.tree import Tree, taken

_LSTMS = (nn.LSTM, nn.LSTMCell)
_SINGLE = (nn.GRU, nn.RNN, nn.GRUCell, nn.RNNCell)
_NARROW = {
    torch.bfloat16: "bfloat16, which numpy and ONNX Runtime's CPU kernels do not have",
    torch.float16: "float16, which ONNX Runtime's CPU kernels widen: nothing is gained",
}


def prepared(module: object) -> nn.Module:
    """Return a copy of a module on the CPU, in evaluation mode; the caller's own is not touched.

    Raises:
        ExportError: it is no module, cannot be copied, or has weights in half precision.
    """
    if isinstance(module, type) and issubclass(module, nn.Module):
        raise ExportError(
            f"module is the class {module.__name__}; give an instance, such as {module.__name__}()"
        )
    if not isinstance(module, nn.Module):
        raise ExportError(
            f"module is {type(module).__name__}; expected a torch.nn.Module that takes "
            "(chunk, state) and returns (outputs, state)"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise ExportError(
            f"{called(module)} was made by torch.jit, which keeps no Python that could be traced; "
            "give the module that it was made of"
        )
    module = _bare(module)
    try:
        own = copy.deepcopy(module, dict(_calculated(module))).eval().cpu()
    except Exception as error:
        raise ExportError(
            f"{called(module)} cannot be copied to the CPU: {first_line(error)}; if it keeps the "
            "result of an earlier call as an attribute, return it as state instead"
        ) from error
    _set_weights(own)
    for name, tensor in (*own.named_parameters(), *own.named_buffers()):
        if tensor.dtype in _NARROW:
            raise ExportError(
                f"{called(module)}: `{name}` is {_NARROW[tensor.dtype]}; export "
                "`module.float()`, and quantize the bundle for size"
            )
    return own


def _calculated(module: nn.Module) -> Iterator[tuple[int, object]]:
    """Copy, without their gradients, the tensors that a module has calculated and holds.

    torch refuses to copy these; `torch.nn.utils.weight_norm` leaves such weights behind.
    """
    for part in module.modules():
        for value in vars(part).values():
            for tensor in value if isinstance(value, list | tuple) else [value]:
                if isinstance(tensor, Tensor) and not tensor.is_leaf:
                    yield id(tensor), tensor.detach().clone()


def _set_weights(module: nn.Module) -> None:
    """Replace weights that are calculated from others (`parametrizations`) by their values."""
    for part in filter(parametrize.is_parametrized, list(module.modules())):
        kind = type(part)  # the caller's module has the same class, and it would be changed
        held = {n: v for n, v in vars(kind).items() if n not in ("__dict__", "__weakref__")}
        part.__class__ = type(kind.__name__, kind.__bases__, held)
        for name in list(cast(nn.ModuleDict, part.parametrizations)):
            parametrize.remove_parametrizations(part, name, leave_parametrized=True)
        if isinstance(part, nn.RNNBase):
            part._init_flat_weights()


def _bare(module: nn.Module) -> nn.Module:
    """Take off what speeds a module up and changes nothing of what it does."""
    if isinstance(module, nn.DataParallel):
        return _bare(module.module)
    inner = getattr(module, "_orig_mod", None)  # torch.compile
    return _bare(inner) if isinstance(inner, nn.Module) else module


def called(module: nn.Module) -> str:
    """The name of a module's class."""
    return type(module).__name__


def told(value: object) -> str:
    """What a value is, in a few words, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor {spelled(value)}"
    if isinstance(value, tuple | list):
        return f"{len(value)} things ({', '.join(map(told, value[:4]))})"
    return "nothing" if value is None else f"a {type(value).__name__}"


class Caller:
    """A module that takes and gives flat tensors.

    Attributes:
        takes_state: Whether its ``forward`` is given a state; ``needs_state``: cannot do without.
        chunk_name: What its ``forward`` calls the chunk.
        state: How its state is nested; None until it is known.
        named: Whether the contract is still being found: what the module raises is then told as
            its fault, where a tracer wants to see it as it is; and each call runs a module that
            has never run, so that what a module keeps on itself is left for the checks to name.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.state: Tree | None = None
        self.named = True
        self._answered: tuple[Tensor, Sequence[Tensor]] | None = None
        self.chunk_name, self.takes_state, self.needs_state = _signature(module)

    def raw(self, chunk: Tensor, state: object, seed: int = 0) -> object:
        """Call the module and return what it returns; what it raises becomes a StepFaultError."""
        arguments = (chunk, state) if self.takes_state else (chunk,)
        try:
            with torch.no_grad():
                return self._runs(seed)(*arguments)
        except Exception as error:
            if not self.named:
                raise
            given = f"chunk {spelled(chunk)}"
            if state is not None:
                tree, tensors = taken(state, "state")
                named = zip(tree.names, tensors, strict=True)
                parts = [f"{n or 'state'} {spelled(s)}" for n, s in named]
                given += f" and state {', '.join(parts)}" if parts else ""
            elif self.takes_state:
                names = ", ".join(inspect.signature(self.module.forward).parameters)
                given += f" and no state (called as forward({names}), the chunk first)"
            raise StepFaultError(
                f"{called(self.module)} failed on {given}: {first_line(error)}"
            ) from error

    def _runs(self, seed: int) -> nn.Module:
        """The module to call: itself, or a copy with the same weights and random numbers."""
        if not self.named:
            return self.module
        seed_all(seed)
        shared = {id(p): p for p in self.module.parameters()}
        return copy.deepcopy(self.module, dict(_calculated(self.module)) | shared)

    def split(self, result: object) -> tuple[Tensors, object]:
        """Part what the module returned into outputs by name, and the state as it is nested."""
        count = len(result) if isinstance(result, tuple | list) else 0
        if isinstance(self.module, nn.RNNCellBase):  # its state is its answer
            return self._outputs(result[0] if isinstance(result, tuple) else result), result
        if not self.takes_state:
            if isinstance(result, tuple) and count == 2 and result[1] is None:
                result = result[0]
            return self._outputs(result), None
        if not isinstance(result, tuple | list) or hasattr(result, "_fields") or count != 2:
            cure = "return the new state as well: `return outputs, state`"
            if count > 2:
                cure = "put what belongs together in a tuple or dict: `return outputs, (h, c)`"
            raise ExportError(
                f"{called(self.module)} returned {told(result)}; expected two: (outputs, state); "
                f"{cure}",
                code="step-result",
            )
        outputs, state = result
        return self._outputs(outputs), state

    def __call__(self, chunk: Tensor, state: Sequence[Tensor]) -> tuple[Tensors, list[Tensor]]:
        """Step once on copies, so that a module may write into what it is given."""
        tree = self.state
        assert tree is not None  # the state's nesting is found before the first call
        outputs, after = self.split(self._answer(tree, chunk, state))
        other, tensors = taken(after, "the returned state")
        found = dict(zip(other.names, tensors, strict=True))
        if set(other.names) != set(tree.names):
            if tree.names and set(other.names) > set(tree.names):
                self._check_grows(chunk, tree, other, after)
            cure = "return the state as it was given"
            if tree.empty or not tree.names:
                cure = "give the state as it is at the start, zeros perhaps, in the place of None"
            raise ExportError(
                f"{called(self.module)} got a state of {tree} and returned one of {other}; "
                f"expected the same both times: {cure}",
                code="step-result",
            )
        return outputs, [found[name] for name in tree.names]

    def _answer(self, tree: Tree, chunk: Tensor, state: Sequence[Tensor]) -> object:
        """Call on copies; where that fails, ask once more what went well before."""

        def call(chunk: Tensor, state: Sequence[Tensor]) -> object:
            return self.raw(chunk.clone(), tree.filled([tensor.clone() for tensor in state]))

        try:
            result = call(chunk, state)
        except StepFaultError as fault:
            try:
                if self._answered is not None:
                    call(*self._answered)
            except StepFaultError as now:
                raise StepFaultError(
                    f"{now}; the same call went well before: the module keeps a memory outside of "
                    "its state, and a graph keeps none: take it from `state` and return it",
                    code="hidden-state",
                ) from fault
            raise
        if self.named and self._answered is None:
            self._answered = chunk, state
        return result

    def _check_grows(self, chunk: Tensor, before: Tree, after: Tree, state: object) -> None:
        """Refuse a state that has more tensors after every call; another is named later."""
        later = taken(self.split(self.raw(chunk.clone(), state))[1], "the returned state")[0]
        counts = [len(tree.names) for tree in (before, after, later)]
        if counts[2] > counts[1]:
            raise StepFaultError(
                f"the state grows: it holds {', '.join(map(str, counts))} tensors at the start and "
                "after one and two chunks; a bundle holds states of fixed size: keep the last n "
                "only, in a buffer of n",
                code="state-grows",
            )

    def _outputs(self, value: object) -> Tensors:
        tree, tensors = taken(value, "an output")
        if not tensors:
            raise ExportError(
                f"{called(self.module)} returned no output; a step must answer something",
                code="step-result",
            )
        names = [
            name if name and not name[0].isdigit() else ".".join(filter(None, ("output", name)))
            for name in tree.names
        ]
        return dict(zip(names, tensors, strict=True))


def state_names(module: nn.Module, tree: Tree) -> list[str]:
    """Give the tensors of a state readable names: ``h`` and ``c`` where a module has an LSTM."""
    parts = list(module.modules())
    names = list(tree.names)
    if any(isinstance(part, _LSTMS) for part in parts):
        for prefix in {name[:-1] for name in names if re.search(r"(^|\.)0$", name)}:
            group = [name for name in names if re.fullmatch(re.escape(prefix) + r"\d+", name)]
            if len(group) == 2:
                letters = dict(zip(group, (f"{prefix}h", f"{prefix}c"), strict=True))
                names = [letters.get(name, name) for name in names]
    bare = "h" if any(isinstance(part, _SINGLE) for part in parts) else "state"
    return [bare if not name else f"state.{name}" if name[0].isdigit() else name for name in names]


def _signature(module: nn.Module) -> tuple[str, bool, bool]:
    """Return what ``forward`` calls the chunk, whether it takes a state after it, and needs one."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return "chunk", True, False
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    variable = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    needed = {p.name for p in parameters if p.default is p.empty and p not in variable}
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    positional = [p.name for p in parameters if p.kind in kinds]
    if (not positional and not several) or not needed.issubset(positional[:2]):
        raise ExportError(
            f"{called(module)}.forward takes ({', '.join(p.name for p in parameters)}); expected "
            "(chunk, state): put all that is carried into one tuple, dict or dataclass, and what "
            "never changes into buffers of the module",
            code="step-result",
        )
    name = positional[0] if positional else "chunk"
    return name, several or len(positional) > 1, len(needed) > 1
