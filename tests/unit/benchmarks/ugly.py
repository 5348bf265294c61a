"""Random ugly answers: empty, upper case, tabs, repetitions, Chinese, very long, cut, quoted, marks, line ends."""

import random

_PIECES = [
    "", " ", "  ", "\n", "\t", "\r\n", ".", "..", ",", "!", "?", ":", ";", "'", '"', "’", "-", "--", "/", "*", "**",
    "#",
    "(", ")", "[", "]", "{", "}", "yes", "Yes", "YES", "no", "No", "NO", "not", "n't", "none", "Not", "nothing", "A",
    "B", "C", "D", "E", "F", "Z", "a", "b", "an", "the", "The answer is ", "the answer is ", "Answer is **",
    "answer is",
    "The correct answer is\n", "option ", "(B)", "B.", "A. ", "C. cat", "cat", "dog", "a dog", "dogs", "red", "two",
    "2",
    "1,000", "3.5", "ten", "dont", "don't", "isnt", "what's", "it's 's", "没有", "是", "答案是B", "。", "，", "\u2028",
    "\x85", "\u200b", "é", "İ", "ß", "ﬁ", "😀", "Sorry, I can't help with images of people yet.",
    "Cannot determine the answer", "Failed to obtain answer via API", "x" * 300, "word " * 200, "FAILED", "<image>",
    "\x0b", "\x1c", "\xa0", "\x00", "\ud83d", "Ａ", "Ｂ。", "A,B", "ABCD", "A B", "Yes and no", "no.", "yes,", "not,",
    "无", "不是", "\u3000", "nan", "None", "null", "-1", "1.5.2", ".5", "'", "`", "@",
    "The answer is Ä.", "ans wer is A",
]  # fmt: skip


def answers(seed: int, count: int, extra: list[str] | None = None) -> list[str]:
    """`count` answers of one to eight pieces, with or without spaces between them; `extra` pieces are frequent."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        pieces = [rng.choice(extra if extra and rng.random() < 0.4 else _PIECES) for _ in range(rng.randint(1, 8))]
        found.append(rng.choice(["", " ", " "]).join(pieces))
    return found
