"""Say which workers hold a stream, and what could not be done for some streams."""

import hashlib
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from dst.runtime.errors import ServingError

Outputs = dict[str, npt.NDArray[np.generic]]


def holders(key: str, workers: Collection[str], copies: int = 2) -> list[str]:
    """Return the workers that hold a stream: who steps it first, then who holds the copy.

    Rendezvous hashing: where a worker goes, only its own streams move, and each of them to the
    worker that holds its copy; where one comes, it takes an equal share of all.
    """
    ranked = sorted(
        workers, key=lambda w: hashlib.blake2b(f"{w}\0{key}".encode(), digest_size=8).digest()
    )
    return ranked[:copies]


def fits(key: object) -> bool:
    """Say whether a stream can have this name."""
    return isinstance(key, str) and 0 < len(key) <= 190 and key.isprintable()


class FleetError(ServingError, code="streams-failed"):
    """Some streams of a call failed and are as they were before it; the others went on.

    The code `stream-lost` among `failed`: both workers that held the stream ended at once.

    Attributes:
        failed: stream -> what went wrong there.
        outputs: stream -> what the call answered for the others.
    """

    def __init__(self, failed: Mapping[str, Exception], outputs: Mapping[str, Outputs]) -> None:
        self.failed, self.outputs = dict(failed), dict(outputs)
        name, why = next(iter(self.failed.items()))
        super().__init__(
            f"{len(failed)} of {len(failed) + len(outputs)} streams failed; the others went on, "
            f"their answers are in `outputs`. Stream {name!r}: {why}"
        )
