"""The `dst` command line: run, make, check and compare bundles from a terminal."""
