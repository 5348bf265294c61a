"""Seven small tasks without an image: what the language backbone knows and visual tuning makes it forget."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from pairsight.tiny.world.questions import Question

NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
OPPOSITES = (
    *(("hot", "cold"), ("big", "little"), ("old", "new"), ("wet", "dry"), ("full", "empty"), ("open", "shut")),
    *(("day", "night"), ("up", "down"), ("hard", "soft"), ("loud", "quiet"), ("rich", "poor"), ("fast", "slow")),
)
CATEGORIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "animal": ("dog", "cat", "horse", "bird", "fish", "cow"),
        "fruit": ("apple", "pear", "plum", "grape", "lemon", "peach"),
        "tool": ("hammer", "saw", "knife", "spoon", "brush", "needle"),
        "vehicle": ("car", "bus", "train", "boat", "bike", "truck"),
    }
)
_THINGS = tuple(word for words in CATEGORIES.values() for word in words)

Task = Callable[[np.random.Generator], tuple[str, str]]


def _sum(rng: np.random.Generator) -> tuple[str, str]:
    a, b = (int(x) for x in rng.integers(0, 10, 2))
    return f"What is {NUMBER_WORDS[a]} plus {NUMBER_WORDS[b]}?", NUMBER_WORDS[a + b]


def _difference(rng: np.random.Generator) -> tuple[str, str]:
    a, b = (int(x) for x in rng.integers(0, 10, 2))
    return f"What is {NUMBER_WORDS[a + b]} minus {NUMBER_WORDS[a]}?", NUMBER_WORDS[b]


def _largest(rng: np.random.Generator) -> tuple[str, str]:
    numbers = rng.choice(20, 3, replace=False)
    a, b, c = (NUMBER_WORDS[int(x)] for x in numbers)
    return f"Which is the largest of {a}, {b} and {c}?", NUMBER_WORDS[int(numbers.max())]


def _next(rng: np.random.Generator) -> tuple[str, str]:
    start = int(rng.integers(0, 17))
    a, b, c, d = NUMBER_WORDS[start : start + 4]
    return (f"What comes after {a}, {b}, {c}?", d) if rng.random() < 0.5 else (f"What comes before {b}, {c}, {d}?", a)


def _opposite(rng: np.random.Generator) -> tuple[str, str]:
    pair = OPPOSITES[int(rng.integers(len(OPPOSITES)))]
    side = int(rng.integers(2))
    return f"What is the opposite of {pair[side]}?", pair[1 - side]


def _member(rng: np.random.Generator) -> tuple[str, str]:
    right, *wrong = (list(CATEGORIES)[int(x)] for x in rng.permutation(len(CATEGORIES))[:3])
    word = CATEGORIES[right][int(rng.integers(6))]
    words = [word, *(CATEGORIES[name][int(rng.integers(6))] for name in wrong)]
    a, b, c = (words[int(x)] for x in rng.permutation(3))
    article = "an" if right == "animal" else "a"
    return f"Which of {a}, {b} and {c} is {article} {right}?", word


def _backwards(rng: np.random.Generator) -> tuple[str, str]:
    words = [_THINGS[int(x)] for x in rng.choice(len(_THINGS), 3, replace=False)]
    return f"Say {' '.join(words)} backwards.", " ".join(words[::-1])


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "sum": _sum,
        "difference": _difference,
        "largest": _largest,
        "next": _next,
        "opposite": _opposite,
        "member": _member,
        "backwards": _backwards,
    }
)


def text_question(task: str, rng: np.random.Generator) -> Question:
    """One question of a task ("sum", "difference", "largest", "next", "opposite", "member", "backwards")."""
    text, answer = TASKS[task](rng)
    return Question("text", task, text, answer)
