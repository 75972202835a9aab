"""The LSTM of as many parameters as the shipped model, trained alike."""

from __future__ import annotations

from torch import Tensor, nn

WIDTH, LAYERS = 408, 2


class LSTM(nn.Module):
    """Two layers of ``torch.nn.LSTM`` between an embedding and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, WIDTH)
        self.cells = nn.LSTM(WIDTH, WIDTH, LAYERS, batch_first=True)
        self.head = nn.Linear(WIDTH, 256, bias=False)

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """Zeros, batch first: ``h`` and ``c``, each ``[B, LAYERS, WIDTH]``."""
        zeros = self.head.weight.new_zeros(batch, LAYERS, WIDTH)
        return {"h": zeros, "c": zeros.clone()}

    def forward(
        self, chunk: Tensor, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Take one step over ``chunk [B, T]``."""
        before = (state[n].transpose(0, 1).contiguous() for n in ("h", "c"))
        x, (h, c) = self.cells(self.embedding(chunk), tuple(before))
        return {"logits": self.head(x)}, {"h": h.transpose(0, 1), "c": c.transpose(0, 1)}
