"""Find the contract of a torch module by running it."""
