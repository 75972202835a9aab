"""Pack bundles for platforms."""
