"""The store: saved states of named streams in, the newest or an older one of a stream out."""

from dst.runtime.store.store import Entry, Kept, StateStore

__all__ = ["Entry", "Kept", "StateStore"]
