"""Hold one contestant in a process of its own, and step it when told to.

    python -P worker.py '{"kind": "dst", "model": "text", "size": "small", "t": 16, "threads": 1}'

The first line that comes out tells the ways this contestant can take a step, or why it cannot
run. For every line `WAY SAMPLES STEPS` that goes in, a line comes out with so many samples:
milliseconds per step by the clock on the wall and by that of the thread, each sample the mean of
so many steps. The state is carried from step to step, as in an endless stream.

The file imports nothing of this folder, so that a Python without our packages can run it too.

Shape letters: `B` batch (1), `T` items per chunk.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from dst.export.model import Network
    from dst.runtime import Session

Array = npt.NDArray[np.generic]
Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Asked:
    """What to hold.

    Attributes:
        kind: a key of `KINDS`.
        model: a bundle, or the file of a graph.
        size: the name of our network's size.
        t: T.
        threads: inside one operator.
    """

    kind: str
    model: str
    size: str
    t: int
    threads: int


@dataclass(frozen=True, slots=True)
class Held:
    """A contestant that is ready.

    Attributes:
        ways: the ways to take the same step.
        facts: what to tell of it.
    """

    ways: Mapping[str, Call]
    facts: Mapping[str, str] = field(default_factory=dict)


# Our runtime. These two functions are the only ones that know what an app may choose when it opens
# a bundle or takes a step.


def open_session(asked: Asked, huge_pages: bool = False) -> "Session":
    """Open a bundle for one T, as an app would."""
    from dst.runtime import Session

    sizes = [asked.t]
    return Session.open(
        asked.model, threads=asked.threads, chunk_sizes=sizes, huge_pages=huge_pages
    )


def stream_step(session: "Session", chunk: Array, last: bool = False) -> Call:
    """`Stream.step` on a new stream; with `last` it answers for the last item only."""
    return partial(session.stream().step, chunk, last=last)


def dst(asked: Asked) -> Held:
    """A bundle: by `Stream.step`, and by prebuilt bindings on the graph that the session chose.

    In chunks also by `Stream.step` for the last item only, as llama.cpp computes it; and the same
    in a second session, whose weights lie on large pages of memory.
    """
    session = open_session(asked)
    chunk = random_chunk(session, asked.t)
    ways = {"stream": stream_step(session, chunk), "bare": bare(session, asked.t, chunk)}
    if asked.t > 1:
        ways["stream-last"] = stream_step(session, chunk, last=True)
    huge = open_session(asked, huge_pages=True)
    ways["huge-last" if asked.t > 1 else "huge"] = stream_step(huge, chunk, last=asked.t > 1)
    return Held(ways, {"graph": session.graph_for(asked.t).file})


def random_chunk(session: "Session", t: int) -> Array:
    """Token ids of the contract's dtype and shape."""
    from dst.runtime.bundle.layout import sized
    from dst.runtime.bundle.manifest import Tokens

    chunk = session.contract.chunk
    assert isinstance(chunk.content, Tokens)
    ids = np.random.default_rng(0).integers(0, chunk.content.vocabulary, sized(chunk.shape, t))
    return ids.astype(chunk.dtype)


def bare(session: "Session", t: int, chunk: Array) -> Call:
    """Two bindings over buffers made once, A -> B and B -> A; a call runs the next one."""
    import onnxruntime as ort

    runner = session.runner_for(t)
    names = {state.input: state.output for state in session.contract.state}
    sides = [{name: array.copy() for name, array in session.initial.items()} for _ in range(2)]
    fixed: dict[str, Array] = {session.contract.chunk.input: chunk}
    fixed |= {name: constant.numpy() for name, constant in session.constants.items()}
    fixed |= every_item(session, t)
    wanted = [o.name for o in runner.get_outputs() if o.name not in names.values()]
    outputs = dict(zip(wanted, runner.run(wanted, {**fixed, **sides[0]}), strict=True))
    value = ort.OrtValue.ortvalue_from_numpy
    bindings = []
    for source, target in (sides, sides[::-1]):
        binding = runner.io_binding()
        for name, array in {**fixed, **source}.items():
            binding.bind_ortvalue_input(name, value(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, value(array))
        for name, array in target.items():
            binding.bind_ortvalue_output(names[name], value(array))
        bindings.append(binding)
    calls = [partial(runner.run_with_iobinding, binding) for binding in bindings]
    return alternating(calls, (fixed, sides, outputs))


def every_item(session: "Session", t: int) -> dict[str, Array]:
    """The input of a graph that asks which items to answer for: all of them."""
    name = session.graph_for(t).answers
    return {} if name is None else {name: np.arange(t)}


def alternating(calls: Sequence[Call], buffers: object) -> Call:
    """Make one call of two that take turns; it holds the buffers that they point into."""
    active = 0

    def call() -> object:
        nonlocal active
        calls[active]()
        active ^= 1
        return buffers

    return call


def naive(asked: Asked) -> Held:
    """A loop of `InferenceSession.run` with default options, the state fed back by hand."""
    import onnxruntime as ort

    ours = open_session(asked)
    graph = ours.graph_for(asked.t).file
    options = ort.SessionOptions()
    options.intra_op_num_threads = asked.threads
    options.log_severity_level = 4
    session = ort.InferenceSession(str(ours.bundle.root / graph), options)
    contract = ours.contract
    feed: dict[str, Array] = {contract.chunk.input: random_chunk(ours, asked.t)}
    feed |= {name: constant.numpy() for name, constant in ours.constants.items()}
    feed |= {name: array.copy() for name, array in ours.initial.items()}
    feed |= every_item(ours, asked.t)
    names = [o.name for o in contract.outputs] + [s.output for s in contract.state]
    first = len(contract.outputs)

    def call() -> None:
        results = session.run(names, feed)
        for state, array in zip(contract.state, results[first:], strict=True):
            feed[state.input] = array

    return Held({"session.run": call}, {"graph": graph})


# torch, with our network


def network(asked: Asked) -> "tuple[Network, torch.Tensor]":
    """Our network with random weights, and a chunk."""
    import torch

    from dst.export.model import Network, sized
    from dst.runtime.bundle.manifest import Tokens

    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    made = Network(sized(asked.size)).eval().requires_grad_(False)
    content = made.contract.chunk.content
    assert isinstance(content, Tokens)
    return made, torch.randint(0, content.vocabulary, (1, asked.t))


def eager(asked: Asked) -> Held:
    """Torch as it is."""
    import torch

    step, chunk = network(asked)
    state = step.initial_state(1)

    def call() -> None:
        nonlocal state
        with torch.inference_mode():
            _, state = step(chunk, state)

    return Held({"eager": call}, {"version": torch.__version__})


def compiled(asked: Asked) -> Held:
    """`torch.compile` for this one shape, weights frozen."""
    import torch
    from torch._inductor import config

    config.freezing = True
    step, chunk = network(asked)
    quick = torch.compile(step, dynamic=False, fullgraph=True)
    state = step.initial_state(1)

    def call() -> None:
        nonlocal state
        with torch.no_grad():
            _, state = quick(chunk, state)

    return Held({"compiled": call}, {"version": torch.__version__})


# Other engines, on a file that `contestants.py` makes; they run in environments of their own


def openvino(asked: Asked) -> Held:
    """OpenVINO's CPU device on the portable graph; the state takes turns in two sets of buffers."""
    ov = import_module("openvino")
    model = ov.Core().compile_model(
        asked.model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": asked.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    sides: list[dict[str, Array]] = [
        {
            port.get_any_name(): np.zeros(list(port.shape), port.get_element_type().to_dtype())
            for port in model.inputs
        }
        for _ in range(2)
    ]
    calls: list[Call] = []
    for source, target in (sides, sides[::-1]):
        request = model.create_infer_request()
        for name, array in source.items():
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        for port in model.outputs:
            name = port.get_any_name().removeprefix("next.")
            if name in target:
                request.set_tensor(port, ov.Tensor(target[name], shared_memory=True))
        calls.append(request.infer)
    return Held({"infer": alternating(calls, sides)}, {"version": ov.__version__})


def executorch(asked: Asked) -> Held:
    """ExecuTorch with XNNPACK on a `.pte`; without one it is lowered from the `.pt2` beside it."""
    import torch

    path = Path(asked.model)
    if not path.exists():
        lower(path.with_suffix(".pt2"), path)
    library = import_module("executorch.extension.pybindings.portable_lib")
    library._unsafe_reset_threadpool(asked.threads)
    runtime = import_module("executorch.runtime").Runtime.get()
    method = runtime.load_program(path).load_method("forward")
    chunk, *state = torch.load(path.with_suffix(".inputs"))

    def call() -> None:
        nonlocal state
        outputs = method.execute([chunk, *state])
        state = [tensor.clone() for tensor in outputs[1:]]

    return Held({"execute": call})


def lower(source: Path, target: Path) -> None:
    """Lower an exported step to ExecuTorch, with XNNPACK for what that takes."""
    import torch

    xnnpack = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    with torch.no_grad():
        edge = import_module("executorch.exir").to_edge_transform_and_lower(
            torch.export.load(source), partitioner=[xnnpack.XnnpackPartitioner()]
        )
    part = target.with_suffix(".part")
    part.write_bytes(edge.to_executorch().buffer)
    part.replace(target)


KINDS: dict[str, Callable[[Asked], Held]] = {
    "dst": dst,
    "naive": naive,
    "eager": eager,
    "compiled": compiled,
    "openvino": openvino,
    "executorch": executorch,
}
WARM_STEPS = 5


def timed(call: Call, samples: int, steps: int) -> dict[str, list[float]]:
    """Time a call; one sample before the others is thrown away.

    It brings the contestant's weights back into the caches.
    """
    spent: dict[str, list[float]] = {"wall_ms": [], "thread_ms": []}
    for number in range(samples + 1):
        wall, thread = time.perf_counter(), time.thread_time()
        for _ in range(steps if number else 1):
            call()
        thread, wall = time.thread_time() - thread, time.perf_counter() - wall
        if number:
            spent["wall_ms"].append(1e3 * wall / steps)
            spent["thread_ms"].append(1e3 * thread / steps)
    return spent


def tell(answer: Mapping[str, object]) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    try:
        asked = Asked(**json.loads(sys.argv[1]))
        held = KINDS[asked.kind](asked)
        for call in held.ways.values():
            for _ in range(WARM_STEPS):
                call()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        tell({"why": f"{type(error).__name__}: {lines[0]}"})
        return
    tell({"ways": list(held.ways), "facts": dict(held.facts)})
    for line in sys.stdin:
        way, samples, steps = line.split()
        tell(timed(held.ways[way], int(samples), int(steps)))


if __name__ == "__main__":
    main()
