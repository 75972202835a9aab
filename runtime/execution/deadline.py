"""Deadlines: a step and its time in, the step done or `DeadlineError` out."""

import threading

import onnxruntime as ort

from dst.runtime.errors import DeadlineError, StepError
from dst.runtime.execution.recurrence import Recurrence
from dst.runtime.execution.step import Plan

_LONGEST_MS = 86_400_000.0  # a day; a timer takes no infinity


def step_in_time(core: Recurrence, plan: Plan, deadline_ms: float) -> None:
    """Step, but have a timer thread stop ONNX Runtime when the deadline passes.

    Raises:
        DeadlineError: it passed; the mark has not moved.
        StepError: the deadline is out of range, or the step failed by itself.
    """
    if not 0 < deadline_ms <= _LONGEST_MS:
        raise StepError(
            f"deadline_ms is {deadline_ms}, expected more than 0 and at most "
            f"{_LONGEST_MS:,.0f} (a day), or None for none",
            code="argument",
        )
    options = ort.RunOptions()
    passed = threading.Event()

    def stop() -> None:
        passed.set()
        options.terminate = True

    timer = threading.Timer(float(deadline_ms) / 1000, stop)
    timer.daemon = True
    timer.start()
    try:
        core.step_once(plan, options)
    except StepError as error:
        if passed.is_set():
            raise DeadlineError(
                f"the step did not finish in {deadline_ms} ms; it was not taken"
            ) from error
        raise
    finally:
        timer.cancel()
