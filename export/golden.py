"""Record the golden runs of a torch step: chunks, and what torch answers for them.

Shape letters: ``T`` items per chunk.
"""

from collections.abc import Sequence

import numpy as np
import safetensors.numpy

from dst.export.certify import Chunks, initial_state, torch_form
from dst.export.lowering.trace import Traced
from dst.export.step import Step
from dst.runtime.bundle.layout import Array
from dst.runtime.bundle.manifest import Golden
from dst.runtime.golden import golden_tensors

GOLDEN_FILE = "golden.safetensors"
GOLDEN_ITEMS = 64
"""Items of a run, at least two chunks."""


def record_golden(
    step: Step, graphs: Sequence[Traced], data: Array
) -> tuple[tuple[Golden, ...], bytes]:
    """Record torch over the first items: once if the cut does not matter, else for every T.

    Returns:
        What the manifest says of the runs, and the bytes of their file.
    """
    chunk = step.contract.chunk
    sizes = {chunk.nominal_t}
    if chunk.tail != "exact":
        sizes |= set(chunk.allowed_t)
    for graph in graphs:  # a graph takes a run at one of its T that divides the run's
        if not any(size % t == 0 for size in sizes for t in graph.allowed_t):
            sizes.add(graph.allowed_t[-1])
    run = torch_form(step)
    tensors: dict[str, Array] = {}
    runs: list[Golden] = []
    for t in sorted(sizes):
        steps = max(GOLDEN_ITEMS // t, 2)
        source = Chunks(step.contract, data, t)
        state = initial_state(step)
        outputs: dict[str, list[Array]] = {o.name: [] for o in step.contract.outputs}
        for i in range(steps):
            found, state = run(source[i], state)
            for key, value in found.items():
                outputs[key].append(value)
        tensors |= golden_tensors(t, [source.fresh(i) for i in range(steps)], outputs, state)
        runs.append(Golden(file=GOLDEN_FILE, t=t, steps=steps))
    return tuple(runs), safetensors.numpy.save(
        {key: np.asarray(value, order="C") for key, value in tensors.items()}
    )
