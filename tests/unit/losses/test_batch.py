"""From log-probabilities of tokens to the loss of a batch and the numbers that are logged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minicpmv.losses.batch import SUMS, BatchLoss, PreferenceLoss, describe_sums
from minicpmv.losses.mixture import parse_mixture
from minicpmv.losses.preference import How
from minicpmv.models.networks.layout import Layout


def objective(written: str = "sigmoid", **more: Any) -> PreferenceLoss:
    how = How(**{name: more.pop(name) for name in ("beta", "label_smoothing") if name in more})
    return PreferenceLoss(mixture=parse_mixture(written, flag="--f"), how=how, **more)


def layout(*answers: tuple[int, int]) -> Layout:
    """Of samples by rank and number of labels."""
    return Layout(ranks=tuple(rank for rank, _ in answers), labels_of_each=tuple(number for _, number in answers))


PAIR = layout((1, 5), (-1, 4))
POLICY = torch.tensor([-2.0, -3, -1, -4, -2, -5, -3, -4, -2])
"""-12 and -14."""
REFERENCE = torch.tensor([-2.5, -3, -1, -4, -2, -4, -3, -4, -2])
"""-12.5 and -13."""


def named(found: BatchLoss) -> dict[str, float]:
    return dict(zip(SUMS, found.sums.tolist(), strict=True))


def test_sums_are_over_the_tokens_of_each_answer() -> None:
    found = objective().loss_of(POLICY, PAIR, reference_M=REFERENCE)
    assert found.preference.item() == pytest.approx(0.6209570478)
    assert named(found) == pytest.approx(
        {
            "loss": 0.6209570478,
            "nll": 12,
            "units": 1,
            "chosen": 1,
            "rejected": 1,
            "chosen_tokens": 5,
            "rejected_tokens": 4,
            "rewards_chosen": 0.05,
            "rewards_rejected": -0.1,
            "logps_chosen": -12,
            "logps_rejected": -14,
            "accuracies": 1,
            "fallen": 0,
        }
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("sigmoid=0.8,bco_pair=0.2,nll=1", 3.1593368998),
        ("cpo", 2.9981388694),
        ("orpo", 2.4271627574),
        ("sigmoid", 0.6209570478),
    ],
)
def test_mixtures(written: str, expected: float) -> None:
    chosen = objective(written)
    found = chosen.loss_of(POLICY, PAIR, reference_M=REFERENCE)
    assert chosen.divide(found, torch.tensor(chosen.count(PAIR))).item() == pytest.approx(expected, rel=1e-6)
    assert describe_sums(named(found), chosen.mixture)["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("gamma", "normalises", "expected"), [(5.0, True, -0.8636363636), (1.1, False, -3.65), (1.0, True, -3.5 / 3)]
)
def test_changed_segments_count_more(gamma: float, normalises: bool, expected: float) -> None:
    """RLHF-V's form, by a loss whose value shows what went into it: hinge with beta 1 against an answer of 0."""
    log_probs = torch.tensor([-1.0, -2, -0.5, 0])
    weights = torch.tensor([gamma, 1, gamma, 1])
    chosen = objective("hinge", beta=1.0, normalises_weights=normalises)
    found = chosen.loss_of(log_probs, layout((1, 3), (-1, 1)), reference_M=torch.zeros(4), weights_M=weights)
    assert 1 - found.preference.item() == pytest.approx(expected)


def test_weights_act_on_the_reference_alike() -> None:
    weights = torch.linspace(0.5, 2, 9)
    found = objective().loss_of(POLICY, PAIR, reference_M=POLICY, weights_M=weights)
    assert found.preference.item() == pytest.approx(0.6931471806)


def test_batches_add_up() -> None:
    """Two pairs in one batch, or each in its own, or with a row without any between them."""
    chosen = objective("sigmoid,nll=0.3")
    second = POLICY.flip(0) * 0.7
    both = layout((1, 5), (-1, 4), (0, 0), (1, 4), (-1, 5))
    counts = torch.tensor(chosen.count(both))
    assert counts.tolist() == [2, 9]
    whole = chosen.divide(
        chosen.loss_of(torch.cat([POLICY, second]), both, reference_M=torch.cat([REFERENCE, second])), counts
    )
    parts = [
        chosen.divide(chosen.loss_of(POLICY, PAIR, reference_M=REFERENCE), counts),
        chosen.divide(chosen.loss_of(second, layout((1, 4), (-1, 5)), reference_M=second), counts),
        chosen.divide(chosen.loss_of(torch.zeros(0), layout((0, 0))), counts),
    ]
    assert sum(part.item() for part in parts) == pytest.approx(whole.item())


def test_a_row_without_answers_has_a_gradient_path() -> None:
    empty = torch.zeros(0, requires_grad=True)
    chosen = objective("sigmoid,nll=1")
    found = chosen.loss_of(empty * 1, layout((0, 0)))
    chosen.divide(found, torch.tensor([3.0, 5])).backward()
    assert empty.grad is not None
    assert not found.sums.any()


def test_single_answers_are_divided_by_their_number() -> None:
    chosen = objective("apo_zero_unpaired")
    found = chosen.loss_of(POLICY, PAIR, reference_M=REFERENCE)
    assert chosen.count(PAIR) == (2, 5)
    assert found.preference.item() == pytest.approx(0.4875026035 + 0.4750208125)
    assert describe_sums(named(found), chosen.mixture)["rewards/accuracies"] == 1


def test_loss_and_gradient_where_policy_and_reference_are_one() -> None:
    policy = POLICY.clone().requires_grad_()
    found = objective().loss_of(policy, PAIR, reference_M=POLICY)
    found.preference.backward()
    assert found.preference.item() == pytest.approx(0.6931471806)
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([-0.05] * 5 + [0.05] * 4)
    assert named(found)["accuracies"] == 0


def test_log_has_the_names_of_trl() -> None:
    told = describe_sums(named(objective().loss_of(POLICY, PAIR, reference_M=REFERENCE)), objective().mixture)
    expected: dict[str, Tensor | float] = {
        "rewards/chosen": 0.05,
        "rewards/rejected": -0.1,
        "rewards/margins": 0.15,
        "rewards/accuracies": 1,
        "rewards/fallen": 0,
        "logps/chosen": -12,
        "logps/rejected": -14,
        "lengths/chosen": 5,
        "lengths/rejected": 4,
        "nll_loss": 2.4,
        "loss": 0.6209570478,
    }
    assert told == pytest.approx(expected)


def test_of_no_answer_nothing_is_said() -> None:
    assert describe_sums(dict.fromkeys(SUMS, 0.0), objective().mixture) == {}
