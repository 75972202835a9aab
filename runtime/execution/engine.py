"""Choose the graphs of a bundle for a provider, and open each when it is first needed.

Shape letters: `B` batch, `T` items per chunk.
"""

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NoReturn, Self, SupportsIndex

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.runtime.bundle.constants import constant_array, constant_marks
from dst.runtime.bundle.manifest import Contract, Graph
from dst.runtime.bundle.reader import Bundle
from dst.runtime.errors import ProviderError, SessionError, shown
from dst.runtime.execution.buffers import Block, Buffers, Device, Layout, StateBuffers
from dst.runtime.execution.graph_check import check_graph
from dst.runtime.execution.huge_pages import collapse, full_blocks
from dst.runtime.execution.memory import Memory, give_back_freed, predict
from dst.runtime.execution.placement import LoadReport, load_of
from dst.runtime.execution.providers import (
    Lowering,
    Options,
    Provider,
    device_number,
    options_for,
    place_of,
    preferred,
    session_options,
    suits,
)
from dst.runtime.state.record import Identity

Array = npt.NDArray[np.generic]

_HUGE = threading.Lock()  # one opening at a time tells its own memory from another's
MAX_THREADS = 1024  # each is started when a graph is opened, busy or not


class Engine:
    """A bundle's graphs on one provider; a graph is opened when it is first needed.

    Attributes:
        bundle: what runs.
        provider: where it runs.
        provider_options: what the provider was opened with.
        strict: whether a graph is refused if the provider leaves work to another one.
        prepack: whether weights are packed for speed, or stay in their mapped file.
        huge_pages: whether the memory of an opened graph is moved onto large pages.
        threads: threads inside one operator.
        spin: whether they keep their cores busy while they wait for work.
        check_state_every: steps between two checks of a stream's state.
        chunk_sizes: the T that can run, rising.
        layout: how one stream's state lies in memory.
        initial: the initial state by name, B = 1; never written to.
        constants: the fixed inputs by name.
        identity: the ids a saved state carries.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        provider: Provider,
        threads: int,
        graphs: Sequence[Graph],
        chunk_sizes: Sequence[int],
        check_state_every: int,
        provider_options: Options | None = None,
        strict: bool = True,
        prepack: bool = True,
        spin: bool = False,
        huge_pages: bool = False,
    ) -> None:
        self._place = place_of(provider)
        if not 1 <= threads <= MAX_THREADS:
            raise SessionError(
                f"threads is {threads}; expected 1 to {MAX_THREADS}", code="argument"
            )
        if check_state_every < 1:
            raise SessionError(
                f"check_state_every is {check_state_every}; expected 1 or more", code="argument"
            )
        self.bundle = bundle
        self.provider = provider
        self.provider_options = options_for(provider, provider_options, threads)
        self.strict = strict
        self.prepack = prepack
        self.huge_pages = huge_pages
        number = device_number(self.provider_options)
        kind = self._place.device
        self._device = None if kind == "cpu" else Device(kind, number)
        self.threads = threads
        self.spin = spin
        self.check_state_every = check_state_every
        self._graphs = _choose(bundle, graphs, chunk_sizes)
        self.chunk_sizes = tuple(sorted(self._graphs))
        manifest = bundle.manifest
        contract = manifest.contract
        self.layout = Layout.of(contract)
        self.initial = self.layout.initial(contract, bundle.init_tensors())
        self.constants = {
            c.input: ort.OrtValue.ortvalue_from_numpy(constant_array(c)) for c in contract.constants
        }
        self.identity = Identity(
            manifest.model_id,
            manifest.state_hash,
            manifest.upgraded_from or manifest.bundle_id,
            manifest.precision,
            constant_marks(contract.constants),
        )
        self._open: dict[str, ort.InferenceSession] = {}
        self._moved_bytes = 0  # onto huge pages
        self._lock = threading.Lock()

    def __copy__(self) -> Self:
        """Return the same session: it never changes, and any number of streams may share it."""
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return the same session."""
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be pickled."""
        raise SessionError(
            f"{self.bundle.label}: a session cannot be pickled; open the bundle in each process, "
            "by Session.open",
            code="not-picklable",
        )

    @property
    def contract(self) -> Contract:
        """What goes into a step and comes out."""
        return self.bundle.manifest.contract

    @property
    def memory(self) -> Memory:
        """The bytes held by the graphs open now and one stream at every chunk size."""
        return predict(self.bundle.manifest, max(1, len(self._open)), 1, self.chunk_sizes)

    def report(self) -> LoadReport:
        """Say how many nodes and multiply-adds of which graph run on which provider.

        Opens every graph that the session may run, if it is not open yet.

        Raises:
            SessionError: `graph`: a graph cannot be loaded, or is not what the contract says.
            ProviderError: the provider did not take a graph.
        """
        for t in self.chunk_sizes:
            self.runner_for(t)
        graphs = {graph.file: graph for graph in self._graphs.values()}
        loads = tuple(load_of(s, graphs[file], self.provider) for file, s in self._open.items())
        more = (self.threads, self.spin, self._moved_bytes)
        return LoadReport(self.provider, self.strict, loads, *more)

    def graph_for(self, t: int) -> Graph:
        """Return the graph that runs chunks of T = `t`.

        Raises:
            SessionError: `chunk-size`: this session runs no such T.
        """
        graph = self._graphs.get(t)
        if graph is None:
            raise SessionError(
                f"{self.bundle.label}: T = {t} is not open in this session; "
                f"it runs T = {list(self.chunk_sizes)}",
                code="chunk-size",
            )
        return graph

    def runner_for(self, t: int) -> ort.InferenceSession:
        """Return the open graph that runs chunks of T = `t`, opening it at the first call.

        Raises:
            SessionError: `chunk-size`: this session runs no such T.
            SessionError: `graph`: the graph cannot be loaded, or is not what the contract says.
            ProviderError: the provider did not take the graph.
        """
        graph = self.graph_for(t)
        with self._lock:
            if graph.file not in self._open:
                with _HUGE if self.huge_pages else nullcontext():
                    self._open[graph.file] = self._load(graph)
            return self._open[graph.file]

    def buffers(self, arrays: Mapping[str, Array]) -> Buffers:
        """Hold a step's tensors where this provider wants them."""
        return Buffers(arrays, self._device)

    def state_buffers(self, block: Block) -> StateBuffers:
        """Hold one state where this provider can reach it: in `block`, or beside it."""
        return StateBuffers(self.layout, block, self._device)

    def _load(self, graph: Graph) -> ort.InferenceSession:
        asked = self._place.execution
        label = self.bundle.label
        before: set[int] = set()
        if self.huge_pages:
            give_back_freed()  # or the weights may lie where freed memory was in use already
            before = full_blocks()
        try:
            session = ort.InferenceSession(
                str(self.bundle.root / graph.file),
                session_options(self.threads, self.prepack, self.spin),
                providers=[(asked, self.provider_options)],
                enable_fallback=0,  # or it would try again on the CPU, and say so on stdout
            )
        except Exception as error:  # onnxruntime's own classes share no base but this
            raise SessionError(
                f"{label}: {graph.file} cannot be loaded: {first_line(error)}", code="graph"
            ) from error
        needed = self.strict or self._device is not None  # its memory is where the state lies
        if needed and session.get_providers()[0] != asked:
            raise ProviderError(
                f"{label}: asked for {self.provider!r} ({asked}), onnxruntime gave "
                f"{session.get_providers()[0]}; nothing was run. Its device or its libraries are "
                "missing, see docs/providers.md"
            )
        give_back_freed()
        if self.huge_pages:
            self._moved_bytes += collapse(full_blocks() - before)
        check_graph(label, graph, self.contract, session)
        # a CPU leaves nothing to others, and asking for each node takes time
        ask = self.strict and self.provider != "cpu"
        reason = load_of(session, graph, self.provider).fallback_reason if ask else None
        if reason is not None:
            raise ProviderError(
                f"{label}: {graph.file}: {reason}; nothing was run. "
                f"{self._advice(graph)}, or run it as it is with strict=False"
            )
        return session

    def _advice(self, graph: Graph) -> str:
        """What else to try where a provider does not take a graph."""
        lowerings = {g.lowering for g in self.bundle.manifest.graphs}
        if graph.lowering != "portable" and "portable" in lowerings:
            return "Try lowering='portable'"
        return "Try another provider"


def select(
    bundle: Bundle, lowering: Lowering | None, provider: Provider, every: bool = False
) -> list[Graph]:
    """Return the graphs that a provider of this onnxruntime can run, best first.

    Without a lowering, fused graphs are left out where the provider has no kernels for them;
    a lowering that is asked for is taken at its word.

    Raises:
        ProviderError: the provider is unknown or not installed.
        SessionError: the bundle has no such lowering, or none that suits the provider.
        SessionError: `onnxruntime-too-old`: all such graphs, or with `every` one of them, need a
            newer onnxruntime.
    """
    place = place_of(provider)
    graphs = bundle.manifest.graphs
    named = [g for g in graphs if lowering in (None, g.lowering)]
    if not named:
        have = ", ".join(sorted({g.lowering for g in graphs}))
        raise SessionError(
            f"{bundle.label}: has no {lowering!r} graph; it has {have}", code="lowering"
        )
    if lowering is None:
        named = [g for g in named if suits(g, place)]
        if not named:
            raise SessionError(
                f"{bundle.label}: has only fused graphs, whose com.microsoft operators provider "
                f"{provider!r} does not run; choose 'cpu' or 'cuda', or export portable graphs",
                code="lowering",
            )
    here = version(ort.__version__)
    able = [g for g in named if version(g.min_ort) <= here]
    if not able or (every and len(able) < len(named)):
        needed = (max if every else min)((g.min_ort for g in named), key=version)
        raise SessionError(
            f"{bundle.label}: needs onnxruntime {needed} or newer, {ort.__version__} is installed",
            code="onnxruntime-too-old",
        )
    return sorted(able, key=lambda g: (preferred(g, place), len(g.allowed_t)))


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0])


def _choose(bundle: Bundle, graphs: Sequence[Graph], sizes: Sequence[int]) -> dict[int, Graph]:
    """Pick for each T the first graph that runs it for one stream.

    Of graphs of its lowering, one that runs every T goes before it, though one made for this T
    alone may be faster: each open graph holds its weights once more.
    """
    chosen: dict[int, Graph] = {}
    wanted, alone = set(sizes), [g for g in graphs if not g.batch or 1 in g.batch]
    for_all = {g.lowering: g for g in reversed(alone) if wanted.issubset(g.allowed_t)}
    for t in sizes:
        able = [g for g in alone if t in g.allowed_t]
        if not able:
            allowed = sorted({t for g in graphs for t in g.allowed_t})
            raise SessionError(
                f"{bundle.label}: no graph runs T = {t} as asked; choose from {allowed}",
                code="chunk-size",
            )
        chosen[t] = for_all.get(able[0].lowering, able[0])
    if not chosen:
        raise SessionError(
            f"{bundle.label}: chunk_sizes is empty; give at least one T", code="chunk-size"
        )
    return chosen


def version(text: str) -> tuple[int, ...]:
    """Read the first three numbers of a version, for comparing it.

    Examples:
        >>> version("1.9") < version("1.18.1"), version("1.32.0.dev1")
        (True, (1, 32, 0))
    """
    numbers = [int(part) for part in text.split(".")[:3] if part.isdecimal()]
    return tuple(numbers + [0] * (3 - len(numbers)))
