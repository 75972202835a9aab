"""Say whether a store may take a name or a state, before anything is written."""

from dst.runtime.errors import StoreError
from dst.runtime.state.match import check_record
from dst.runtime.state.record import Saved, check_finite

MAX_NAME = 200


def check_name(label: str, name: str) -> None:
    """Raise unless a stream can have this name."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise StoreError(
            f"{label}: no stream can be named {name!r:.80}; "
            f"expected 1 to {MAX_NAME} printable characters",
            code="stream-name",
        )


def check_state(label: str, name: str, saved: Saved) -> None:
    """Raise unless this state may be stored."""
    check_record(saved, f"{label}: the state of stream {name!r}")
    check_finite(saved, label, f" of stream {name!r}", "nothing was stored")
