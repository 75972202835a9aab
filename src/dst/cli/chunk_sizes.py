"""Say what a recipe promises when a stream is cut into chunks of another size."""

EXACT_UP_TO = {
    ("int4-weights", 32): {"AVX512": 32, "AVX2": 16},
    ("int4-mixed", 32): {"AVX512": 32, "AVX2": 16},
    ("int8-weights", 64): {"AVX512": 64, "AVX2": 128},
}
"""Recipes in blocks, with their usual block -> the largest block whose kernel (`MatMulNBits`, ONNX
Runtime 1.32) answers an item alone as it does among others, bit for bit; by kind of CPU."""
BY_ITEM = ("int8-rows", "int8-static")
"""Recipes whose products are sums of whole numbers, exact on every CPU."""


def over_t(recipe: str) -> str:
    """Return one line about a recipe's products, from the manifest's `recipe`.

    It tells of products only: what stays float32 may depend on where in a chunk an item stands.

    Example:
        >>> over_t("int8-rows")
        'products are the same bit for bit, on every CPU'
    """
    name, *changes = recipe.split(", ")
    if "non-causal" in changes:
        return "each T is another model: one scale spans the chunk"
    if name in BY_ITEM:
        return "products are the same bit for bit, on every CPU"
    for (known, usual), limits in EXACT_UP_TO.items():
        if name == known:
            given = (int(change[6:]) for change in changes if change.startswith("block "))
            block = next(given, usual)
            exact = [kind for kind, limit in limits.items() if block <= limit]
            other = [kind for kind in limits if kind not in exact]
            parts = [f"the same bit for bit with {' and '.join(exact)} kernels"] if exact else []
            parts += [f"the same but for last bits with {' and '.join(other)}"] if other else []
            return f"products are {', '.join(parts)}"
    return "products are the same but for last bits"
