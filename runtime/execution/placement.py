"""Tell how much of the work of an open graph runs on which provider.

ONNX Runtime tells which node it gave to which provider, the manifest what each node costs in
multiply-adds; the two meet by the node's name. What ONNX Runtime adds or renames, and what the
manifest does not know, counts as unknown.
"""

import msgspec
import onnxruntime as ort

from dst.runtime.bundle.manifest import Graph
from dst.runtime.execution.providers import PLACES, Provider

ALLOWED_ELSEWHERE = 0.01
"""The part of a graph's multiply-adds that strict lets run elsewhere: ONNX Runtime itself leaves
the arithmetic of shapes to the CPU."""


class ProviderShare(msgspec.Struct, frozen=True):
    """What one provider runs of one graph.

    Attributes:
        provider: its name here, or ONNX Runtime's where this runtime has none.
        nodes: how many nodes it was given.
        unknown_nodes: those of them that the manifest has no cost for.
        multiply_adds: the cost of the others in one step, as the manifest states it.
    """

    provider: str
    nodes: int
    unknown_nodes: int
    multiply_adds: int


class GraphLoad(msgspec.Struct, frozen=True):
    """Where the nodes of one open graph run.

    Attributes:
        graph: the graph's file.
        lowering: its lowering.
        asked: the provider that was asked for.
        recorded: whether ONNX Runtime told; where it did not, nothing else is known.
        shares: one per provider, the most work first.
        unknown_multiply_adds: the cost of nodes that the manifest knows and ONNX Runtime does not
            name: folded into constants, or fused with others under another name.
    """

    graph: str
    lowering: str
    asked: str
    recorded: bool
    shares: tuple[ProviderShare, ...]
    unknown_multiply_adds: int

    @property
    def multiply_adds(self) -> int:
        """The cost of the whole graph, as far as the manifest knows it."""
        return sum(s.multiply_adds for s in self.shares) + self.unknown_multiply_adds

    @property
    def fraction(self) -> float:
        """The part of the work that is known to run where it was asked for, 0 to 1.

        Work is multiply-adds; nodes, where the manifest knows of none.
        """
        there = [s for s in self.shares if s.provider == self.asked]
        if self.multiply_adds:
            return sum(s.multiply_adds for s in there) / self.multiply_adds
        nodes = sum(s.nodes for s in self.shares)
        return sum(s.nodes for s in there) / nodes if nodes else 0.0

    @property
    def fallback_reason(self) -> str | None:
        """Why strict refuses this graph, or None where it does not."""
        if self.asked == "cpu":
            return None  # there is nothing to fall back to
        if not self.recorded:
            return (
                f"onnxruntime {ort.__version__} does not tell which nodes {self.asked!r} took "
                "(1.24 and newer do)"
            )
        if self.fraction >= 1 - ALLOWED_ELSEWHERE:
            return None
        unit = "multiply-adds" if self.multiply_adds else "nodes"
        parts = [
            f"{s.provider} {s.multiply_adds if self.multiply_adds else s.nodes:,}"
            for s in self.shares
        ]
        if self.unknown_multiply_adds:
            parts.append(f"unknown {self.unknown_multiply_adds:,}")
        return f"{self.asked!r} took only {self.fraction:.1%} of the {unit}: {', '.join(parts)}"


class LoadReport(msgspec.Struct, frozen=True):
    """Where a session's graphs run.

    Attributes:
        provider: the provider that was asked for.
        strict: whether a graph that falls back is refused.
        graphs: the open graphs.
        threads: threads inside one operator.
        spin: whether they keep their cores busy while they wait for work.
        huge_pages_bytes: memory of the open graphs that lies on large pages, where that was asked
            for; 0 where the system cannot do it.

    Examples:
        >>> from dst.runtime import Session
        >>> report = Session.open("text", chunk_sizes=[1]).report()
        >>> [(load.fraction, load.fallback_reason) for load in report.graphs]
        [(1.0, None)]
    """

    provider: str
    strict: bool
    graphs: tuple[GraphLoad, ...]
    threads: int = 1
    spin: bool = False
    huge_pages_bytes: int = 0


def load_of(session: ort.InferenceSession, graph: Graph, asked: Provider) -> GraphLoad:
    """Read from an open graph where its nodes run; `session_options` have made it tell."""
    tell = getattr(session, "get_provider_graph_assignment_info", None)  # since 1.24
    left = dict(graph.multiply_adds)
    names = {place.execution: str(name) for name, place in PLACES.items()}
    costs: dict[str, list[int | None]] = {}  # of each node, by provider
    for part in tell() if tell is not None else ():
        given = costs.setdefault(names.get(part.ep_name, part.ep_name), [])
        given += [_claim(node.name, left) for node in part.get_nodes()]
    shares = [
        ProviderShare(name, len(found), found.count(None), sum(cost or 0 for cost in found))
        for name, found in costs.items()
        if found
    ]
    return GraphLoad(
        graph=graph.file,
        lowering=graph.lowering,
        asked=asked,
        recorded=bool(shares),
        shares=tuple(sorted(shares, key=lambda s: (-s.multiply_adds, -s.nodes, s.provider))),
        unknown_multiply_adds=sum(left.values()),
    )


def _claim(name: str, left: dict[str, int]) -> int | None:
    """Take a node's cost out of what is left; `MatMul_3/MatMulAddFusion` was `MatMul_3`."""
    while name not in left:
        name, slash, _ = name.rpartition("/")
        if not slash:
            return None
    return left.pop(name)
