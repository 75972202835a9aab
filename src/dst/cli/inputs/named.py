"""Read options that give things a name: `NAME=VALUE`, where a value may be a file of numbers."""

from collections.abc import Callable, Sequence
from functools import partial
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
    option: str,
    given: Sequence[str] | None,
    read: Callable[[str, str], Value],
    form: str = "a name, `=` and what it is",
) -> dict[str, Value]:
    """Read `NAME=TEXT` options, each name once; `read` makes a value of name and text.

    Examples:
        >>> named("--state", ["h=h_next"], lambda name, text: text)
        {'h': 'h_next'}
    """
    found: dict[str, Value] = {}
    for text in given or ():
        name, equals, rest = text.partition("=")
        if not name or not equals:
            raise WrongUseError(f"{option} {text}: expected {form}")
        if name in found:
            raise WrongUseError(f"{option} {text}: `{name}` comes twice, it was given before")
        found[name] = read(name, rest)
    return found


def examples(given: Sequence[str] | None) -> dict[str, Array | None]:
    """Read `--stream-input`: `NAME` or `NAME=EXAMPLE`, each name once."""
    bare = [text for text in given or () if "=" not in text]
    whole = [text for text in given or () if "=" in text]
    read = partial(value, "--stream-input")
    found: dict[str, Array | None] = dict(named("--stream-input", whole, read))
    for name in bare:
        if not name or name in found:
            raise WrongUseError(f"--stream-input {name}: expected a name, each once")
        found[name] = None
    return found


def value(option: str, name: str, text: str) -> Array:
    """Read numbers with commas, or a tensor file; one number gives an array without axes.

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
    """Read an array from a .npy file, or the tensor `name` from a .safetensors file."""
    kind = ".safetensors file" if path.suffix == ".safetensors" else ".npy array"
    try:
        if path.suffix == ".safetensors":
            held = safetensors.numpy.load(path.read_bytes())
        else:
            held = {name: np.load(path, allow_pickle=False)}
    except OSError:
        raise
    except Exception as error:  # numpy lets through whatever its parsers meet
        why = first_line(error)
        raise WrongUseError(f"{option}: {path} is no {kind} of numbers: {why}") from None
    if name not in held:
        raise WrongUseError(f"{option}: {path} has no tensor `{name}`")
    found = held[name]
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub":
        what = getattr(found, "dtype", "several arrays")
        raise WrongUseError(f"{option}: {path} holds {what}, expected one array of numbers")
    return found


def shape(name: str, text: str) -> tuple[int | str, ...]:
    """Read `B,T,80` for `--shape`; nothing at all is the shape of a single number.

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
    """Read `--stream-input NAME=FILE.npy` in the contract's dtypes; the runtime checks the rest."""
    dtypes = {wanted.input: np.dtype(wanted.dtype) for wanted in contract.stream_inputs}

    def read(name: str, path: str) -> Array:
        option = f"--stream-input {name}"
        if not path:
            raise WrongUseError(f"{option}=: expected NAME=FILE.npy")
        value = array_file(option, Path(path), name)
        dtype = dtypes.get(name, value.dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is told below
            cast = value.astype(dtype)
        fits = np.isfinite(cast) if dtype.kind == "f" else cast.astype(value.dtype) == value
        if not np.all(fits):
            raise WrongUseError(f"{option}: {path} holds numbers that do not fit {dtype}")
        return cast

    return named("--stream-input", given, read, "NAME=FILE.npy")
