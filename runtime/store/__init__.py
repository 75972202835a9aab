"""Stores: files that keep the states of named streams."""

from dst.runtime.store.store import Entry, Kept, StateStore

__all__ = ["Entry", "Kept", "StateStore"]
