"""Weighted sums of losses, as ``--preference_loss`` names them: ``sigmoid=0.8,bco_pair=0.2,nll=1``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from minicpmv.errors import UsageError
from minicpmv.losses.preference import LOSSES, Term
from minicpmv.wording import suggest

__all__ = ["NLL", "PUBLISHED", "Mixture", "parse_mixture"]

NLL = "nll"
"""The loss of supervised training, of the better answers, for each of their tokens."""

PUBLISHED = {
    "mpo": "sigmoid=0.8,bco_pair_delta=0.2,nll=1",
    "cpo": "cpo=1,nll=1",
    "orpo": "orpo=0.1,nll=1",
}
"""What a name without a weight stands for where the publication has more than one term."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Losses with their weights, and that of the supervised loss."""

    parts: tuple[tuple[Term, float], ...]
    nll: float = 0.0

    @property
    def needs_reference(self) -> bool:
        """Whether any loss compares with a reference."""
        return any(loss.needs_reference for loss, _ in self.parts)

    @property
    def is_unpaired(self) -> bool:
        """Whether answers are judged one by one."""
        return self.parts[0][0].of == "answer"

    @property
    def names(self) -> tuple[str, ...]:
        """The losses of preferences."""
        return tuple(loss.name for loss, _ in self.parts)

    def __str__(self) -> str:
        terms = [f"{loss.name}={weight:g}" for loss, weight in self.parts]
        return ",".join([*terms, *([f"{NLL}={self.nll:g}"] if self.nll else [])])


def parse_mixture(written: str, *, flag: str) -> Mixture:
    """Read losses and weights.

    >>> str(parse_mixture("sigmoid", flag="--loss")), str(parse_mixture("orpo", flag="--loss"))
    ('sigmoid=1', 'orpo=0.1,nll=1')

    Args:
        written: Names separated by commas, each with ``=WEIGHT`` or without, which is 1.
        flag: Its name, for messages.

    Raises:
        UsageError: A name is unknown or named twice, a weight is no number above 0, or the losses do not go together.
    """
    terms = _read(PUBLISHED.get(written.strip(), written), flag)
    nll = terms.pop(NLL, 0.0)
    if not terms:
        raise UsageError(
            f"{flag}: found {written!r}, expected a loss that compares answers ({', '.join(LOSSES)})\n"
            "  fix: name one, or train on the better answers alone with --objective sft"
        )
    mixture = Mixture(tuple((LOSSES[name], weight) for name, weight in terms.items()), nll)
    if len({loss.of for loss, _ in mixture.parts}) > 1:
        lone = [name for name in terms if LOSSES[name].of == "answer"]
        raise UsageError(
            f"{flag}: found {written!r}, expected losses of pairs or losses of single answers ({', '.join(lone)}), not "
            "both\n  fix: remove one kind"
        )
    return mixture


def _read(written: str, flag: str) -> dict[str, float]:
    terms: dict[str, float] = {}
    for term in filter(None, (term.strip() for term in written.split(","))):
        name, has_weight, number = term.partition("=")
        name = name.strip()
        if name not in LOSSES and name != NLL:
            known = list(dict.fromkeys([*LOSSES, NLL, *PUBLISHED]))
            fix = suggest(name, known, otherwise="choose one of these")
            raise UsageError(f"{flag}: found {name!r}, expected one of {', '.join(known)}\n  fix: {fix}")
        if name in terms:
            raise UsageError(f"{flag}: found {name!r} twice, expected it once\n  fix: remove one, or add their weights")
        try:
            weight = float(number) if has_weight else 1.0
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise UsageError(
                f"{flag}: found the weight {number.strip()!r} of {name}, expected a number above 0\n"
                f"  fix: {flag} {name}=0.5, or leave {name} out"
            )
        terms[name] = weight
    return terms
