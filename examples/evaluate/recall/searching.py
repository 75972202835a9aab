"""Answer by search instead of a state: BM25 over all past sentences, of which the best are read.

What was said is kept word for word, and grows without end. For each question the sentences that fit
it best (Robertson and Zaragoza 2009, by the package `rank-bm25`) are read by the same model, from
its empty state, in the order in which they were said; so a newer one still overwrites an older one.
"""

from random import Random

import numpy as np
from asking import LONGEST_ANSWER, Asker
from facts.chatter import Talk
from rank_bm25 import BM25Okapi

from dst.runtime import Session, Stream, generate


class Searcher(Asker):
    """Keeps sentences and searches them.

    Args:
        session: of the recall model.
        talk: gives sentences without facts, as ids.
        best: so many sentences are read for a question.
    """

    def __init__(self, session: Session, talk: Talk, best: int = 5) -> None:
        super().__init__(session, talk)
        self.best = best
        self.said: list[list[int]] = []
        self._index: BM25Okapi | None = None

    def begin(self) -> Stream:
        """Forget all sentences; the stream is not used."""
        self.said, self._index = [], None
        return super().begin()

    def read(self, stream: Stream, ids: list[int]) -> None:
        """Keep a sentence."""
        self.said.append(ids)
        self._index = None

    def chat(self, stream: Stream, items: int, random: Random) -> None:
        """Keep sentences of at least so many items."""
        while items > 0:
            ids = self.talk(random)
            self.read(stream, ids)
            items -= len(ids)

    def found(self, question: list[int]) -> list[list[int]]:
        """The sentences that fit a question best, the oldest first; of equal ones the newer."""
        if self._index is None:
            self._index = BM25Okapi(self.said)
        scores = self._index.get_scores(question)
        order = np.lexsort((np.arange(len(scores)), scores))[-self.best :]
        return [self.said[number] for number in sorted(order)]

    def answer(self, stream: Stream, question: str) -> str:
        """Read what was found, then ask."""
        ids, fresh = self.spelling.encode(question), self.session.stream()
        for sentence in self.found(ids):
            fresh.advance(np.array(sentence, np.int64))
        prompt = np.array(ids, np.int64)
        answer = [*generate(fresh, prompt, LONGEST_ANSWER, temperature=0, stop=(self.stop,))]
        return self.spelling.decode(number for number in answer if number != self.stop)

    @property
    def kept_bytes(self) -> int:
        """What is kept of a conversation, at two bytes an item, without the index."""
        return 2 * sum(map(len, self.said))
