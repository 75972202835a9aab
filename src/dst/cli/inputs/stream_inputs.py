"""Read what a model takes once per stream: `NAME=FILE.npy`."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dst.cli.errors import WrongUseError
from dst.cli.inputs.formats.arrays import first_line
from dst.runtime.bundle.manifest import Contract

Array = npt.NDArray[np.generic]


def stream_inputs_of(given: Sequence[str], contract: Contract) -> dict[str, Array]:
    """Read the inputs of a stream in the contract's dtypes; the runtime checks the rest.

    Args:
        given: the arguments of `--stream-input`, each `NAME=FILE.npy`.
        contract: knows the dtypes.

    Raises:
        OSError: a file cannot be read.
        WrongUseError: an argument has another form, comes twice, or its file is no array of
            numbers that fit the dtype.
    """
    dtypes = {wanted.input: np.dtype(wanted.dtype) for wanted in contract.stream_inputs}
    found: dict[str, Array] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in found:
            why = "comes twice" if name in found else "expected NAME=FILE.npy"
            raise WrongUseError(f"--stream-input {text}: {why}")
        try:
            value = np.load(path, allow_pickle=False)
        except OSError:
            raise
        except Exception as error:  # numpy lets through whatever its parsers meet
            why = first_line(error)
            raise WrongUseError(f"--stream-input {text}: is no .npy array: {why}") from None
        if not isinstance(value, np.ndarray) or np.dtype(value.dtype).kind not in "fiub":
            raise WrongUseError(f"--stream-input {text}: expected one .npy array of numbers")
        dtype = dtypes.get(name, value.dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is told below
            cast = value.astype(dtype)
        real = np.dtype(dtype).kind == "f"
        fits = np.isfinite(cast) if real else cast.astype(value.dtype) == value
        if not bool(np.all(fits)):
            raise WrongUseError(f"--stream-input {text}: holds numbers that do not fit {dtype}")
        found[name] = cast
    return found
