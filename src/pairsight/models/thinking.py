"""The answer of a model that thinks first, without its thinking: what parsers of annotations, texts and grades read."""

import re

_BLOCKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
)
"""How families mark thinking (Qwen, DeepSeek, GLM, Seed, Magistral, Kimi-VL, gpt-oss and others)."""
_ANSWERS = (("<answer>", "</answer>"), ("<|begin_of_box|>", "<|end_of_box|>"))
"""How some mark the answer that follows."""
_CHANNEL = re.compile(r"(?:<\|start\|>\w*)?<\|channel\|>final<\|message\|>")


def without_thinking(text: str) -> str | None:
    """What a model says after its thinking; the text itself where there is no thinking.

    Thinking is what begins the text between two marks, or ends at a closing mark whose opening one the chat template
    has written into the prompt.

    Args:
        text: what the model wrote, as it came.

    Returns:
        The answer, without white space and marks around it where there is thinking; None where the thinking does not
        end.
    """
    rest = text.strip()
    while (block := next((one for one in _BLOCKS if rest.startswith(one[0])), None)) is not None:
        _, closed, rest = rest[len(block[0]) :].partition(block[1])
        if not closed:
            return None
        rest = rest.strip()
    rest = _after_end(rest)
    if found := _CHANNEL.match(rest):
        rest = rest[found.end() :]
    for start, end in _ANSWERS:
        if rest.startswith(start) and rest.endswith(end):
            rest = rest[len(start) : len(rest) - len(end)].strip()
    return text if rest == text.strip() else rest


def _after_end(text: str) -> str:
    """What follows the first closing mark that no opening one comes before."""
    for start, end in _BLOCKS[:-1]:
        before, closed, after = text.partition(end)
        if closed and start not in before:
            return after.strip()
    return text
