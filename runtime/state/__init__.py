"""Saved states: the record, its bytes, and the file they stand in."""
