"""Read .npy and .npz files."""

import io
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dst.cli.errors import WrongUseError
from dst.cli.inputs.formats.block import Block, Wanted, block_of
from dst.words import counted

BLOCK_ITEMS = 4096

Array = npt.NDArray[np.generic]


def npy_blocks(wanted: Wanted, whole: bytes | None) -> Iterator[Block]:
    """Yield the rows of a .npy file, which is mapped, or of its bytes.

    Raises:
        WrongUseError: it holds no numbers of this model.
    """
    try:
        if whole is None:
            mapped = np.lib.format.open_memmap(wanted.path, mode="r")
            left = os.path.getsize(wanted.path) - mapped.offset - mapped.nbytes
            array: Array = mapped
        else:
            stream = io.BytesIO(whole)
            array = np.load(stream, allow_pickle=False)
            left = len(whole) - stream.tell()
    except OSError:
        raise
    except Exception as error:  # numpy lets through whatever its parsers meet
        raise wanted.refuse(f"is no .npy array of numbers: {first_line(error)}") from None
    if left:
        raise wanted.refuse(
            f"holds {array.dtype} {list(array.shape)} and {counted(left, 'byte')} behind it, "
            "expected one array; several belong in an .npz"
        )
    yield from _rows(wanted, array, "")


def npz_blocks(wanted: Wanted, whole: bytes | None) -> Iterator[Block]:
    """Yield the rows of the one array of an .npz file, or of the one named as the model's input.

    Raises:
        WrongUseError: there is no such array, or it holds no numbers of this model.
    """
    try:
        with np.load(
            wanted.path if whole is None else io.BytesIO(whole), allow_pickle=False
        ) as held:
            names = held.files
            name = names[0] if len(names) == 1 else wanted.input
            if name not in names:
                raise wanted.refuse(
                    f"holds {len(names)} arrays ({', '.join(names[:12])}) and none is called "
                    f"`{wanted.input}` as this model's input is; save one array, or name it so"
                )
            array: Array = held[name]
            if not isinstance(array, np.ndarray):  # numpy hands out the bytes of any other file
                raise wanted.refuse(
                    f"is a zip file of other files ({', '.join(names[:12])}), expected the arrays "
                    "of an .npz; write them as CSV or .npy"
                )
    except (OSError, WrongUseError):
        raise
    except Exception as error:  # numpy and zipfile let through whatever their parsers meet
        raise wanted.refuse(f"is no .npz file of numbers: {first_line(error)}") from None
    yield from _rows(wanted, array, f"array `{name}` ")


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return (str(error).splitlines() or [""])[0].strip() or type(error).__name__


def _rows(wanted: Wanted, array: Array, what: str) -> Iterator[Block]:
    width = wanted.width
    if array.dtype.kind not in "fiu" or not array.ndim or array.size != len(array) * width:
        raise wanted.refuse(
            f"{what}holds {array.dtype} {list(array.shape)}, expected numbers [n, {width}]"
        )
    for at in range(0, len(array), BLOCK_ITEMS):
        if wanted.stop():
            return
        yield block_of(np.array(array[at : at + BLOCK_ITEMS]).reshape(-1, width), at)
