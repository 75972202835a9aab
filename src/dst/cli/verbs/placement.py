"""`dst show --provider`: a bundle and a provider go in, what would run where comes out."""

from typing import Literal

import msgspec
from rich.table import Table

from dst.cli.output import Output, foreign
from dst.cli.paths import check_apart
from dst.runtime import Session
from dst.runtime.execution.placement import GraphLoad, LoadReport
from dst.runtime.execution.providers import Provider


class Part(msgspec.Struct, frozen=True):
    """What one provider runs of one graph."""

    provider: str
    nodes: int
    unknown_nodes: int
    multiply_adds: int


class Placed(msgspec.Struct, frozen=True):
    """Where the nodes of one graph run; `refused` says why strict would refuse it, if it would."""

    graph: str
    lowering: str
    recorded: bool
    multiply_adds: int
    unknown_multiply_adds: int
    part: float
    refused: str | None
    parts: tuple[Part, ...]


class Placement(msgspec.Struct, frozen=True):
    """Where the graphs of a bundle run on a provider."""

    provider: str
    graphs: tuple[Placed, ...]


def show_placement(path: str, provider: Provider, output: Output) -> int:
    """Open a bundle on a provider, print what runs where, and return the exit code.

    Raises:
        DstError: the bundle is broken, or a graph cannot be opened here at all.
        WrongUseError: the JSON would be written into the bundle.
    """
    check_apart(output, {"BUNDLE": path})
    with output.progress(f"open on {provider}", None):
        report = Session.open(path, provider=provider, strict=False).report()
    output.out.print(_table(report))
    for load in report.graphs:
        if load.fallback_reason is not None:
            output.out.print(
                f"[bold red]strict refuses {foreign(load.graph)}[/]: {load.fallback_reason}"
            )
    output.write_json(Placement(provider, tuple(_placed(load) for load in report.graphs)))
    return 0


def _placed(load: GraphLoad) -> Placed:
    return Placed(
        graph=load.graph,
        lowering=load.lowering,
        recorded=load.recorded,
        multiply_adds=load.multiply_adds,
        unknown_multiply_adds=load.unknown_multiply_adds,
        part=load.fraction,
        refused=load.fallback_reason,
        parts=tuple(
            Part(s.provider, s.nodes, s.unknown_nodes, s.multiply_adds) for s in load.shares
        ),
    )


def _table(report: LoadReport) -> Table:
    """One row per graph and provider; the part is of the graph's multiply-adds."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    justify: Literal["left", "right"] = "left"
    for name in ("graph", "lowering", "runs on", "nodes", "multiply-adds a step", "part"):
        justify = "right" if name in ("nodes", "multiply-adds a step", "part") else "left"
        table.add_column(name, justify=justify)
    for load in report.graphs:
        rows = [
            (s.provider, _nodes(s.nodes, s.unknown_nodes), s.multiply_adds) for s in load.shares
        ]
        if load.unknown_multiply_adds:
            rows.append(("unknown", "", load.unknown_multiply_adds))
        if not load.recorded:
            rows = [("unknown", "", load.multiply_adds)]
        for where, nodes, cost in rows:
            part = f"{cost / load.multiply_adds:.1%}" if load.multiply_adds else ""
            name = foreign(load.graph)
            table.add_row(name, load.lowering, foreign(where), nodes, f"{cost:,}", part)
    return table


def _nodes(count: int, unknown: int) -> str:
    return f"{count:,} ({unknown:,} of unknown cost)" if unknown else f"{count:,}"
