r"""Train a memory of facts: told in plain sentences, kept through long talk, given when asked.

`recall.safetensors` holds what it has learned, in half precision, to make the bundle of or to go on
from; `examples/evaluate/recall` judges bundles, `examples/agent` talks.

    python examples/train/recall.py --out runs/recall --start examples/train/recall.safetensors
    python examples/train/recall.py --out runs/recall --export recall    # what that has learned
    python examples/train/recall.py --out runs/recall --export recall \
        --start examples/train/recall.safetensors                        # what is there already

Only the answers are learned. In the second phase each row is a conversation that goes on from
segment to segment with its state, so that answers lie thousands of items behind their facts.

Answers alone teach slowly which item to keep, and under which key. The made-up conversations know
both, so the loss says it to the memories of the last layer:

- they write at the items of a told value, and at the one behind a value that might go on, and
  nowhere else: a fact must outlast a million items of talk, and training sees thousands at most.
  Their decay is off.
- the query of an answer's item is near the key of the told item, and far from the other keys of the
  batch (InfoNCE, van den Oord et al. 2018), by a margin (CosFace, Wang et al. 2018).
- facts that are alike get keys that are not: some rows of each batch tell many facts of one kind
  about many, or of many kinds about one, and the cosines of all keys count by their fourth powers.
  Without that the network tells names apart in a few dimensions only, and keys of a kind collide.

The vectors of numbers, names and things are drawn and not learned, but for what their kind shares:
there are many of them, each is seen seldom, and what is copied or tells one fact from another needs
only to be unlike all others.

Shape letters: B rows of a batch, T items, H memories of a layer, K width of their keys.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import torch
from corpus import packages
from facts.chatter import talk_of
from facts.talk import Conversation, Habits, World
from facts.words import Spelling, tokenizer_json, vocabulary, words_by_kind
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from trainer import Batch, State, Task, options, plan_of, shorten, train, trained

from dst.export import export_bundle
from dst.export.model import Network
from dst.export.model.config import Config, Tokens
from dst.export.model.heads import Head
from dst.export.model.layer import Forms, Layer, LayerState
from dst.runtime.bundle.validation import TOKENIZER_FILE

ROWS, SEGMENT = 16, 128
LISTS = 4
"""Rows that tell many facts that are much alike, and begin anew with each segment."""
MOST_FACTS = 20
DRAWN = ("name", "thing")
"""Kinds of words with drawn vectors, besides numbers."""
RESET_PROBABILITY = 0.02
QUIET_LOGIT, QUIET_WEIGHT, WRITE_WEIGHT = -18.0, 5e-2, 1e-1
KEY_TEMPERATURE, KEY_MARGIN, NOISE_WEIGHT, LIKENESS_WEIGHT = 0.1, 0.4, 2.0, 1.0


def sizes(tokens: int) -> Config:
    """The network: two layers of two memories of 256 x 128."""
    return Config(
        160, 2, 2, 256, 128, 4, 32, 16, 400,
        items=Tokens(tokens, True, 128), alpha_max=1.0, beta_max=1.0, max_chunk=64,
    )  # fmt: skip


class Undecoded(nn.Module):
    """A head that leaves out the logits: most items are not asked for."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.encode = head.encode

    def decode(self, x: Tensor, _: object) -> dict[str, Tensor]:
        """`[B, T, D]`, as it is."""
        return {"hidden": x}


class Noted(Layer):
    """A layer that keeps the queries, keys and write logits of its last step for the loss."""

    queries: Tensor  # (B, T, H, K), of length 1
    keys: Tensor
    writes: Tensor  # (B, T, H)

    def _memory(
        self, u: Tensor, qkv: Tensor, state: LayerState, forms: Forms
    ) -> tuple[Tensor, Tensor, Tensor]:
        def delta_rule(q: Tensor, k: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            self.queries, self.keys = q, k
            return forms.delta_rule(q, k, *rest)

        self.writes = self.gates(u).chunk(2, -1)[1]
        return super()._memory(u, qkv, state, forms._replace(delta_rule=delta_rule))


class Drawn(nn.Module):
    """Gives some kinds of an embedding's tokens drawn vectors.

    Learned are, for each kind, the vectors' length and a vector that is added to all of them.
    """

    ids: Tensor  # (N,) tokens of these kinds
    kinds: Tensor  # (N,) of each its kind
    rows: Tensor  # (N, width)

    def __init__(self, tokens: list[str], width: int) -> None:
        super().__init__()
        kind_of = {word: at for at, kind in enumerate(DRAWN, 1) for word in words_by_kind()[kind]}
        kind_of |= {token: 0 for token in tokens if token.removeprefix("##").isdigit()}
        ids = [at for at, token in enumerate(tokens) if token in kind_of]
        rows = torch.randn(len(ids), width, generator=torch.Generator().manual_seed(0))
        kinds = torch.tensor([kind_of[tokens[at]] for at in ids])
        self.register_buffer("ids", torch.tensor(ids), persistent=False)
        self.register_buffer("kinds", kinds, persistent=False)
        self.register_buffer("rows", F.normalize(rows, dim=-1), persistent=False)
        self.length = nn.Parameter(torch.ones(1 + len(DRAWN), 1))
        self.shared = nn.Parameter(torch.zeros(1 + len(DRAWN), width))

    def forward(self, weight: Tensor) -> Tensor:
        """`[tokens, width]`, with the drawn vectors put in."""
        rows = self.length[self.kinds] * self.rows + self.shared[self.kinds]
        return weight.index_copy(0, self.ids, rows)


class Recall(Network):
    """The network, and what the loss needs of its last layer."""

    tokenizer: str

    def __init__(self, tokens: list[str]) -> None:
        super().__init__(sizes(len(tokens)))
        self.tokenizer = tokenizer_json(tokens)
        chunk = self.contract.chunk
        content = msgspec.structs.replace(chunk.content, tokenizer="tokenizers")
        self.contract = msgspec.structs.replace(
            self.contract, chunk=msgspec.structs.replace(chunk, content=content)
        )
        embedding = self.head.embedding
        drawn = Drawn(tokens, embedding.weight.shape[1])
        parametrize.register_parametrization(embedding, "weight", drawn)
        self.layers[-1].__class__ = Noted
        self.last.A_log.data.fill_(-20.0)

    @property
    def last(self) -> Noted:
        """The layer whose memories keep the facts."""
        layer = self.layers[-1]
        assert isinstance(layer, Noted)
        return layer

    def files(self) -> dict[str, bytes]:
        """The tokenizer."""
        return {TOKENIZER_FILE: self.tokenizer.encode()}

    def forward(
        self, chunk: Tensor, state: State, answers: Tensor | None = None
    ) -> tuple[dict[str, Tensor], State]:
        """As `Network`; while it is trained, what `loss` needs instead of logits."""
        if not self.training:
            return super().forward(chunk, state, answers)
        head, self.head = self.head, Undecoded(self.head)  # type: ignore[assignment]
        outputs, state = super().forward(chunk, state)
        self.head = head
        return outputs, state

    def loss(self, outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Nats of the answers' items, and of the last layer's writes and keys.

        `targets` `[B, T, 3]` are the item that an answer has next, else -1, the key of a told item,
        and the key of the answer's next item, else 0.
        """
        following, told, asked_for = targets.unbind(-1)
        asked = following >= 0
        logits = self.head.decode(outputs["hidden"][asked], None)["logits"]  # of the answers alone
        nats = F.cross_entropy(logits, following[asked])
        writes, quiet = self.last.writes[told > 0], self.last.writes[told == 0]
        gates = WRITE_WEIGHT * F.softplus(-writes).mean()
        gates = gates + QUIET_WEIGHT * F.relu(quiet - QUIET_LOGIT).mean()
        keys = self._keys(told, asked_for)
        return (nats + gates + keys)[None, None]

    def _keys(self, told: Tensor, asked_for: Tensor) -> Tensor:
        """What is wrong with the keys: the wrong one is nearest, the right one is not near, noise.

        A query reads the sum of all values, each times the cosine of its key and the query; so the
        squares of the wrong keys' cosines are the power of the noise: in the same memory those of
        this segment, and keys of other rows stand for what earlier segments have told. What is
        told later also takes away from what was told under a key like its own. There few keys that
        are much alike do more harm than many that are a little, so fourth powers count.
        """
        reads, writes = (asked_for > 0).nonzero(), (told > 0).nonzero()  # (R, 2), (W, 2)
        queries, keys = (
            self.last.queries[*reads.T],
            self.last.keys[*writes.T],
        )  # (R, H, K), (W, H, K)
        near = torch.einsum("rhk,whk->hrw", queries, keys)
        same = asked_for[*reads.T][:, None] == told[*writes.T]
        power = near.square() * ~same
        here = reads[:, None, 0] == writes[:, 0]  # in the same memory
        noise = (power * here).sum(-1).mean() + 2 * MOST_FACTS * (power * ~here).mean()
        among = torch.einsum("vhk,whk->hvw", keys, keys)
        others = told[*writes.T][:, None] != told[*writes.T]
        likeness = (among.square().square() * others).sum(-1).mean()
        there = same.any(1)  # else the fact was told in an earlier segment
        near, same = near[:, there], same[there]
        margins = (near - KEY_MARGIN * same) / KEY_TEMPERATURE
        found = margins.logsumexp(-1) - margins.masked_fill(~same, -torch.inf).logsumexp(-1)
        apart = 1 - (near * same).sum(-1) / same.sum(-1)
        return found.mean() + apart.mean() + NOISE_WEIGHT * noise + LIKENESS_WEIGHT * likeness


LISTING = (  # of one kind about many, and of many kinds about one
    Habits(SEGMENT, tell=8, talk=1, ask=1, alike=0.97, about=0.1),
    Habits(SEGMENT, tell=8, talk=1, ask=1, alike=0.0, about=0.97),
)


def habits(random: Random, carried: bool) -> Habits:
    """Draw the habits of a conversation: short ones in the first phase, long ones in the second."""
    if not carried:
        return Habits(random.randint(2, 6), tell=6, talk=1, ask=6, aside=0.1)
    return Habits(
        random.randint(2, MOST_FACTS),
        tell=random.randint(1, 6),
        talk=random.choice([1, 3, 3, 10, 30]),
        alike=random.random(),
        about=random.random(),
    )


def recall_task(prose: list[str], spelling: Spelling) -> Task:
    """The task of answering questions about what was told.

    Args:
        prose: texts that the talk is taken from.
        spelling: words to ids.
    """
    talk = talk_of(prose, spelling)

    built: list[Recall] = []  # the loss needs the head of the module that is trained

    def build() -> nn.Module:
        built[:] = [Recall(list(spelling.ids))]
        return built[0]

    def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return built[0].loss(outputs, targets)

    def batches(seed: int, carried: bool) -> Iterator[Batch]:
        random = Random(f"{seed} {carried}")
        rows = torch.arange(ROWS)

        def begin(row: int) -> Conversation:
            how = LISTING[row % 2] if row < LISTS else habits(random, carried)
            return Conversation(World(Random(random.random()), how), spelling, talk)

        held = [begin(row) for row in range(ROWS)]
        fresh = [True] * ROWS
        while True:
            taken = [conversation.take(SEGMENT) for conversation in held]
            items = torch.tensor(taken)  # [B, T+1, 3]
            ids, answers, keys = items.unbind(-1)
            following = torch.where(answers[:, 1:] > 0, ids[:, 1:], -1)
            told, asked_for = keys * (1 - answers), keys * answers
            targets = torch.stack([following, told[:, :-1], asked_for[:, 1:]], -1)
            yield Batch(ids[:, :-1], targets, rows, torch.tensor(fresh))
            fresh = [
                row < LISTS or not carried or random.random() < RESET_PROBABILITY
                for row in range(ROWS)
            ]
            held = [begin(row) if fresh[row] else held[row] for row in range(ROWS)]

    return Task(build, batches, ROWS, loss)


def begun(task: Task, weights: Path) -> Task:
    """The task with a network that has these weights."""

    def build() -> nn.Module:
        module = task.build()
        module.load_state_dict(load_file(weights))
        return module

    return replace(task, build=build)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options(parser, steps=5_000, zero_state=800, decay=0.5)
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to begin with")
    parser.add_argument("--work", type=Path, default=Path("runs/corpus"), help="packages, kept")
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="train nothing, write the bundle"
    )
    given = parser.parse_args()
    if given.export is not None:
        given.export.parent.mkdir(parents=True, exist_ok=True)
    learned, _ = packages(given.work)
    prose = [text.decode("utf-8", "replace") for text in learned["prose"].values()]
    tokens = vocabulary(prose)
    spelling = Spelling({token: number for number, token in enumerate(tokens)})
    task = recall_task(prose, spelling)
    if given.export is None:
        train(task if given.start is None else begun(task, given.start), plan_of(given))
        return
    torch.set_num_threads(given.threads)
    model = trained(task, given.out) if given.start is None else begun(task, given.start).build()
    model.eval()
    assert isinstance(model, Recall)
    parametrize.remove_parametrizations(model.head.embedding, "weight")
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
        certify_steps=2_000,
        bound=2e-3,  # what never decays keeps each rounding error, and answers are sharp
        overwrite=True,
        tell=print,
    )


if __name__ == "__main__":
    main()
