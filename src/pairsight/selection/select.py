"""Candidates through a strategy: what is learned from, and every drop with its reason."""

from collections.abc import Iterable
from dataclasses import dataclass

from pairsight.errors import ConfigError
from pairsight.records import Candidates, Demonstration, Dropped, PreferencePair
from pairsight.registry import plugins, strategies
from pairsight.selection.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Selection:
    """What a strategy chose. Either `pairs` or `demonstrations` is empty; `dropped` has one entry per lost prompt."""

    pairs: tuple[PreferencePair, ...]
    demonstrations: tuple[Demonstration, ...]
    dropped: tuple[Dropped, ...]


def select(candidates: Iterable[Candidates | Dropped], strategy: Strategy | str, **options: object) -> Selection:
    """Choose from every prompt's candidates.

    Args:
        candidates: what a recipe made; what it dropped already is carried along.
        strategy: a strategy, or the name of one.
        options: its options, when a name is given.

    Raises:
        ConfigError: an unknown strategy or option, options beside a strategy that is made already, or one that chooses
            something else than it says.
    """
    if options and not isinstance(strategy, str):
        raise ConfigError(f"strategy '{strategy.name}' is made already: give {', '.join(options)} to it, not to select")
    if isinstance(strategy, str):
        with plugins(strategy):
            choose: Strategy = strategies.get(strategy).parse(options, f"strategy '{strategy}'")
    else:
        choose = strategy
    pairs, demonstrations, dropped = list[PreferencePair](), list[Demonstration](), list[Dropped]()
    for one in candidates:
        chosen = one if isinstance(one, Dropped) else choose(one)
        if isinstance(chosen, Dropped):
            dropped.append(chosen)
        elif isinstance(chosen, PreferencePair) == choose.makes_demonstrations:
            said = "demonstrations" if choose.makes_demonstrations else "pairs"
            raise ConfigError(
                f"strategy '{choose.name}' says that it makes {said}, and made others: see makes_demonstrations"
            )
        elif isinstance(chosen, PreferencePair):
            pairs.append(chosen)
        else:
            demonstrations.extend(chosen)
    return Selection(tuple(pairs), tuple(demonstrations), tuple(dropped))
