"""Check the inputs that a stream is given once, when it starts, and hold them for its graphs.

Shape letters: `B` batch (1).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.runtime.bundle.layout import fixed, sized
from dst.runtime.bundle.manifest import Contract, StreamInput
from dst.runtime.errors import SessionError

Array = npt.NDArray[np.generic]


class Given(NamedTuple):
    """The inputs of one stream; what is in here never changes, so that streams may share it.

    Attributes:
        arrays: input name -> read-only array in the contract's shape with B = 1.
        values: the same, as the graphs are bound to it.
    """

    arrays: Mapping[str, Array]
    values: Mapping[str, ort.OrtValue]

    @staticmethod
    def of(contract: Contract, inputs: Mapping[str, Array] | None) -> "Given":
        """Check what a caller gives and copy it.

        Args:
            contract: names the inputs.
            inputs: input name -> array in the contract's dtype and shape, with B = 1 or without
                the batch axis; None is the same as nothing.

        Raises:
            SessionError: one is missing, unknown, of another dtype or shape, or not finite.
        """
        wanted = {wants.input: wants for wants in contract.stream_inputs}
        held: Mapping[str, Array] = {} if inputs is None else inputs
        if not isinstance(held, Mapping):
            raise SessionError(
                f"inputs is a {type(held).__name__}, expected a dict of input name -> array",
                code="stream-input-type",
            )
        for name in held:
            if name not in wanted:
                takes = ", ".join(_spelled(wants) for wants in wanted.values()) or "none"
                raise SessionError(
                    f"stream input {name!r} is not known; this model takes {takes}",
                    code="stream-input-unknown",
                )
        for name, wants in wanted.items():
            if name not in held:
                raise SessionError(
                    f"stream input {_spelled(wants)} is missing; it is given once when a stream "
                    f'starts: session.stream(inputs={{"{name}": array}})',
                    code="stream-input-missing",
                )
        if not wanted:
            return NOTHING
        arrays = {name: _checked(wants, held[name]) for name, wants in wanted.items()}
        values = {n: ort.OrtValue.ortvalue_from_numpy(array) for n, array in arrays.items()}
        for array in arrays.values():
            array.flags.writeable = False
        return Given(arrays, values)


NOTHING = Given({}, {})


def _checked(wants: StreamInput, value: Array) -> Array:
    """Return a copy of one input in the contract's shape with B = 1."""
    name, shape = wants.input, sized(wants.shape, 0)
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise SessionError(
            f"stream input `{name}` is a {type(value).__name__}, expected a numpy array: "
            f"np.asarray(value, '{wants.dtype}')",
            code="stream-input-type",
        )
    if value.dtype != np.dtype(wants.dtype):
        raise SessionError(
            f"stream input `{name}` has dtype {value.dtype}, expected {wants.dtype}; "
            f"use .astype('{wants.dtype}')",
            code="stream-input-type",
        )
    row = fixed(wants.shape)
    if value.shape not in (shape, row):
        other = f", or {list(row)} without the batch axis" if row != shape else ""
        raise SessionError(
            f"stream input `{name}` has shape {list(value.shape)}, expected {list(shape)}{other}",
            code="stream-input-shape",
        )
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise SessionError(
            f"stream input `{name}` holds a NaN or an infinity", code="stream-input-not-finite"
        )
    return np.array(value.reshape(shape), order="C")


def _spelled(wants: StreamInput) -> str:
    return f"`{wants.input}` ({wants.dtype} {list(sized(wants.shape, 0))})"
