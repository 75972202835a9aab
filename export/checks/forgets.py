"""Check that a module whose answers depend on earlier items carries them from chunk to chunk.

A classifier as most people have it, ``y, _ = self.lstm(x)``, drops the state of its recurrence and
starts each chunk from zeros. With one T no other check can see that: there is no second cut to
compare with. Here the recurrent layers are watched, and the first item of a chunk is changed.
"""

import contextlib
import re
from typing import Any

import torch
from torch import Tensor, nn

from dst.export.errors import ExportError, StepFaultError
from dst.export.infer.axes import close
from dst.export.infer.call import Tensors, call_step
from dst.export.infer.inferred import Inferred
from dst.export.infer.module import called
from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Tokens, window

WINDOW = (
    "Where each chunk is a window that is judged alone, say so: state=() (`--state none`), and "
    "one T"
)


def check_carried(step: Inferred) -> None:
    """Refuse a module that forgets at the end of each chunk what its answers depend on."""
    chunk = step.contract.chunk
    if step.alone or not chunk.causal:
        return
    try:
        layers = [] if chunk.lookback else _restarting(step)
        reach = 0 if step.contract.state else _reach(step)
    except ExportError:
        return  # the module fails: the checks of the step say where
    if layers:
        raise StepFaultError(_told_layers(step, layers), code="cut-matters")
    if reach:
        raise StepFaultError(_told_reach(step, reach), code="cut-matters")


def _restarting(step: Inferred) -> list[str]:
    """Name the layers that read the items of a chunk one after the other, and start from zeros.

    A layer that runs over something else, such as frequencies, rightly starts anew in each chunk.
    It is told apart by the last item of a chunk: over time only the layer's last input moves.
    """
    chunk = step.contract.chunk
    t, length = chunk.nominal_t, chunk.lookback + chunk.nominal_t + chunk.lookahead
    state = call_step(step, _items(step, t, 0), step.initial_state(1))[1]
    other = _items(step, t, 1)
    moved = _items(step, t, 2).narrow(chunk.time_axis, length - 1, 1)
    held = other.narrow(chunk.time_axis, 0, length - 1)
    before = _starts(step, other, state)
    after = _starts(step, torch.cat([held, moved], chunk.time_axis), state)
    found = []
    for name, (inputs, fresh) in before.items():
        again = after.get(name, ([], False))[0]
        same_but_last = all(close(a, b) for a, b in zip(again[:-1], inputs[:-1], strict=False))
        if fresh and len(inputs) == len(again) == t and same_but_last:
            found.append(name)
    return found


def _starts(step: Inferred, x: Tensor, state: Tensors) -> dict[str, tuple[list[Tensor], bool]]:
    """What each recurrent layer reads in a step, in its order, and whether it starts from zeros."""
    found: dict[str, tuple[list[Tensor], bool]] = {}
    names = {part: name for name, part in step.module.named_modules()}

    def look(part: nn.Module, given: tuple[Any, ...], more: dict[str, Any]) -> None:
        x = given[0] if given else more["input"]
        hidden = given[1] if len(given) > 1 else more.get("hx")
        parts = hidden if isinstance(hidden, tuple) else (hidden,)
        zeros = all(p is None or not bool(p.any()) for p in parts)
        inputs, fresh = found.get(names[part], ([], zeros))
        if isinstance(part, nn.RNNBase) and isinstance(x, Tensor):
            axis = 1 if part.batch_first and x.dim() == 3 else 0
            found[names[part]] = (list(x.detach().clone().unbind(axis)), zeros)
        elif isinstance(part, nn.RNNCellBase):
            found[names[part]] = ([*inputs, x.detach().clone()], fresh)

    with contextlib.ExitStack() as hooks:
        for part in names:
            if isinstance(part, nn.RNNBase | nn.RNNCellBase):
                hooks.enter_context(part.register_forward_pre_hook(look, with_kwargs=True))
        call_step(step, x, state)
    return found


def _told_layers(step: Inferred, layers: list[str]) -> str:
    parts, carries = dict(step.module.named_modules()), bool(step.contract.state)
    kinds = " and ".join(sorted({f"nn.{type(parts[name]).__name__}" for name in layers}))
    starts = "starts" if len(layers) == 1 else "start"
    # lines of Python that carry the state of the layers, and what is returned beside answers
    names = [f"s{number}" for number in range(1, len(layers) + 1)]
    if carries or len(layers) == 1:
        names = ["state", *names] if carries else ["state"]
    lines = [] if carries else [f"def forward(self, {step.contract.chunk.input}, state=None):"]
    back = names[0] if len(names) == 1 else f"({', '.join(names)})"
    if len(names) > 1:
        lines.append(f"{', '.join(names)} = state or ({', '.join('None' for _ in names)})")
    for state, layer in zip(names[-len(layers) :], layers, strict=True):
        path = re.sub(r"\.(\d+)", r"[\1]", f"self.{layer}")
        if isinstance(parts[layer], nn.RNNCellBase):
            both = "h, c = " if isinstance(parts[layer], nn.LSTMCell) else ""
            lines.append(f"{both}{state} = {path}(item, {state})")
        else:
            lines.append(f"x, {state} = {path}(x, {state})")
    return (
        f"{called(step.module)} forgets after each chunk: "
        f"{' and '.join(f'`{name}`' for name in layers)} ({kinds}) {starts} from zeros every time, "
        "and on a stream nothing of the chunks before is left. Take the state and return it: "
        f"{', '.join(f'`{line}`' for line in lines)}, `return answer, {back}`; the weights stay as "
        f"they are{'' if carries else f'. {WINDOW}'}"
    )


def _reach(step: Inferred) -> int:
    """How many items after its own the first item that a chunk reads still moves answers.

    0 as well where the module is not causal or does not repeat its answers, which other checks
    name.
    """
    chunk = step.contract.chunk
    t, extra = chunk.nominal_t, chunk.lookback + chunk.lookahead
    timed = {o.name: o.time_axis for o in step.contract.outputs if o.time_axis is not None}
    if t == 1 or not timed:
        return 0
    x = _items(step, t, 0)
    base, again = (_answers(step, x, timed) for _ in range(2))
    if not close(again, base):
        return 0
    axis, whole = chunk.time_axis, t + extra
    other = _items(step, t, 1)
    last = torch.cat([x.narrow(axis, 0, whole - 1), other.narrow(axis, whole - 1, 1)], axis)
    if not close(_answers(step, last, timed)[0], base[0]):
        return 0
    first = torch.cat([other.narrow(axis, 0, 1), x.narrow(axis, 1, whole - 1)], axis)
    moved = _answers(step, first, timed)
    return max((i for i in range(1, t) if not close(moved[i], base[i])), default=0)


def _answers(step: Inferred, x: Tensor, timed: dict[str, int]) -> Tensor:
    """All answers of a chunk, a row for each item."""
    outputs = call_step(step, x, step.initial_state(1))[0]
    return torch.cat([outputs[n].double().movedim(a, 0).flatten(1) for n, a in timed.items()], 1)


def _told_reach(step: Inferred, reach: int) -> str:
    chunk = step.contract.chunk
    seen = f"the answer for an item depends on items up to {reach + chunk.lookback} before it"
    wanted = chunk.lookback + reach
    back = f", or have them read again: lookback={wanted} (`--lookback {wanted}`)"
    back = back if reach + 1 < chunk.nominal_t else ""
    given = f", and lookback gives {chunk.lookback}" if chunk.lookback else ""
    return (
        f"{called(step.module)} forgets after each chunk: {seen} within a chunk of "
        f"T = {chunk.nominal_t}{given}, and it returns no state. On a stream the first answers of "
        f"every chunk would miss them. Return what they need, `return answer, state`: what a loop "
        f"has gathered, the last inputs of a convolution, a count{back}. {WINDOW}"
    )


def _items(step: Inferred, t: int, seed: int) -> Tensor:
    """A chunk of random items, about as large as the example's, in the contract's layout."""
    chunk = step.contract.chunk
    example = step.example
    assert example is not None
    source = torch.Generator().manual_seed(seed)
    shape = sized(chunk.shape, window(chunk, t))
    if isinstance(chunk.content, Tokens):
        ids = torch.randint(0, chunk.content.vocabulary, shape, generator=source)
        return ids.to(example.dtype)
    wide = example.double()
    spread = float(wide.std()) if wide.numel() > 1 else 0.0
    drawn = torch.randn(shape, generator=source, dtype=torch.float64)
    return (float(wide.mean()) + (spread or 1.0) * drawn).to(example.dtype)
