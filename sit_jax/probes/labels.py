"""Few-label subsets of the training images, functions of the seed."""

from typing import NamedTuple

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.data.split import by_class


class Amount(NamedTuple):
    """How many labels to learn from: a share of each class, or a number of images per class."""

    share: float | None = None
    per_class: int | None = None

    def __str__(self) -> str:
        return f"{self.share:g}" if self.share is not None else f"{self.per_class} a class"

    def as_json(self) -> float | str:
        """Returns the JSON value in a report: the share, or the number in words."""
        return str(self) if self.share is None else self.share


def parse_amounts(shares: list[str], per_class: list[str]) -> list[Amount]:
    """Returns the amounts of `--labels=0.01,0.1,1` or `--labels_per_class=1,5`, smallest first; all labels by default.

    Raises InputError if a value is not a share in (0, 1] or a positive number, or if both flags are given.
    """
    if shares and per_class:
        raise InputError("--labels and --labels_per_class are both given; keep one of them")
    try:
        amounts = [Amount(share=float(text)) for text in shares] + [Amount(per_class=int(n)) for n in per_class]
    except ValueError as error:
        raise InputError(f"{error}: --labels takes shares such as 0.01,0.1, --labels_per_class numbers") from error
    for amount in amounts:
        if amount.share is not None and not 0 < amount.share <= 1:
            raise InputError(f"--labels={amount.share:g} must be a share above 0 and at most 1")
        if amount.per_class is not None and amount.per_class < 1:
            raise InputError(f"--labels_per_class={amount.per_class} must be at least 1")
    return sorted(amounts) if amounts else [Amount(share=1.0)]


def pick(labels: np.ndarray, amount: Amount, seed: int, repeat: int) -> np.ndarray:
    """Returns the rows of the images whose labels are used, sorted, int64; a function of (seed, repeat).

    A share is taken of each class, with at least one image. A larger amount contains the smaller amounts. Raises
    InputError if a class has fewer images than `amount.per_class`.
    """
    rows = []
    for label, members in by_class(labels, [seed, repeat]):
        if amount.per_class is not None and amount.per_class > len(members):
            raise InputError(
                f"--labels_per_class={amount.per_class}: class {label} has {len(members)} training images; take fewer"
            )
        count = amount.per_class or max(1, round((amount.share or 0) * len(members)))
        rows.append(members[:count])
    return np.sort(np.concatenate(rows))
