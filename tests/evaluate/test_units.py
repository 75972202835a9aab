"""The parts of the bench: numbers, counters, cores and records go in, what they mean comes out."""

import importlib.util
import os
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dst.evaluate.drawing import CSS, panel_svg, picture, ratio
from dst.evaluate.machine import EnergyMeter, environment, pinned
from dst.evaluate.page import page
from dst.evaluate.result import BenchResult, Cell, Entry, Spread, Start, spread_of
from dst.runtime.bundle.manifest import Gate, Quality
from dst.runtime.install import install_line


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=30))
def test_a_spread_holds_its_median_and_stays_within_the_numbers(values: list[float]) -> None:
    found = spread_of(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert found == spread_of(values)


def test_a_spread_narrows_with_the_rounds() -> None:
    few, many = spread_of([1.0, 2.0, 3.0] * 2), spread_of([1.0, 2.0, 3.0] * 200)
    assert many.high - many.low < few.high - few.low
    assert spread_of([4.0] * 5) == Spread(median=4.0, low=4.0, high=4.0)


def zone(root: Path, name: str, counter: str, title: str = "package-0") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(title + "\n")
    (folder / "energy_uj").write_text(counter + "\n")
    (folder / "max_energy_range_uj").write_text("1000000\n")
    return folder


def test_energy_is_summed_over_packages_and_counters_turn(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "900000")
    zone(tmp_path, "intel-rapl:1", "5", "package-1")
    zone(tmp_path, "intel-rapl:0:0", "7", "core")  # a part of package-0: not counted twice
    meter = EnergyMeter.find(tmp_path)
    assert meter.why is None
    before = meter.read()
    (first / "energy_uj").write_text("100000\n")  # it went on to 1,000,000 and began anew
    assert meter.joules(before, meter.read()) == pytest.approx(0.2)


def test_no_energy_has_a_reason(tmp_path: Path) -> None:
    assert "is missing" in (EnergyMeter.find(tmp_path / "none").why or "")
    assert "no package counters" in (EnergyMeter.find(tmp_path).why or "")
    zone(tmp_path, "intel-rapl:0", "not a number")
    meter = EnergyMeter.find(tmp_path)
    assert meter.zones == ()
    assert "cannot be read" in (meter.why or "")
    assert meter.joules(meter.read(), meter.read()) == 0.0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system pins no threads")
def test_cores_are_held_and_given_back() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1) as cores:
        assert cores is not None
        assert os.sched_getaffinity(0) == set(cores)
        assert len(cores) == 1
    assert os.sched_getaffinity(0) == before
    with pinned(len(before) + 1) as none:
        assert none is None
        assert os.sched_getaffinity(0) == before


def test_the_machine_is_described_without_its_name() -> None:
    found = environment(None, (0.5, 0.4, 0.3))
    assert found.cores >= 1
    assert found.load_before == (0.5, 0.4, 0.3)
    assert os.uname().nodename not in repr(found)


def result(label: str = "text", quality: Quality | None = None) -> BenchResult:
    spread = Spread(median=2.0, low=1.5, high=2.5)
    cells = (
        Cell(t=1, items_per_s=spread, ratio=spread, p50_us=3.0, p99_us=4.0, steps=10),
        Cell(t=8, why="runs T = 1"),
    )
    start = Start(t=1, load_ms=5.0, first_output_ms=6.0, base_rss_bytes=7, peak_rss_bytes=8)
    entry = Entry(
        label=label,
        name=label,
        precision="int8",
        recipe=None,
        bundle_id="a" * 64,
        model_id="b" * 64,
        file_bytes=1 << 20,
        weights_bytes=1 << 19,
        data="golden run",
        cells=cells,
        start=start,
        start_why=None,
        quality=quality,
    )
    return BenchResult(
        provider="cpu",
        threads=1,
        sizes=(1, 8),
        rounds=3,
        slot_ms=100.0,
        environment=environment((0,), None),
        energy_why="no counters",
        bundles=(entry, entry),
    )


class Page(HTMLParser):
    """Collects a page's text and addresses, and holds it to close what it opens."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for n, v in attrs if n in ("src", "href", "xlink:href")]
        if tag != "meta":
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Page:
    found = Page()
    found.feed(text)
    assert found.opened == []
    return found


def test_the_page_stands_alone() -> None:
    text = page(result())
    found = read(text)
    assert found.addresses == []
    assert "script" not in found.tags
    assert "url(" not in text
    assert "@import" not in text
    assert "2.00" in found.text
    assert "1.0 MiB512.0 KiB" in found.text
    assert "8 B1 B" in found.text
    assert "–" in found.text


def test_names_on_the_page_are_text() -> None:
    found = read(page(result("<script>alert(1)</script>")))
    assert "script" not in found.tags
    assert "<script>alert(1)</script>" in found.text


def test_quality_is_on_the_page_where_there_is_one() -> None:
    quality = Quality(
        full="c" * 64,
        items=1_000,
        items_per_step=8,
        data="text",
        unit="nats",
        positions=(10, 1_000),
        divergence=(0.0, 0.2),
        loss_difference=None,
        state_distance=(None, 0.1),
        causal=False,
        gates=(Gate(name="loss", value=1.0, bound=0.02, verdict="failed"),),
        passed=False,
    )
    found = read(page(result(quality=quality)))
    drawn = importlib.util.find_spec("matplotlib") is not None
    assert found.tags.count("svg") == 2 * drawn
    assert read(page(result())).tags.count("svg") == drawn
    assert "failed" in found.text
    assert "KL, nats per item" in found.text
    assert "Quality" not in read(page(result())).text


def test_without_matplotlib_the_page_has_its_tables_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    found = read(page(result()))
    assert "svg" not in found.tags
    assert install_line("plot") in found.text
    assert "2.00" in found.text


def test_a_drawing_follows_the_page_and_is_always_the_same() -> None:
    pytest.importorskip("matplotlib")
    made = result("cost in $ and $")
    drawn = panel_svg(ratio, made)
    assert drawn == panel_svg(ratio, made)
    assert drawn.startswith("<svg")
    assert "cost in $ and $" in drawn
    assert {f"var({name})" for name in CSS.values() if f"var({name})" not in drawn} == set()
    assert not any(colour in drawn for colour in CSS)
    assert picture(made).startswith(b"\x89PNG")
