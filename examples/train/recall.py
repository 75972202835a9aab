"""Train a memory of facts: told in plain sentences, kept through long talk, given when asked.

No bundle of it ships yet: what it has learned so far is not good enough. Rows, segments and shares
are those of the last trial, which went on from weights that had learned by 16 rows of 128 items.

    python examples/train/recall.py --out runs/recall
    python examples/train/recall.py --out runs/recall --export recall    # the bundle

Only the answers are learned. In the second phase each row is a conversation that goes on from
segment to segment with its state, so that answers lie thousands of items behind their facts.

The memories of the last layer must keep a fact through a million items of talk. Training sees
thousands at most, so the loss also asks that these memories write next to nothing at an item that
tells nothing; their decay is switched off from the start.

Shape letters: B rows of a batch, T items, H memories of a layer.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import torch
from corpus import packages
from facts.chatter import talk_of
from facts.talk import Conversation, Habits, World
from facts.words import Spelling, tokenizer_json, vocabulary
from torch import Tensor, nn
from torch.nn import functional as F
from trainer import Batch, State, Task, options, plan_of, shorten, train, trained

from dst.export import export_bundle
from dst.export.model import Network
from dst.export.model.config import Config, Tokens
from dst.export.model.heads import Head
from dst.export.model.layer import Layer
from dst.runtime.bundle.validation import TOKENIZER_FILE

ROWS, SEGMENT = 4, 512
MOST_FACTS = 20
RESET_PROBABILITY = 0.02
QUIET_LOGIT, QUIET_WEIGHT = -18.0, 1e-2


def sizes(tokens: int) -> Config:
    """The network: two layers of two memories of 64 x 64."""
    return Config(
        160, 2, 2, 64, 64, 4, 32, 16, 320,
        items=Tokens(tokens, True, 64), alpha_max=1.0, beta_max=1.0, max_chunk=64,
    )  # fmt: skip


class Undecoded(nn.Module):
    """A head that leaves out the logits: most items are not asked for."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.encode = head.encode

    def decode(self, x: Tensor, _: object) -> dict[str, Tensor]:
        """`[B, T, D]`, as it is."""
        return {"hidden": x}


class Recall(Network):
    """The network, and how much its last layer would write where nothing calls for it."""

    def __init__(self, config: Config, tokenizer: str) -> None:
        super().__init__(config)
        self.tokenizer = tokenizer
        chunk = self.contract.chunk
        content = msgspec.structs.replace(chunk.content, tokenizer="tokenizers")
        self.contract = msgspec.structs.replace(
            self.contract, chunk=msgspec.structs.replace(chunk, content=content)
        )
        last = self.layers[-1]
        assert isinstance(last, Layer)
        last.A_log.data.fill_(-20.0)
        self.written = torch.zeros(())
        last.gates.register_forward_hook(self._note)

    def files(self) -> dict[str, bytes]:
        """The tokenizer."""
        return {TOKENIZER_FILE: self.tokenizer.encode()}

    def _note(self, _: nn.Module, __: object, gates: Tensor) -> None:
        self.written = gates.chunk(2, -1)[1]  # (B, T, H)

    def forward(
        self, chunk: Tensor, state: State, answers: Tensor | None = None
    ) -> tuple[dict[str, Tensor], State]:
        """As `Network`; while it is trained, what `loss` needs instead of logits."""
        if not self.training:
            return super().forward(chunk, state, answers)
        head, self.head = self.head, Undecoded(self.head)  # type: ignore[assignment]
        outputs, state = super().forward(chunk, state)
        self.head = head
        outputs["written"] = F.relu(self.written - QUIET_LOGIT).mean(-1)
        return outputs, state

    def loss(self, outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Nats of the answers' items, and a little for every write that no telling calls for.

        `targets` `[B, T, 2]` are the item that an answer has next, else -1, and whether this item
        tells something; the result is `[B, T]`.
        """
        following, tells = targets.unbind(-1)
        asked = following >= 0
        logits = self.head.decode(outputs["hidden"][asked], None)["logits"]  # of the answers alone
        nats = F.cross_entropy(logits, following[asked])
        return nats + QUIET_WEIGHT * outputs["written"] * (1 - tells)


def habits(random: Random, carried: bool) -> Habits:
    """Draw the habits of a conversation: short ones in the first phase, long ones in the second."""
    if not carried:
        return Habits(random.randint(2, 6), tell=6, talk=1, ask=6, aside=0.1, spelled=0.05)
    talk = random.choice([2, 10, 30])
    return Habits(random.randint(2, MOST_FACTS), tell=random.randint(1, 6), talk=talk)


def recall_task(prose: list[str], spelling: Spelling) -> Task:
    """The task of answering questions about what was told.

    Args:
        prose: texts that the talk is taken from.
        spelling: words to ids.
    """
    talk = talk_of(prose, spelling)

    built: list[Recall] = []  # the loss needs the head of the module that is trained

    def build() -> nn.Module:
        built[:] = [Recall(sizes(len(spelling.ids)), tokenizer_json(list(spelling.ids)))]
        return built[0]

    def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return built[0].loss(outputs, targets)

    def batches(seed: int, carried: bool) -> Iterator[Batch]:
        random = Random(f"{seed} {carried}")
        rows = torch.arange(ROWS)

        def begin() -> Conversation:
            world = World(Random(random.random()), habits(random, carried))
            return Conversation(world, spelling, talk)

        held = [begin() for _ in range(ROWS)]
        fresh = [True] * ROWS
        while True:
            taken = [conversation.take(SEGMENT) for conversation in held]
            items = torch.tensor(taken)  # [B, T+1, 3]
            ids, answers, tells = items.unbind(-1)
            following = torch.where(answers[:, 1:] > 0, ids[:, 1:], -1)
            targets = torch.stack([following, tells[:, :-1]], -1)
            yield Batch(ids[:, :-1], targets, rows, torch.tensor(fresh))
            fresh = [not carried or random.random() < RESET_PROBABILITY for _ in range(ROWS)]
            held = [begin() if new else old for new, old in zip(fresh, held, strict=True)]

    return Task(build, batches, ROWS, loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options(parser, steps=6_000, zero_state=1_500, decay=0.5)
    parser.add_argument("--work", type=Path, default=Path("runs/corpus"), help="packages, kept")
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="train nothing, write the bundle"
    )
    given = parser.parse_args()
    learned, _ = packages(given.work)
    prose = [text.decode("utf-8", "replace") for text in learned["prose"].values()]
    tokens = vocabulary(prose)
    spelling = Spelling({token: number for number, token in enumerate(tokens)})
    task = recall_task(prose, spelling)
    if given.export is None:
        train(task, plan_of(given))
        return
    torch.set_num_threads(given.threads)
    model = trained(task, given.out)
    shorten(model)
    random = Random(-1)
    conversation = Conversation(World(random, Habits(16)), spelling, talk_of(prose, spelling))
    export_bundle(
        model,
        given.export,
        data=np.array([item[0] for item in conversation.take(20_000)], np.int64),
        about_data="made-up conversations, not trained on",
        description="remembers facts told in plain sentences, and answers questions about them",
        license="Apache-2.0",
        certify_steps=10_000,
        overwrite=True,
        tell=print,
    )


if __name__ == "__main__":
    main()
