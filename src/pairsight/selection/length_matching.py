"""The length-matched control: only pairs whose chosen and rejected are about equally long.

A method that merely teaches longer or shorter completions gains nothing on these pairs. Ours; see docs/LOG.
"""

from collections.abc import Iterable
from dataclasses import replace

from pairsight.formats.tables import num_words
from pairsight.records import Dropped, PreferencePair


def match_lengths(pairs: Iterable[PreferencePair], max_difference: int) -> tuple[list[PreferencePair], list[Dropped]]:
    """Pairs with |words(chosen) − words(rejected)| ≤ `max_difference`, and the others as drops (`length`).

    A pair with several rejected completions keeps those that match.

    Args:
        pairs: any preference pairs.
        max_difference: in words; 0 keeps exact matches only.
    """
    kept, dropped = list[PreferencePair](), list[Dropped]()
    for pair in pairs:
        length = num_words(pair.chosen.text)
        differences = [num_words(rejected.text) - length for rejected in pair.rejected]
        matching = tuple(
            rejected
            for rejected, difference in zip(pair.rejected, differences, strict=True)
            if abs(difference) <= max_difference
        )
        if matching:
            kept.append(replace(pair, rejected=matching))
        else:
            nearest = min(differences, key=abs)
            detail = f"rejected is {nearest:+d} words from {length}, allowed ±{max_difference}"
            dropped.append(Dropped(pair.id, "select/length", "length", detail))
    return kept, dropped
