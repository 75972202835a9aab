"""States: the record of all that a stream is, its bytes, its file, and its random source."""
