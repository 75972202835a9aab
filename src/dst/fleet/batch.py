"""Read many recorded streams with `ray.data`; each row holds one, and gets its outputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dst.runtime import Session, StreamPool


class StreamMap:
    """Reads the recorded stream of each row from its beginning to its end.

    For `Dataset.map_batches`, which makes one of these per worker. Each row is a stream of its
    own; those of a batch are stepped together.

    Examples:
        With Ray::

            rows = ray.data.from_items([{"name": "a", "items": b"a text"}, ...])
            rows.map_batches(StreamMap, fn_constructor_args=("text",), batch_size=64, concurrency=2)
    """

    def __init__(
        self,
        bundle: str,
        column: str = "items",
        *,
        last: bool = True,
        outputs: Sequence[str] | None = None,
        slots: int = 64,
    ) -> None:
        """Open the bundle.

        Args:
            bundle: as for `Session.open`.
            column: holds each row's items, `[n, ...]` or bytes, as for `Stream.advance`.
            last: keep the outputs of the last item only.
            outputs: names of the outputs to keep; None for all.
            slots: rows that are stepped together.
        """
        self._pool = StreamPool(Session.open(bundle, lowering="fused"), slots)
        self._column, self._last, self._outputs = column, last, outputs
        self._dtype = np.dtype(self._pool._engine.contract.chunk.dtype)

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        """Return the batch without the column of items, with a column per output (B = 1 gone)."""
        rows = [self._items(value) for value in batch[self._column]]
        kept: dict[str, Any] = {name: v for name, v in batch.items() if name != self._column}
        found: dict[str, list[npt.NDArray[Any]]] = {}
        for start in range(0, len(rows), len(self._pool)):
            some = dict(enumerate(rows[start : start + len(self._pool)]))
            for slot in some:
                self._pool.reset(slot)
            answers = self._pool.advance(
                some, last=self._last, outputs=self._outputs, flush=some.keys()
            )
            for slot in some:
                for name, value in answers[slot].items():
                    found.setdefault(name, []).append(value[0])
        return kept | found

    def _items(self, value: Any) -> Any:
        return value if isinstance(value, bytes) else np.asarray(value, self._dtype)
