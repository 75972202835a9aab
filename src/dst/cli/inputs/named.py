"""Read options that give things a name: `NAME=VALUE`, where a value may be a file of numbers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from dst.cli.errors import WrongUseError
from dst.cli.inputs.samples import first_line
from dst.runtime.bundle.manifest import Contract

Array = npt.NDArray[np.generic]
Value = TypeVar("Value")


def named(
    option: str, given: Sequence[str] | None, read: Callable[[str, str], Value]
) -> dict[str, Value]:
    """Read `NAME=TEXT` options, each name once; `read` makes a value of name and text.

    Raises:
        WrongUseError: a name is missing or comes twice.

    Examples:
        >>> named("--state", ["h=h_next"], lambda name, text: text)
        {'h': 'h_next'}
    """
    found: dict[str, Value] = {}
    for text in given or ():
        name, equals, rest = text.partition("=")
        if not name or not equals:
            raise WrongUseError(f"{option} {text}: expected a name, `=` and what it is")
        if name in found:
            raise WrongUseError(f"{option} {text}: `{name}` was given before")
        found[name] = read(name, rest)
    return found


def examples(given: Sequence[str] | None) -> dict[str, Array | None]:
    """Read `--stream-input`: `NAME` or `NAME=EXAMPLE`, each name once.

    Raises:
        WrongUseError: a name is missing or comes twice, or an example is none.
    """
    given = given or ()
    bare = [text for text in given if "=" not in text]
    found: dict[str, Array | None] = dict(
        named("--stream-input", [text for text in given if "=" in text], value_of("--stream-input"))
    )
    for name in bare:
        if not name or name in found:
            raise WrongUseError(f"--stream-input {name}: expected a name, each once")
        found[name] = None
    return found


def value_of(option: str) -> Callable[[str, str], Array]:
    """Return what reads the values of an option: see `value`."""
    return lambda name, text: value(option, name, text)


def value(option: str, name: str, text: str) -> Array:
    """Read numbers with commas, or a tensor file; one number gives an array without axes.

    Raises:
        WrongUseError: it is neither.

    Examples:
        >>> value("--init", "h", "1,2").tolist()
        [1, 2]
    """
    if text.endswith((".npy", ".safetensors")):
        return array_file(f"{option} {name}", Path(text), name)
    truths = {"true": 1, "false": 0}
    try:
        values = [truths[p] if p in truths else _number(p) for p in text.lower().split(",")]
    except ValueError:
        raise WrongUseError(
            f"{option} {name}={text}: expected a number, numbers with commas, or the name of a "
            ".npy or .safetensors file"
        ) from None
    found = np.asarray(values if len(values) > 1 else values[0])
    if found.dtype == object:
        raise WrongUseError(f"{option} {name}={text}: holds a number that no tensor can hold")
    return found


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def array_file(option: str, path: Path, name: str) -> Array:
    """Read an array from a .npy file, or the tensor `name` from a .safetensors file.

    Raises:
        WrongUseError: it holds no such thing.
        OSError: it cannot be read.
    """
    try:
        if path.suffix == ".npy":
            found: Array = np.load(path, allow_pickle=False)
        else:
            found = safetensors.numpy.load(path.read_bytes())[name]
    except KeyError:
        raise WrongUseError(f"{option}: {path} has no tensor `{name}`") from None
    except (ValueError, EOFError, safetensors.SafetensorError) as error:
        raise WrongUseError(f"{option}: {path} is no file of numbers: {error}") from None
    if found.dtype.kind not in "fiub":
        raise WrongUseError(f"{option}: {path} holds {found.dtype}, expected numbers")
    return found


def shape(name: str, text: str) -> tuple[int | str, ...]:
    """Read `B,T,80` for `--shape`; nothing at all is the shape of a single number.

    Raises:
        WrongUseError: it is no shape.

    Examples:
        >>> shape("x", "b,T,80")
        ('B', 'T', 80)
    """
    try:
        parts = [part.strip() for part in text.split(",")] if text else []
        return tuple(part.upper() if part.upper() in ("B", "T") else int(part) for part in parts)
    except ValueError:
        raise WrongUseError(
            f"--shape {name}={text}: expected B, T and sizes with commas, for example B,T,80"
        ) from None


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
