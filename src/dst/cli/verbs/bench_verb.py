"""The options of `dst bench`."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dst.cli.errors import WrongUseError
from dst.cli.options import BUNDLE_HELP, Json, Provider, ProviderName, Threads
from dst.cli.output import Output, check_folder

_DIGITS = re.compile(r"[0-9]{1,18}")  # what any machine can count


def bench(
    bundles: Annotated[list[str], typer.Argument(metavar="BUNDLE...", help=BUNDLE_HELP)],
    t: Annotated[
        str | None,
        typer.Option("--t", metavar="N[,N]", help="Items per chunk; by default what they run."),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, help="How often each has its turn.")
    ] = 10,
    slot_ms: Annotated[
        float, typer.Option("--slot-ms", metavar="MS", help="How long a turn is, at about.")
    ] = 100.0,
    starts: Annotated[
        int,
        typer.Option("--starts", metavar="N", min=0, help="Fresh processes for load and memory."),
    ] = 3,
    provider: Provider = ProviderName.cpu,
    threads: Threads = 1,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Draw it; needs matplotlib.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page that stands alone.")
    ] = None,
    json: Json = None,
) -> Callable[[], int]:
    """Prepare `dst.cli.verbs.bench`."""
    output = Output.to(json)
    check_folder("--png", png)
    check_folder("--html", html)
    sizes = () if t is None else sizes_of(t)
    if not 0 < slot_ms < math.inf:
        raise WrongUseError(f"--slot-ms {slot_ms:g}: expected a number above 0")
    from dst.cli.verbs.bench import Order
    from dst.cli.verbs.bench import bench as work

    order = Order(
        bundles=tuple(bundles),
        sizes=sizes,
        rounds=rounds,
        slot_ms=slot_ms,
        starts=starts,
        provider=provider.value,
        threads=threads,
        png=png,
        html=html,
    )
    return lambda: work(order, output)


def sizes_of(text: str) -> tuple[int, ...]:
    """Read `1,16,32`: numbers of items per chunk, each once, rising.

    Raises:
        WrongUseError: it is something else.
    """
    words = text.replace(",", " ").split()
    if not words or not all(_DIGITS.fullmatch(word) and int(word) > 0 for word in words):
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise WrongUseError(f"--t {shown!r}: expected numbers of items per chunk, such as 1,16,32")
    return tuple(sorted({int(word) for word in words}))
