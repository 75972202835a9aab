"""Check that a torch module is a stateful step, and name what is wrong with it."""
