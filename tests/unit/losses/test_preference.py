"""Every loss against a value computed apart, in float64; most were also given by TRL 1.16's own code."""

from __future__ import annotations

import pytest
import torch

from minicpmv.losses.preference import LOSSES, Answer, How, Pair


def answer(total: float, reference: float, length: int) -> Answer:
    return Answer(*(torch.tensor([value], dtype=torch.float64) for value in (total, reference, length)))


PAIR = Pair(answer(-12, -12.5, 5), answer(-14, -13, 4))


def of(name: str, pair: Pair = PAIR, how: How | None = None) -> float:
    return LOSSES[name].compute(pair, how or How()).item()


@pytest.mark.parametrize(
    ("name", "how", "expected"),
    [
        ("sigmoid", {}, 0.6209570478),
        ("sigmoid", {"label_smoothing": 0.1}, 0.6359570478),
        ("robust", {"label_smoothing": 0.1}, 0.6022070478),
        ("robust", {}, 0.6209570478),
        ("hinge", {}, 0.85),
        ("ipo", {}, 21.6225),
        ("ipo_sum", {}, 12.25),
        ("sigmoid_norm", {}, 0.6758003),
        ("apo_zero", {}, 0.9625234160),
        ("apo_down", {}, 0.9750675511),
        ("bco_pair", {}, 1.3128563081),
        ("bco_pair_delta", {}, 1.3128563081),
        ("bco_pair_delta", {"delta": -0.025}, 1.3127002817),
        ("nca_pair", {}, 1.3498878),
        ("sppo_hard", {}, 36.25),
        ("exo_pair", {"label_smoothing": 1e-3}, 2.5055168),
        ("discopop", {}, 0.8493376),
        ("simpo", {"beta": 2.0}, 0.2632824673),
        ("cpo", {}, 0.5981388694),
        ("orpo", {}, 0.271627574),
    ],
)
def test_value(name: str, how: dict[str, float], expected: float) -> None:
    assert of(name, how=How(**how)) == pytest.approx(expected, rel=2e-7)


def test_every_loss_of_pairs_has_a_value_above() -> None:
    (mark,) = (mark for mark in test_value.pytestmark if mark.name == "parametrize")
    assert {name for name, _, _ in mark.args[1]} == {name for name, loss in LOSSES.items() if loss.of == "pair"}


def test_margin_of_the_pair() -> None:
    assert PAIR.margin.item() == 1.5
    assert PAIR.mean_margin.item() == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("sign", "total", "reference", "expected"), [(1, -12, -12.5, 0.4875026), (-1, -14, -13, 0.4750208)]
)
def test_single_answers(sign: int, total: float, reference: float, expected: float) -> None:
    """The two halves of apo_zero."""
    found = LOSSES["apo_zero_unpaired"].compute(answer(total, reference, 5), torch.tensor([sign]), How())
    assert found.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", ["sigmoid", "hinge", "apo_zero", "bco_pair", "sigmoid_norm", "simpo", "cpo", "orpo"])
def test_a_better_chosen_answer_costs_less(name: str) -> None:
    better = Pair(answer(-11, -12.5, 5), PAIR.rejected)
    assert of(name, better) < of(name)


def test_gradient_is_right_where_policy_and_reference_are_one() -> None:
    """There the loss of DPO is ln 2 and half of beta goes to each answer."""
    sums = torch.tensor([-12.0, -14.0], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    chosen, rejected = (Answer(each[None], each.detach()[None], one) for each in sums)
    loss = LOSSES["sigmoid"].compute(Pair(chosen, rejected), How())
    (gradient,) = torch.autograd.grad(loss.sum(), sums)
    assert loss.item() == pytest.approx(0.6931471806, abs=1e-10)
    assert gradient.tolist() == pytest.approx([-0.05, 0.05])


def test_far_margins_stay_finite() -> None:
    far = Pair(answer(-1e4, -10, 5), answer(-10, -1e4, 4))
    assert of("sigmoid", far) == pytest.approx(0.1 * 2 * 9990)


def test_every_loss_says_what_it_is() -> None:
    assert all(loss.summary.endswith(".") or "arXiv" in loss.summary for loss in LOSSES.values())
