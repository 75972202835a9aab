"""Arguments and options that several verbs share, and how an option is declared."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class ProviderName(StrEnum):
    """Where graphs run."""

    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"
    directml = "directml"
    coreml = "coreml"
    openvino = "openvino"


def line(
    name: str, value: str, told: str, least: int | None = None, most: int | None = None
) -> Any:  # what typer itself returns
    """Declare an option in as few lines as can be: a verb's help fits a screen of 48 lines.

    Args:
        name: the option, e.g. ``--steps``.
        value: what stands for its value, e.g. ``N``.
        told: its help, with the default where that is not obvious; 36 characters fit one line.
        least: the smallest number it takes.
        most: the largest number it takes.
    """
    return typer.Option(name, metavar=value, show_default=False, min=least, max=most, help=told)


BUNDLE_HELP = "A directory, or a shipped one: text."

BundleArgument = Annotated[str, typer.Argument(metavar="BUNDLE", help=BUNDLE_HELP)]
Out = Annotated[Path, line("--out", "DIR", "The bundle to make.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that stands there.")]
Json = Annotated[str | None, line("--json", "FILE", "The result as JSON; - for stdout.")]
Provider = Annotated[
    ProviderName, line("--provider", "NAME", f"{' '.join(ProviderName)}; cpu by default.")
]
MAX_THREADS = 1024  # what the runtime takes
Threads = Annotated[
    int, line("--threads", "N", "Threads in an operator; else 1.", least=1, most=MAX_THREADS)
]
State = Annotated[Path | None, line("--state", "FILE", "Go on from it if it exists; save to it.")]
Description = Annotated[str, line("--description", "TEXT", "What it does.")]
License = Annotated[str, line("--license", "SPDX", "The weights' licence.")]
BundleName = Annotated[str | None, line("--name", "NAME", "The bundle's name; else that of DIR.")]
