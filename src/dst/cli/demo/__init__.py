"""The parts of `dst demo`."""
