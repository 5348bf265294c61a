"""A judge that knows the world: it reads the prompts of judged benchmarks, and grades by the references in them."""

import re
from collections.abc import Callable, Sequence

from pairsight.benchmarks.suites.alpaca_eval import OWN_PROMPT as ALPACA_PROMPT
from pairsight.benchmarks.suites.mm_vet import OWN_PROMPT as MM_VET_PROMPT
from pairsight.benchmarks.suites.mmhal import OWN_TEMPLATE as MMHAL_PROMPT
from pairsight.tiny.train.scoring import normalise
from pairsight.tiny.world.captions import mentioned_kinds
from pairsight.tiny.world.judged_files import ANSWER, QUESTION, REFERENCE

_LLAVA = re.compile(
    r"\[Context\]\n(?P<context>.*?)\n\n\[Question\]\n(?P<question>.*?)\n\n\[Assistant 1\]\n(?P<first>.*?)\n\n"
    r"\[End of Assistant 1\]\n\n\[Assistant 2\]\n(?P<second>.*?)\n\n\[End of Assistant 2\]",
    re.DOTALL,
)
_MT = re.compile(
    rf"{re.escape(QUESTION)}\n(.*?)\n{re.escape(REFERENCE)}\n(?P<truth>.*?)\n{re.escape(ANSWER)}\n(?P<answer>.*)",
    re.DOTALL,
)


def _pattern(template: str, *names: str) -> "re.Pattern[str]":
    """A template of ours whose places `{}`, or `{name}`, are groups."""
    parts = re.split(r"\{\w*\}", template.replace("{{", "{").replace("}}", "}").strip())
    groups = [f"(?P<{name}>.*?)" for name in names]
    return re.compile(
        "".join(re.escape(part) + group for part, group in zip(parts, [*groups, ""], strict=False)), re.DOTALL
    )


_MMHAL = _pattern(MMHAL_PROMPT, "content", "question", "truth", "answer")
_ALPACA = _pattern(ALPACA_PROMPT.split("user\n", 1)[1].split("<|im_end|>")[0], "instruction", "first", "second")


def verdict_on(text: str, truth_of: Callable[[str], str]) -> str | None:
    """The verdict that a judge's prompt asks for; None where the text is not a prompt of a judge.

    MM-Vet: how alike the answer and the reference are, in tenths. LLaVA-Bench: 1 + 9 times that, for both answers, by
    the context for a description and by the first answer for anything else. MMHal-Bench: 6, less 4 for naming what is
    not there or a wrong answer. MT-Bench: 1 + 9 times. AlpacaEval: the one more like the truth is first.

    Args:
        text: the last message.
        truth_of: a text-only question -> its true answer.

    Source: ours; the authors' prompts, applied to a world whose truth is known.
    """
    if text.startswith(MM_VET_PROMPT.split("\n")[0]):
        row = text[len(MM_VET_PROMPT) :].strip().split(" | ")
        return f"{alike(row[1], ' | '.join(row[2:])):.1f}" if len(row) > 2 else "0.0"
    if found := _LLAVA.search(text):
        first, second = found["first"], found["second"]
        by = found["context"] if mentioned_kinds(first) else first
        scores = [1 + 9 * alike(by, one) for one in (first, second)]
        return f"{scores[0]:.0f} {scores[1]:.0f}\nCompared with what is there: {by}"
    if found := _MMHAL.match(text.strip()):
        wrong = _claims_too_much(found["content"], found["truth"], found["answer"])
        return f"{'Something is made up' if wrong else 'Nothing is made up'}.\nRating: {2 if wrong else 6}"
    if found := _MT.match(text.strip()):
        return f"The reference says: {found['truth']}. Rating: [[{1 + 9 * alike(found['truth'], found['answer']):.0f}]]"
    if found := _ALPACA.match(text.strip()):
        truth = truth_of(found["instruction"])
        first, second = alike(truth, found["first"]), alike(truth, found["second"])
        ranks = (1, 2) if first >= second else (2, 1)
        return f"[{{'model': 'model_1', 'rank': {ranks[0]}}}, {{'model': 'model_2', 'rank': {ranks[1]}}}]"
    return None


def alike(truth: str, answer: str) -> float:
    """|∩| / |∪| of the objects that two texts name; where the truth names none, 1 for an equal text, else 0."""
    wanted = set(mentioned_kinds(truth))
    if not wanted:
        return float(_short(truth) == _short(answer))
    named = set(mentioned_kinds(answer))
    return len(wanted & named) / len(wanted | named)


def _claims_too_much(content: str, truth: str, answer: str) -> bool:
    """Whether an answer names objects that are not there or, where the truth names none, is another one."""
    if mentioned_kinds(truth):
        return not set(mentioned_kinds(answer)) <= set(mentioned_kinds(content))
    return _short(answer) != _short(truth)


def _short(text: str) -> str:
    """A short answer, plain: its first word for yes and no."""
    words: Sequence[str] = normalise(text).replace(",", " ").split()
    return words[0] if words and words[0] in ("yes", "no") else " ".join(words)
