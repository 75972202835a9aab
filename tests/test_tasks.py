"""The tasks and the contestants of `examples/evaluate/tasks`, and the judge that counts answers."""

import sys
from collections.abc import Iterator
from itertools import islice, permutations
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path[:0] = [str(EXAMPLES / "evaluate" / "tasks"), str(EXAMPLES / "train")]
import plots
import suite
from contestants import CONTESTANTS, Attention, contestant, parameters
from judging import judge, readers
from tasks import TASKS, UNASKED, Case, Copy, Ids, Passkey, Recall, Stream, Task, Words

from dst.evaluate.machine import environment

seeds = st.integers(0, 10**6)
some = settings(max_examples=25, deadline=None)


def taken(task: Task, seed: int, items: int) -> list[tuple[int, int]]:
    return list(islice(task.endless(Random(seed)), items))


@some
@given(seeds)
def test_recall_asks_for_each_key_of_an_episode_once(seed: int) -> None:
    task = Recall()
    items = task.episode(Random(seed), 20)
    told, asked = items[:40], items[40:]
    bound = {told[i][0]: told[i + 1][0] for i in range(0, 40, 2)}
    assert len(bound) == 20
    assert [target for _, target in told] == [UNASKED] * 40
    assert dict(asked) == bound
    assert len(asked) == 20


@some
@given(seeds)
def test_a_stream_asks_for_what_a_key_was_bound_to_last(seed: int) -> None:
    bound: dict[int, int] = {}
    questions = 0
    items = taken(Stream(), seed, 2_000)
    for (token, target), (second, answer) in zip(items[::2], items[1::2], strict=True):
        assert target == UNASKED
        if token == 0:
            questions += 1
            assert answer == bound[second]
        else:
            assert answer == UNASKED
            bound[token] = second
    assert questions > 400


@some
@given(seeds, st.integers(0, 300), st.integers(0, 300))
def test_a_passkey_is_told_once_and_asked_for_at_the_end(
    seed: int, before: int, between: int
) -> None:
    items = Passkey().told_and_asked(Random(seed), before, between)
    tokens = [token for token, _ in items]
    key = tokens[before + 1 : before + 6]
    assert tokens[before] == 0
    assert all(2 <= digit < 12 for digit in key)
    assert tokens[-6] == 1
    assert [target for _, target in items[-6:]] == [*key, UNASKED]
    assert tokens[-5:] == key
    assert all(target == UNASKED for _, target in items[:-6])
    assert len(items) == before + between + 12


@pytest.mark.parametrize("task", [t for t in TASKS if isinstance(t, Words)], ids=lambda t: t.name)
def test_words_ask_for_what_the_elements_do_to_a_row_one_after_another(task: Words) -> None:
    elements = list(permutations(range(task.letters)))
    row = list(range(task.letters))
    seen = set()
    for token, target in taken(task, 3, 3_000):
        row = [elements[token][letter] for letter in row]
        assert elements[target] == tuple(row)
        seen.add(token)
    assert seen == set(task.read)


def test_parity_counts_ones() -> None:
    items = taken(next(t for t in TASKS if t.name == "parity"), 5, 300)
    ones = np.cumsum([token for token, _ in items]) % 2
    assert [target for _, target in items] == ones.tolist()


@some
@given(seeds, st.integers(16, 400))
def test_copy_asks_for_the_data_in_order(seed: int, length: int) -> None:
    items = Copy().episode(Random(seed), length)
    data = [token for token, _ in items if token > 1]
    assert [target for token, target in items if token == 1] == data
    assert all(target == UNASKED for token, target in items if token != 1)
    assert len(data) == 16
    assert len(items) == length + 16


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_tokens_and_targets_stay_in_the_vocabulary(task: Task) -> None:
    items = np.array(taken(task, 1, 3_000), np.int64)
    for tokens, targets in ((items[:, 0], items[:, 1]), *judged(task)):
        assert tokens.min() >= 0
        assert max(tokens.max(), targets.max()) < task.vocabulary
        assert (targets != UNASKED).any()


def judged(task: Task) -> Iterator[tuple[Ids, Ids]]:
    """Whole rows: cases up to the next fresh one."""
    row: list[Case] = []
    for case in islice(task.cases(Random(2), 0.01), 30):
        if case.fresh and row:
            yield (
                np.concatenate([c.tokens for c in row]),
                np.concatenate([c.targets for c in row]),
            )
            row = []
        row.append(case)


@pytest.mark.parametrize("task", TASKS, ids=lambda t: t.name)
def test_all_contestants_have_as_many_parameters(task: Task) -> None:
    sizes = {n: parameters(contestant(n, task.vocabulary, task.tracks)) for n in CONTESTANTS}
    assert max(sizes.values()) <= 1.02 * sizes["dst"]
    assert min(sizes.values()) >= 0.98 * sizes["dst"]


@pytest.mark.parametrize("name", ["window", "full"])
@some
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_attention_does_not_depend_on_how_a_row_is_cut(name: str, cuts: list[int]) -> None:
    torch.manual_seed(1)
    module = contestant(name, 40, False).eval()
    assert isinstance(module, Attention)
    items = torch.randint(0, 40, (1, sum(cuts)))
    with torch.no_grad():
        whole, _ = module(items, module.initial_state(1))
        state, parts = module.initial_state(1), []
        for chunk in items.split(cuts, 1):
            outputs, state = module(chunk, state)
            parts.append(outputs["logits"])
    torch.testing.assert_close(torch.cat(parts, 1), whole["logits"], rtol=1e-4, atol=1e-4)


def test_a_window_hides_what_lies_before_it_and_a_cache_does_not() -> None:
    torch.manual_seed(1)
    items = torch.randint(0, 40, (1, 200))
    other = items.clone()
    other[0, 0] = (items[0, 0] + 1) % 40
    moved = {}
    for name in ("window", "full"):
        module = contestant(name, 40, False).eval()
        with torch.no_grad():
            start = module.initial_state(1)  # type: ignore[operator]
            ends = [module(x, start)[0]["logits"][0, -1] for x in (items, other)]
        moved[name] = not torch.equal(*ends)
    assert moved == {"window": False, "full": True}


class Knowing:
    """Answers right, but for one item of one case."""

    def __init__(self, cases: list[Case], wrong: tuple[int, int], limit: float = 1e9) -> None:
        self.cases, self.wrong, self.limit, self.begun = iter(enumerate(cases)), wrong, limit, 0

    def begin(self) -> None:
        self.begun += 1

    def answer(self, tokens: Ids) -> Ids:
        number, case = next(self.cases)
        assert case.tokens is tokens
        found = case.targets.copy()
        if number == self.wrong[0]:
            found[self.wrong[1]] += 1
        return found


def four(whole: bool) -> list[Case]:
    """Two cases of each of two places; the second goes on where the first ended."""
    targets = np.array([UNASKED, 4, 5, UNASKED, 6])
    return [Case({"pairs": i // 2}, np.arange(5) + i, targets, i != 1, whole) for i in range(4)]


@pytest.mark.parametrize(("whole", "right", "asked"), [(False, 5, 6), (True, 1, 2)])
def test_the_judge_counts_a_wrong_answer_where_it_was_given(
    whole: bool, right: int, asked: int
) -> None:
    cases = four(whole)
    reader = Knowing(cases, (2, 4))
    counts = judge(reader, cases)
    assert [(c.where, c.right, c.asked) for c in counts] == [
        ({"pairs": 0}, asked, asked),
        ({"pairs": 1}, right, asked),
    ]
    assert reader.begun == 3


def test_what_is_not_asked_does_not_count() -> None:
    cases = four(False)
    assert [c.right for c in judge(Knowing(cases, (0, 3)), cases)] == [6, 6]


def test_the_judge_leaves_what_is_longer_than_a_reader_may_read() -> None:
    cases = four(False)  # the second case ends at item 10
    read = [case for case in cases if case is not cases[1]]
    counts = judge(Knowing(read, (9, 0), limit=9), cases)
    assert [c.asked for c in counts] == [3, 6]


def test_results_that_stand_are_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["suite.py", "--out", str(tmp_path), "--steps", "2", "--share", "0.002"]
    for seeds in (["1"], ["2"]):
        pairs = ["--only", "copy", "window", "--seeds", *seeds]
        monkeypatch.setattr(sys, "argv", [*line, *pairs])
        suite.main()
    told = capsys.readouterr().out
    assert told.count("copy, window, seed 0") == 1
    assert told.count("copy, window, seed 1") == 1
    results = msgspec.json.decode((tmp_path / "results.json").read_bytes())
    assert [cell["seed"] for cell in results["cells"]] == [0, 1]
    for answer in results["cells"][0]["forms"]["window"]:
        assert 0 <= answer["right"] <= answer["asked"]


def test_bundles_answer_as_the_module_does_and_a_reset_forgets(tmp_path: Path) -> None:
    torch.manual_seed(1)
    task = Recall()
    module = contestant("dst", task.vocabulary, False).eval()
    tokens = np.array([token for token, _ in taken(task, 1, 200)])
    with torch.no_grad():
        start = module.initial_state(1)  # type: ignore[operator]
        outputs, _ = module(torch.from_numpy(tokens)[None], start)
    expected = outputs["logits"][0].argmax(-1).numpy()
    found = {}
    for form, reader in readers("dst", module, tokens, tmp_path):
        reader.begin()
        found[form] = (reader.answer(tokens) == expected).mean()
    assert found["dst"] >= 0.99
    assert found["dst-int8"] >= 0.8
    assert found["dst-reset"] < 0.8


def cell(seed: int, form: str, *answers: tuple[int, int, int]) -> suite.Cell:
    found = [suite.Answers({"pairs": pairs}, right, asked) for pairs, right, asked in answers]
    return suite.Cell("recall", form, seed, 10, 0.1, 1, 1.0, 1.0, {form: found})


def test_the_table_has_mean_and_range_and_the_knee(tmp_path: Path) -> None:
    cells = [
        cell(0, "dst", (4, 40, 40), (8, 38, 40), (12, 10, 40)),
        cell(1, "dst", (4, 40, 40), (8, 34, 40), (12, 0, 40)),
        cell(0, "lstm", (4, 1, 40)),
    ]
    results = suite.Results(environment(None, None), cells)
    lines = plots.report(results)
    assert "| pairs | seeds | 4 | 8 | 12 |" in lines
    assert "| DST | 2 | 100.0 (100.0–100.0) | 90.0 (85.0–95.0) | 12.5 (0.0–25.0) |" in lines
    assert "| LSTM | 1 | 2.5 | – | – |" in lines
    assert "Most pairs with 90 % or more: DST 8, LSTM none." in lines
    plots.draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
