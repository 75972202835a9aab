"""Laws of the reference network, each held against the definition in float64 or against itself."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dst.export.model import SIZES, Config, Gaussian, Network, Quantiles, Tokens, sized
from dst.export.model.recurrence import delta_rule, delta_rule_sequential

TOLERANCE = 1e-5


def error(found: Tensor, expected: Tensor) -> float:
    """max|d| / rms of the expected values."""
    rms = expected.double().square().mean().sqrt()
    return float((found.double() - expected.double()).abs().max() / rms)


def random_inputs(batch: int, items: int, seed: int) -> list[Tensor]:
    """q, k, v, g, b and a state for H = 3, K = 16, V = 8, with gates from none to strong."""
    source = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source)

    q, k = (F.normalize(normal(batch, items, 3, 16), dim=-1) for _ in range(2))
    g = -torch.exp(2.5 * normal(batch, items, 3) - 3.0)
    b = 2.0 * torch.sigmoid(normal(batch, items, 3))
    return [q, k, normal(batch, items, 3, 8), g, b, normal(batch, 3, 16, 8)]


@settings(deadline=None, max_examples=40)
@given(items=st.integers(1, 150), seed=st.integers(0, 2**31))
def test_chunk_form_is_the_sequential_recurrence(items: int, seed: int) -> None:
    inputs = random_inputs(2, items, seed)
    out, state = delta_rule(*inputs)
    expected_out, expected_state = delta_rule_sequential(*(x.double() for x in inputs))
    assert error(out, expected_out) <= TOLERANCE
    assert error(state, expected_state) <= TOLERANCE


def test_chunk_form_keeps_its_precision_where_a_block_forgets_almost_all() -> None:
    q, k, v, g, b, state = random_inputs(1, 64, 0)
    g = torch.full_like(g, -1e-3)
    g[:, ::5] = -60.0  # running sums reach -800; their differences would lose 5 digits
    out, after = delta_rule(q, k, v, g, b, state)
    expected, expected_after = delta_rule_sequential(*(x.double() for x in (q, k, v, g, b, state)))
    assert error(out, expected) <= TOLERANCE
    assert error(after, expected_after) <= TOLERANCE


@pytest.mark.parametrize("seed", range(20))
def test_identical_keys_with_the_strongest_writes_stay_accurate(seed: int) -> None:
    """A chunk against its rms; eight chunks in a row, whose errors add up, against the peak."""
    q, k, v, g, b, state = random_inputs(1, 256, seed)
    k = k[:, :1].expand_as(k).contiguous()
    g, b = torch.full_like(g, -1e-4), torch.full_like(b, 1.98)
    for items in (32, 256):
        inputs = [*(x[:, :items] for x in (q, k, v, g, b)), state]
        found = delta_rule(*inputs)
        expected = delta_rule_sequential(*(x.double() for x in inputs))
        for x, y in zip(found, expected, strict=True):
            of_peak = float((x.double() - y).abs().max() / y.abs().max())
            assert (error(x, y) if items == 32 else of_peak) <= 1e-4


def test_gradients_of_the_chunk_form_are_those_of_the_recurrence() -> None:
    inputs = [x.double().requires_grad_() for x in random_inputs(1, 40, 2)]
    chunked = torch.autograd.grad(delta_rule(*inputs)[0].square().sum(), inputs)
    plain = torch.autograd.grad(delta_rule_sequential(*inputs)[0].square().sum(), inputs)
    for found, expected in zip(chunked, plain, strict=True):
        assert error(found, expected) <= 1e-9


def test_the_state_obeys_its_bound_at_each_of_100_000_random_steps() -> None:
    rows, steps = 50, 2000
    q, k, v, g, b, state = random_inputs(rows, steps, 3)
    for t in range(steps):
        one = [x[:, t : t + 1] for x in (q, k, v, g, b)]
        _, after = delta_rule(*(*one, state))
        norm, before = (torch.linalg.matrix_norm(s.double()) for s in (after, state))
        bound = g[:, t].double().exp() * before + 2.0 * v[:, t].double().norm(dim=-1)
        assert bool((norm <= bound * (1 + 1e-6)).all())
        state = after


ITEMS: dict[str, Tokens | Gaussian | Quantiles] = {
    "tokens": Tokens(),
    "tied": Tokens(512, tied=True),
    "gaussian": Gaussian(("x", "y")),
    "quantiles": Quantiles(("x", "y", "z")),
}


def network(items: str) -> Network:
    torch.manual_seed(0)
    return Network(sized("tiny", ITEMS[items])).eval()


def inputs_for(net: Network, batch: int, items: int) -> Tensor:
    source = torch.Generator().manual_seed(7)
    kind = net.config.items
    if isinstance(kind, Tokens):
        return torch.randint(kind.vocabulary, (batch, items), generator=source)
    return torch.randn(batch, items, len(kind.features), generator=source)


def run(net: Network, chunk: Tensor, t: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    state = net.initial_state(len(chunk))
    parts: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for start in range(0, chunk.shape[1], t):
            outputs, state = net(chunk[:, start : start + t], state)
            parts.append(outputs)
    return {name: torch.cat([p[name] for p in parts], 1) for name in parts[0]}, state


@pytest.mark.parametrize("items", list(ITEMS))
@pytest.mark.parametrize("t", [1, 7, 16, 32, 64, 201])
def test_the_cut_into_chunks_changes_nothing(items: str, t: int) -> None:
    net = network(items)
    chunk = inputs_for(net, 2, 448)
    whole, whole_state = run(net, chunk, 448)
    cut, cut_state = run(net, chunk, t)
    for name, expected in (whole | whole_state).items():
        assert error((cut | cut_state)[name], expected) <= TOLERANCE, name


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    net = network("tokens")
    chunk = inputs_for(net, 3, 96)
    other = chunk.clone()
    other[0] = (other[0] + 1) % 256
    (left, left_state), (right, right_state) = run(net, chunk, 32), run(net, other, 32)
    for name, tensor in (left | left_state).items():
        assert torch.equal(tensor[1:], (right | right_state)[name][1:]), name
    assert not torch.equal(left["logits"][0], right["logits"][0])


def test_a_step_depends_on_chunk_and_state_alone() -> None:
    net = network("tokens")
    chunk = inputs_for(net, 1, 32)
    _, state = run(net, inputs_for(net, 1, 320), 32)
    with torch.no_grad():
        first, first_state = net(chunk, state)
        run(net, inputs_for(net, 1, 6400), 32)
        later, later_state = net(chunk, state)
        elsewhere, elsewhere_state = network("tokens")(chunk, state)
    for name, tensor in (first | first_state).items():
        assert torch.equal(tensor, (later | later_state)[name]), name
        assert torch.equal(tensor, (elsewhere | elsewhere_state)[name]), name


def test_what_lies_before_the_window_is_still_remembered() -> None:
    net = network("tokens")
    window = net.config.window * net.config.layers
    chunk = inputs_for(net, 1, window + 64)
    other = chunk.clone()
    other[:, 0] = (other[:, 0] + 1) % 256
    left, right = run(net, chunk, 16)[0]["logits"], run(net, other, 16)[0]["logits"]
    assert not torch.equal(left[:, -1], right[:, -1])


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("tiny", 5e4, 2e5), ("small", 2.4e6, 3.1e6), ("base", 1.5e7, 3e7), ("130m", 1.2e8, 1.35e8)],
)
def test_named_sizes_have_about_their_parameters(name: str, least: float, most: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in Network(SIZES[name]).parameters())
    assert least <= count <= most


def test_an_untrained_tied_head_gives_the_item_just_read_no_more_than_others() -> None:
    net = Network(replace(SIZES["tiny"], width=256, items=Tokens(1000, tied=True))).eval()
    chunk = inputs_for(net, 1, 256)
    logits = run(net, chunk, 256)[0]["logits"][0]
    read = logits.gather(1, chunk[0, :, None])
    assert [p.shape for p in net.head.parameters()] == [(1000, 256), (256, 256)]
    assert read.square().mean() < 2 * logits.square().mean()


def test_gaussian_loss_is_the_negative_log_likelihood() -> None:
    net = network("gaussian")
    outputs = {"mean": torch.randn(2, 5, 2), "log_std": torch.randn(2, 5, 2)}
    target = torch.randn(2, 5, 2)
    normal = torch.distributions.Normal(outputs["mean"], outputs["log_std"].exp())
    assert net.head.loss(outputs, target).item() == pytest.approx(
        -normal.log_prob(target).mean().item(), rel=1e-5
    )


def test_quantiles_rise_and_their_loss_is_least_at_the_true_quantiles() -> None:
    net = network("quantiles")
    quantiles = run(net, inputs_for(net, 1, 64), 32)[0]["quantiles"]
    assert bool((quantiles.diff(dim=-1) >= 0).all())
    draws = torch.randn(1, 20_000, 3, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor(net.config.items.levels)  # type: ignore[union-attr]
    true = torch.distributions.Normal(0.0, 1.0).icdf(levels).expand(1, 20_000, 3, -1)
    best = net.head.loss({"quantiles": true}, draws)
    for shift in (-0.2, 0.2):
        assert net.head.loss({"quantiles": true + shift}, draws) > best


def test_a_learned_start_is_trained_and_shared_by_all_rows() -> None:
    torch.manual_seed(0)
    net = Network(replace(SIZES["tiny"], learned_start=True))
    chunk = inputs_for(net, 2, 33)
    outputs, _ = net(chunk[:, :-1], net.initial_state(2))
    net.head.loss(outputs, chunk[:, 1:]).backward()
    assert net.start is not None
    assert net.start.grad is not None
    assert bool((net.start.grad.abs().amax((1, 2, 3)) > 0).all())
    with torch.no_grad():
        net.start.add_(1.0)
    assert torch.equal(net.initial_state(3)["S.1"], torch.ones(3, 2, 16, 16))


def test_horizon_follows_from_the_largest_decay() -> None:
    net = network("tokens")
    assert net.half_life_items == pytest.approx(45_425.7, abs=1.0)
    endless = Config(16, 1, 1, 8, 8, 1, 8, 8, 16, alpha_max=1.0, beta_max=1.0)
    assert Network(endless).half_life_items is None


@pytest.mark.parametrize(
    "broken", [{"width": 0}, {"attention_width": 7}, {"alpha_max": 1.5}, {"beta_max": 1.5}]
)
def test_impossible_configs_are_refused(broken: dict[str, float]) -> None:
    good = {
        name: getattr(SIZES["tiny"], name)
        for name in Config.__dataclass_fields__  # a slotted dataclass has no __dict__
    }
    with pytest.raises(ValueError, match=next(iter(broken))):
        Config(**(good | broken))


def test_the_fused_network_shares_every_parameter() -> None:
    net = network("tokens")
    assert math.prod(
        a is b for a, b in zip(net.parameters(), net.fused().parameters(), strict=True)
    )
