"""The verbs of `dst`, one module each."""
