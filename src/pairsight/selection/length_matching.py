"""The length-matched control: only pairs whose chosen and rejected are about equally long.

A method that merely teaches longer or shorter completions gains nothing on these pairs. Ours; see docs/LOG.
"""

from dataclasses import replace

from pairsight.formats.tables import num_words
from pairsight.records import Dropped, PreferencePair


def match_lengths(pair: PreferencePair, max_difference: int) -> PreferencePair | Dropped:
    """The pair with those rejected completions whose |words(chosen) − words(rejected)| ≤ `max_difference`.

    Args:
        pair: any preference pair.
        max_difference: in words; 0 keeps exact matches only.

    Returns:
        The pair, or where none of its rejected completions matches what is dropped (`length`).
    """
    length = num_words(pair.chosen.text)
    differences = [num_words(rejected.text) - length for rejected in pair.rejected]
    matching = tuple(
        rejected
        for rejected, difference in zip(pair.rejected, differences, strict=True)
        if abs(difference) <= max_difference
    )
    if matching:
        return replace(pair, rejected=matching)
    nearest = min(differences, key=abs)
    detail = f"rejected is {nearest:+d} words from {length}, allowed ±{max_difference}"
    return Dropped(pair.id, "select/length", "length", detail)
