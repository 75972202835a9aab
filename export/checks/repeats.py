"""Check that a step answers the same question alike: no random numbers, no memory of its own.

`random`, `hidden-state`; see ``dst.export.checks.recurrence``.
"""

import copy
from dataclasses import dataclass

from torch import Tensor, nn

from dst.export.checks.own_memory import (
    Operators,
    generators_of,
    memory_of,
    numbers_of,
    python_randomness,
)
from dst.export.errors import StepFaultError
from dst.export.infer.call import Answer, Tensors, call_step, seed_all, where
from dst.export.infer.inferred import Inferred
from dst.export.infer.probe import Probe, beyond, furthest

REPEAT_SHARE = 1e-5
"""Two calls with the same arguments may differ by this share of a tensor's peak."""
DRAWS = 16
"""Calls of a step that draws random numbers before they are taken to have no effect."""
FAR = (10**3, 10**6, 10**9)
"""Calls after which a number that counts them is tried."""
Asked = tuple[Tensor, Tensors, Answer]
"""The chunk and state of one call, and what it answered the first time."""
NO_RANDOM = (
    "A bundle must answer the same on every run, and a graph has no seed: call `model.eval()`, "
    "remove dropout, noise or sampling from `forward`, or give the random numbers as an input"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the checks have seen and that is no fault, in a sentence.

    ``code`` is that of the fault that it is near to, ``state`` the tensor that it concerns, if one.
    """

    code: str
    text: str
    state: str = ""


def first_answers(probe: Probe) -> list[Asked]:
    """Ask at each T, from the start and from a later state; to be asked again later."""
    asked: list[Asked] = []
    for t in probe.sizes:
        state = probe.start()
        for number, answer in enumerate(probe.carry("data", t, 3)):
            if number != 1:
                asked.append((probe.chunk("data", number, t), state, answer))
            state = answer[1]
    return asked


def check_repeats(probe: Probe, asked: list[Asked], seeds: int = 2) -> None:
    """Ask again after other calls: the same chunk and state must give the same answer.

    Each question is asked under a few seeds, under more where random numbers are drawn.
    """
    for chunk, state, answer in asked:
        operators = Operators()
        with operators:
            again = probe.call(chunk, state, seed=0)
        _compare(probe, chunk, state, answer, again)
        for seed in range(1, DRAWS if operators.random and seeds > 1 else seeds):
            _compare(probe, chunk, state, answer, probe.call(chunk, state, seed=seed))
            if _python_drew(seed):  # though it may seldom matter
                raise StepFaultError(
                    "the module draws from the random numbers of Python or numpy in a step "
                    f"({where(probe.contract, chunk)}); the answer was the same this "
                    f"time. {NO_RANDOM}",
                    code="random",
                )


def check_counters(probe: Probe, asked: list[Asked]) -> list[Finding]:
    """Try numbers of the module that move with every call, as they will be after many calls."""
    chunk, state, _ = asked[-1]
    numbers = list(numbers_of(_own_module(probe)))
    moving = set(range(len(numbers)))
    for _ in range(2):
        before = [repr(number.held) for number in numbers]
        first = probe.call(chunk, state)
        moving &= {i for i, number in enumerate(numbers) if repr(number.held) != before[i]}
    findings = []
    for number in (numbers[i] for i in sorted(moving)):
        held = number.held
        for count in FAR:
            setattr(number.holder, number.name, number.far(count))
            try:
                again = probe.call(chunk, state)
            except StepFaultError:  # it does not count calls: no call brings it there
                break
            finally:
                setattr(number.holder, number.name, held)
            if _apart(again, first):
                raise StepFaultError(
                    f"{number.label} changes with every call, and after {count:,} calls it "
                    f"changes the answer ({where(probe.contract, chunk)}). A graph "
                    "keeps no such number: take it from `state` and return its next value",
                    code="hidden-state",
                )
        findings.append(
            Finding("hidden-state", f"{number.label} changes with every call; a graph keeps none")
        )
    return findings


def _own_module(probe: Probe) -> nn.Module:
    return probe.step.module if isinstance(probe.step, Inferred) else probe.step


def _compare(probe: Probe, chunk: Tensor, state: Tensors, first: Answer, again: Answer) -> None:
    apart = _apart(again, first)
    if not apart:
        return
    name, by = furthest(apart)
    seen = (
        f"the same chunk and state gave another `{name}` the second time "
        f"({by}, {where(probe.contract, chunk)})"
    )
    code, why = _culprit(probe, chunk, state)
    if code == "random":
        raise StepFaultError(
            f"{seen}: the module draws random numbers in a step{why}. {NO_RANDOM}", code=code
        )
    raise StepFaultError(
        f"{seen}: the module keeps a memory of its own{why}. A graph keeps nothing between calls, "
        "so on a device this memory is gone and streams would not be apart: take it from `state` "
        "and return its next value, `return outputs, {'h': h}`",
        code=code,
    )


def _culprit(probe: Probe, chunk: Tensor, state: Tensors) -> tuple[str, str]:
    """Tell random numbers from a memory, by what a call draws and what it changes."""
    own_module = _own_module(probe)
    before = memory_of(own_module)
    operators = Operators()
    with operators:
        first = probe.call(chunk, state, seed=7)
    drawn = _python_drew(7)
    others = [probe.call(chunk, state, seed=7) for _ in range(2)]
    changed = [n for n, digest in memory_of(own_module).items() if before.get(n) != digest]
    own = [name for name in generators_of(own_module) if name in changed]
    by = f" (`{operators.random[0]}`)" if operators.random else ""
    settled = not any(_apart(first, other) for other in others)
    if settled and (operators.random or drawn):
        return "random", by
    if own or operators.own_generator:
        return "random", by or f" ({own[0]})"
    if changed:
        return "hidden-state", f" ({', '.join(changed[:3])} changed during a call)"
    # where it answers alike now, it is a memory that has filled since the first call
    if settled or (not operators.random and not drawn and _repeatable(probe, chunk, state)):
        return "hidden-state", ""
    return "random", by


def _python_drew(seed: int) -> bool:
    """Whether numbers of Python or numpy were drawn since they were seeded, and seed them anew."""
    left = python_randomness()
    seed_all(seed)
    return left != python_randomness()


def _repeatable(probe: Probe, chunk: Tensor, state: Tensors) -> bool:
    """Whether two copies of the module, asked the same in the same order, answer alike.

    What is drawn from elsewhere differs between them; a memory, wherever it lies, does not.
    """
    try:
        copies = [copy.deepcopy(probe.step) for _ in range(2)]
    except Exception:  # a module that holds what cannot be copied
        return False
    answers = [[call_step(step, chunk, state, seed=7) for _ in range(3)] for step in copies]
    return not any(_apart(b, a) for a, b in zip(*answers, strict=True))


def _apart(found: Answer, expected: Answer) -> dict[str, float]:
    return beyond(zip(found, expected, strict=True), REPEAT_SHARE)
