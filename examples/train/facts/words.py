"""The words of the recall model: lists by kind, and the tokenizer that spells all others.

A word in the vocabulary is one token; any other is spelled by pieces of one or two letters, and a
number above 999 by its first three digits and then two at a time. So every word of letters and
digits can be told and asked for.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
UNKNOWN = "unknown"
"""What is answered about a thing that was never told."""
NOT_SPELLED = "[UNK]"
LETTERS, DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
PROSE_WORDS, PAIRS = 800, 260
RELATIONS = [
    "mother",
    "father",
    "sister",
    "brother",
    "aunt",
    "uncle",
    "cousin",
    "neighbour",
    "manager",
    "tenant",
    "wife",
    "husband",
    "daughter",
    "son",
    "landlord",
    "grandmother",
    "grandfather",
    "flatmate",
]


@cache
def sections(file: str) -> dict[str, list[str]]:
    """Read a file of `[heading]` lines and the lines below each; `#` begins a comment."""
    found: dict[str, list[str]] = {}
    for line in (HERE / file).read_text("utf-8").splitlines():
        if line.startswith("["):
            heading = line.strip("[]")
            found[heading] = []
        elif line.strip() and not line.startswith("#"):
            found[heading].append(line)
    return found


@cache
def words_by_kind() -> dict[str, list[str]]:
    """The words of each kind; `number` has 0 to 999."""
    kinds = {kind: " ".join(lines).split() for kind, lines in sections("words.txt").items()}
    return kinds | {"number": [str(number) for number in range(1000)]}


@cache
def splitter() -> re.Pattern[str]:
    """Words, and marks one by one: those of ASCII, and what Unicode calls punctuation."""
    marks = [chr(n) for n in range(0x3100) if unicodedata.category(chr(n)).startswith("P")]
    single = re.escape("".join(dict.fromkeys([*PUNCTUATION, *marks])))
    return re.compile(rf"[^\s{single}]+|[{single}]")


def split_words(text: str) -> list[str]:
    """Lower-case words, numbers and single marks of a text, as the tokenizer splits it."""
    return splitter().findall(text.lower())


def vocabulary(prose: Iterable[str]) -> list[str]:
    """Choose the tokens: all listed words, the commonest of some prose, and pieces for the rest."""
    listed = [word for kind in words_by_kind().values() for word in kind]
    templates = " ".join(line for lines in sections("templates.txt").values() for line in lines)
    counts: Counter[str] = Counter()
    for text in prose:
        counts.update(word for word in split_words(text) if word.isascii() and word.isalpha())
    pairs: Counter[str] = Counter()
    for word, count in counts.items():
        for place in range(1, len(word) - 1):
            pairs[word[place : place + 2]] += min(count, 100)
    common = [pair for pair, _ in pairs.most_common(PAIRS)]
    tokens = [NOT_SPELLED, UNKNOWN, *PUNCTUATION, *LETTERS, *DIGITS]
    tokens += [f"##{piece}" for piece in (*LETTERS, *DIGITS, *common)]
    tokens += [f"##{tens}{ones}" for tens in DIGITS for ones in DIGITS]
    tokens += [*RELATIONS, "my", *listed, *split_words(templates)]
    tokens += [word for word, _ in counts.most_common(PROSE_WORDS)]
    return list(dict.fromkeys(tokens))


def tokenizer_json(tokens: list[str]) -> str:
    """The tokenizer.json of `tokenizers`: no accents, lower case, words and marks, WordPiece."""
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}],
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": None,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {
                "type": "WordPiece",
                "unk_token": NOT_SPELLED,
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": {token: number for number, token in enumerate(tokens)},
            },
        }
    )


class Spelling:
    """Turns words into ids and back as the tokenizer does, without its package.

    Args:
        ids: the vocabulary.
    """

    def __init__(self, ids: dict[str, int]) -> None:
        self.ids = ids
        self.tokens = {number: token for token, number in ids.items()}
        self._known: dict[str, list[int]] = {}

    @staticmethod
    def of(file: Path) -> "Spelling":
        """Read the vocabulary of a tokenizer.json."""
        return Spelling(json.loads(file.read_text("utf-8"))["model"]["vocab"])

    def word(self, word: str) -> list[int]:
        """The ids of one word: the longest piece that fits, again and again (WordPiece)."""
        if word not in self._known:
            self._known[word] = self._pieces(word)
        return self._known[word]

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.ids:
                    found.append(self.ids[piece])
                    start = end
                    break
            else:
                return [self.ids[NOT_SPELLED]]
        return found

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        plain = unicodedata.normalize("NFD", text)
        plain = "".join(letter for letter in plain if unicodedata.category(letter) != "Mn")
        return [number for word in split_words(plain) for number in self.word(word)]

    def decode(self, ids: Iterable[int]) -> str:
        """The words of ids, with blanks between."""
        return " ".join(self.tokens[number] for number in ids).replace(" ##", "")
