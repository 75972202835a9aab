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
from dst.export.infer.probe import Gaps, Probe, said

REPEAT_SHARE = 1e-5
"""Two calls with the same arguments may differ by this share of a tensor's peak."""
DRAWS = 16
"""Calls of a step that draws random numbers before they are taken to have no effect."""
FAR = (10**3, 10**6, 10**9)
"""Calls after which a number that counts them is tried."""
NO_RANDOM = (
    "A bundle must answer the same on every run, and a graph has no seed: call `model.eval()`, "
    "remove dropout, noise or sampling from `forward`, or give the random numbers as an input"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the checks have seen and that is no fault.

    Attributes:
        code: what it concerns; the code of the fault that it is near to.
        text: what was seen, in a sentence.
        state: the state tensor that it concerns, if one alone.
    """

    code: str
    text: str
    state: str = ""


@dataclass(frozen=True)
class Asked:
    """One call and what it answered the first time."""

    chunk: Tensor
    state: Tensors
    answer: Answer


def first_answers(probe: Probe) -> list[Asked]:
    """Ask at each T, from the start and from a later state; to be asked again later."""
    asked = []
    for t in probe.sizes:
        state = probe.start()
        for number in range(3):
            chunk = probe.chunk("data", number, t)
            answer = probe.call(chunk, state)
            asked.append(Asked(chunk, state, answer))
            state = answer[1]
    return [a for i, a in enumerate(asked) if i % 3 != 1]


def check_repeats(probe: Probe, asked: list[Asked], seeds: int = 2) -> None:
    """Ask again after other calls: the same chunk and state must give the same answer.

    Each question is asked under a few seeds, under more where random numbers are drawn.

    Raises:
        StepFaultError: they do not: `random` or `hidden-state`.
    """
    for question in asked:
        operators = Operators()
        with operators:
            again = probe.call(question.chunk, question.state, seed=0)
        _compare(probe, question, question.answer, again)
        for seed in range(1, DRAWS if operators.random and seeds > 1 else seeds):
            again = probe.call(question.chunk, question.state, seed=seed)
            _compare(probe, question, question.answer, again)
            left = python_randomness()
            seed_all(seed)
            if left != python_randomness():  # it was drawn, though it may seldom matter
                raise StepFaultError(
                    "the module draws from the random numbers of Python or numpy in a step "
                    f"({where(probe.contract, question.chunk)}); the answer was the same this "
                    f"time. {NO_RANDOM}",
                    code="random",
                )


def check_counters(probe: Probe, asked: list[Asked]) -> list[Finding]:
    """Try numbers of the module that move with every call, as they will be after many calls.

    Raises:
        StepFaultError: the answer changes (`hidden-state`).
    """
    question = asked[-1]
    numbers = list(numbers_of(_own_module(probe)))
    moving = set(range(len(numbers)))
    for _ in range(2):
        before = [repr(number.get()) for number in numbers]
        first = probe.call(question.chunk, question.state)
        moving &= {i for i, number in enumerate(numbers) if repr(number.get()) != before[i]}
    findings = []
    for number in (numbers[i] for i in sorted(moving)):
        held = number.get()
        for count in FAR:
            number.put(number.far(count))
            try:
                again = probe.call(question.chunk, question.state)
            except StepFaultError:  # it does not count calls: no call brings it there
                break
            finally:
                number.put(held)
            if not _alike(first, again):
                raise StepFaultError(
                    f"{number.label} changes with every call, and after {count:,} calls it "
                    f"changes the answer ({where(probe.contract, question.chunk)}). A graph "
                    "keeps no such number: take it from `state` and return its next value",
                    code="hidden-state",
                )
        findings.append(
            Finding("hidden-state", f"{number.label} changes with every call; a graph keeps none")
        )
    return findings


def _own_module(probe: Probe) -> nn.Module:
    return probe.step.module if isinstance(probe.step, Inferred) else probe.step


def _compare(probe: Probe, question: Asked, first: Answer, again: Answer) -> None:
    apart = _apart(again, first)
    if not apart:
        return
    name = max(apart, key=lambda key: apart[key])
    seen = (
        f"the same chunk and state gave another `{name}` the second time "
        f"({said(apart[name])}, {where(probe.contract, question.chunk)})"
    )
    code, why = _culprit(probe, question)
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


def _culprit(probe: Probe, question: Asked) -> tuple[str, str]:
    """Tell random numbers from a memory, by what a call draws and what it changes."""
    own_module = _own_module(probe)
    before = memory_of(own_module)
    operators = Operators()
    with operators:
        same_seed = [probe.call(question.chunk, question.state, seed=7)]
    left = python_randomness()
    seed_all(7)
    drawn = left != python_randomness()
    same_seed.append(probe.call(question.chunk, question.state, seed=7))
    same_seed.append(probe.call(question.chunk, question.state, seed=7))
    after = memory_of(own_module)
    changed = [name for name, digest in after.items() if before.get(name) != digest]
    own = [name for name in generators_of(own_module) if name in changed]
    by = f" (`{operators.random[0]}`)" if operators.random else ""
    settled = all(_alike(same_seed[0], other) for other in same_seed[1:])
    if settled and (operators.random or drawn):
        return "random", by
    if own or operators.own_generator:
        return "random", by or f" ({own[0]})"
    if changed:
        return "hidden-state", f" ({', '.join(changed[:3])} changed during a call)"
    if settled:  # it answers alike now: a memory that has filled since the first call
        return "hidden-state", ""
    if not operators.random and not drawn and _repeatable(probe, question):
        return "hidden-state", ""
    return "random", by


def _repeatable(probe: Probe, question: Asked) -> bool:
    """Whether two copies of the module, asked the same in the same order, answer alike.

    What is drawn from elsewhere differs between them; a memory, wherever it lies, does not.
    """
    try:
        copies = [copy.deepcopy(probe.step) for _ in range(2)]
    except Exception:  # a module that holds what cannot be copied
        return False
    answers = []
    for step in copies:
        answers.append([call_step(step, question.chunk, question.state, seed=7) for _ in range(3)])
    return all(_alike(a, b) for a, b in zip(*answers, strict=True))


def _alike(a: Answer, b: Answer) -> bool:
    return not _apart(a, b)


def _apart(found: Answer, expected: Answer) -> dict[str, float]:
    return Gaps(*zip(found, expected, strict=True)).beyond(REPEAT_SHARE)
