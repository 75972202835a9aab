"""Arguments and options that several verbs share, each with its help."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ProviderName(StrEnum):
    """Where graphs run."""

    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"
    directml = "directml"
    coreml = "coreml"
    openvino = "openvino"


BUNDLE_HELP = "A bundle's directory, or the name of a shipped bundle, e.g. text."

BundleArgument = Annotated[str, typer.Argument(metavar="BUNDLE", help=BUNDLE_HELP)]
Json = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE", help="Write the result as JSON; - for standard output, alone."
    ),
]
Provider = Annotated[ProviderName, typer.Option("--provider", help="Where the graphs run.")]
MAX_THREADS = 1024  # what the runtime takes
Threads = Annotated[
    int,
    typer.Option("--threads", min=1, max=MAX_THREADS, help="Threads inside one operator."),
]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="FILE",
        help="Continue from this saved state if it exists; save to it at the end or on Ctrl-C.",
    ),
]
