"""Write the contract of a DST-GD network of given sizes."""

from dst.export.model.config import Config, Gaussian, Quantiles, Tokens
from dst.export.model.layer import TAPS
from dst.runtime.bundle import manifest as m

NOMINAL_T = 32


def contract_of(config: Config) -> m.Contract:
    """Describe the step of a network: every power of two up to ``max_chunk`` is an allowed T."""
    sizes = tuple(2**i for i in range(config.max_chunk.bit_length()) if 2**i <= config.max_chunk)
    return m.Contract(
        chunk=_chunk(config.items, sizes),
        constants=(),
        outputs=_outputs(config.items),
        state=_state(config),
    )


def _chunk(items: Tokens | Gaussian | Quantiles, sizes: tuple[int, ...]) -> m.Chunk:
    if isinstance(items, Tokens):
        content: m.Tokens | m.Features = m.Tokens(
            vocabulary=items.vocabulary,
            tokenizer="bytes" if items.vocabulary == 256 else "none",
        )
        shape: m.Shape = ("B", "T")
    else:
        content = m.Features(
            names=items.features, sample_rate_hz=items.sample_rate_hz, normalisation=None
        )
        shape = ("B", "T", len(items.features))
    return m.Chunk(
        input="chunk",
        dtype="int64" if isinstance(items, Tokens) else "float32",
        shape=shape,
        nominal_t=min(NOMINAL_T, sizes[-1]),
        allowed_t=sizes,
        content=content,
        lookback=0,
        lookback_fill=None,
        tail="exact",
        pad_value=None,
    )


def _outputs(items: Tokens | Gaussian | Quantiles) -> tuple[m.Output, ...]:
    def output(name: str, *rest: int, levels: tuple[float, ...] = ()) -> m.Output:
        meaning = {"logits": "logits", "quantiles": "quantiles"}.get(name, "gaussian")
        return m.Output(
            name=name,
            dtype="float32",
            shape=("B", "T", *rest),
            meaning=meaning,  # type: ignore[arg-type]
            levels=levels,
        )

    match items:
        case Tokens():
            return (output("logits", items.vocabulary),)
        case Gaussian():
            return (output("mean", len(items.features)), output("log_std", len(items.features)))
        case Quantiles():
            shape = (len(items.features), len(items.levels))
            return (output("quantiles", *shape, levels=items.levels),)


def _state(c: Config) -> tuple[m.State, ...]:
    cache = (c.attention_heads, c.window, c.attention_width)
    found: list[m.State] = []

    def add(name: str, role: str, *rest: int, learned: bool = False) -> None:
        found.append(
            m.State(
                input=name,
                output=f"next.{name}",
                dtype="float32",
                shape=("B", *rest),
                init=m.Stored(tensor=name) if learned else m.Zeros(),
                role=role,  # type: ignore[arg-type]
            )
        )

    for i in range(c.layers):
        add(f"S.{i}", "memory", c.heads, c.key, c.value, learned=c.learned_start)
        add(f"conv.{i}", "conv", c.memory_channels, TAPS - 1)
        add(f"Kc.{i}", "window", *cache)
        add(f"Vc.{i}", "window", *cache)
    add("ok", "window", c.window)
    return tuple(found)
