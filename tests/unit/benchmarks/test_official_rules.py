"""Each official rule against a second, plain implementation from the description of the original scorer."""

import random
import re

import pytest
import transcribed
import ugly

from pairsight.benchmarks.suites import gqa, mme, pope, scienceqa, vqav2
from pairsight.benchmarks.suites.mmbench import official_choice
from pairsight.benchmarks.words.vqa import CONTRACTIONS, m4c_normal, soft_score, vqa_normal

COUNT = 20_000


def test_pope_reads_as_the_original():
    def original(text):
        if text.find(".") != -1:
            text = text[: text.find(".")]
        words = "".join(text.split(",")).split(" ")
        return "no" if {"No", "not", "no"} & set(words) else "yes"

    for text in ugly.answers(1, COUNT):
        assert pope.official_answer(text) == original(text), repr(text)


def test_mme_reads_as_the_original_reads_a_line():
    def original(text):
        line = "image.jpg\tquestion\tYes\t" + re.sub(r"[\t\n\r]", " ", text) + "\n"
        answer = line.split("\t")[3].lower()
        if answer in ("yes", "no"):
            return answer
        head = answer[0:4]
        return "yes" if head.find("yes") >= 0 else ("no" if head.find("no") >= 0 else "other")

    for text in ugly.answers(2, COUNT):
        assert mme.official_answer(text) == original(text), repr(text)
    assert mme.official_answer("\\nOf course") == "no"  # a literal backslash n
    assert mme.official_answer("\nOf course") == "other"
    assert mme.official_answer("I know: yes") == "other"
    assert mme.official_answer("noyes") == "no"
    assert mme.official_answer("oyes") == "yes"


def test_scienceqa_reads_as_the_original():
    def original(text, num_choices):
        letters = ["A", "B", "C", "D", "E"]
        if text in letters:
            answer = text
        elif len(text) >= 3 and text[0] in letters and text[1] == "." and text[2] == " ":
            answer = text[0]
        else:
            found = re.compile("The answer is ([A-Z]).").findall(text)
            answer = found[0] if len(found) == 1 else "FAILED"
        return letters.index(answer) if answer in letters[:num_choices] else -1

    rng = random.Random(0)
    extra = ["The answer is B.", "The answer is Because", "B. ", "C", "The answer is D", "The answer is A\n"]
    for text in ugly.answers(3, COUNT, extra):
        num = rng.randint(2, 5)
        read = scienceqa.official_letter(text)
        ours = scienceqa.LETTERS.index(read) if read in scienceqa.LETTERS[:num] else -1
        assert ours == original(text, num), repr(text)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("B.", None), (" B", None), ("B\n", None), ("B.text", None), ("B. text", "B"), ("B. ", "B"),
        ("The answer is Because", "B"), ("so The answer is B", None), ("The answer is B\n", None),
        ("The answer is B. The answer is B.", None), ("The answer is G.", "G"), ("", None),
    ],
)  # fmt: skip
def test_scienceqa_by_hand(text, letter):
    assert scienceqa.official_letter(text) == letter


def test_mmbench_chooses_as_the_original():
    rng = random.Random(0)
    texts = ["cat", "dog", "a dog", "red", "Two", "没有", "nothing at all", "A", "3.5", "İstanbul"]
    for text in ugly.answers(4, COUNT, ["A", "B", "D", "answer is c", "Answer is **D**", "dog", "cat"]):
        options = {letter: rng.choice(texts) for letter in "ABCD"[: rng.randint(2, 4)]}
        assert official_choice(text, options) == transcribed.mmbench_choice(text, options), (text, options)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("(B)", "B"), ("B. dog", "B"), ("A dog sits on the mat", "B"),  # A is too far from the end; by text
        ("the answer is definitely unclear", "D"), ("A or B", None), ("dog", "B"), ("cat dog", None), ("", None),
        ("b", None), ("Z", "Z"), ("I think that it is B because of its long ears", None), ("答案是B", None),
        ("B。", None),
    ],
)  # fmt: skip
def test_mmbench_by_hand(text, letter):
    assert official_choice(text, {"A": "cat", "B": "dog", "C": "a bird", "D": "fish and chips for all of us"}) == letter


def original_vqa_words(text, comma):
    marks = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]
    out = text
    for mark in marks:
        if (mark + " " in text or " " + mark in text) or re.search(comma, text) is not None:
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    out = re.compile(r"(?!<=\d)(\.)(?!\d)").sub("", out, 32)
    names = ["none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    digits = {"none": "0"} | {name: str(value) for value, name in enumerate(names[1:])}
    words = []
    for word in out.lower().split():
        if digits.get(word, word) not in ("a", "an", "the"):
            words.append(digits.get(word, word))
    return " ".join(CONTRACTIONS.get(word, word) for word in words)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_vqa_and_textvqa_normalise_as_the_originals():
    for text in ugly.answers(
        5, COUNT, ["1,000", ".", "...", "a", "The", "dont", "couldntve", " ,", "? ", "five", "'s"]
    ):
        assert vqa_normal(text) == original_vqa_words(text, r"(\d)(\,)(\d)"), repr(text)
        m4c = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
        m4c = m4c.replace("\n", " ").replace("\t", " ").strip()
        assert m4c_normal(text) == original_vqa_words(m4c, r"(?<=\d)(\,)+(?=\d)"), repr(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The dog.", "dog"), ("two", "2"), ("None", "0"), ("dont", "don't"), ("Im", "im"), ("1,000", "1000"),
        ("red/blue", "red blue"), ("red / blue", "red blue"), ("3.5", "3.5"), ("no. 5.", "no 5"),
        ("ice-cream", "ice cream"),
        ("." * 33, "."), ("somebody'd", "somebodyd"), ("yall'd've", "y'all'd've"), ("A", ""), ("", ""),
    ],
)  # fmt: skip
def test_vqa_words_by_hand(text, normal):
    assert vqa_normal(text) == normal


def test_vqav2_scores_as_the_original():
    def original(answer, given):
        answer = answer.replace("\n", " ").replace("\t", " ").strip()
        people = [{"id": k, "answer": g.replace("\n", " ").replace("\t", " ").strip()} for k, g in enumerate(given)]
        if len({p["answer"] for p in people}) > 1:
            answer = vqa_normal(answer)
            people = [{**p, "answer": vqa_normal(p["answer"])} for p in people]
        scores = []
        for person in people:
            others = [p for p in people if p != person]
            scores.append(min(1, float(len([p for p in others if p["answer"] == answer])) / 3))
        return float(sum(scores)) / len(scores)

    rng = random.Random(0)
    pool = ["yes", "Yes", "no", "two", "2", "a dog", "dog", "dog.", "the dog", "red", " red", "re\td"]
    for text in ugly.answers(6, 3_000, pool):
        given = [rng.choice(pool[: rng.randint(1, len(pool))]) for _ in range(10)]
        _, agrees = vqav2.official_match(text, given)
        assert soft_score(tuple(agrees)) == original(text, given), (text, given)


def test_vqav2_by_hand():
    def score(answer, given):
        return soft_score(tuple(vqav2.official_match(answer, given)[1]))

    assert score("Yes", ["yes"] * 10) == 0.0  # all agree: nothing is normalised
    assert score("yes", ["yes"] * 10) == 1.0
    assert score("Yes", ["yes"] * 9 + ["no"]) == 1.0
    # 3 of 10 agree: leave one of them out: 2/3, else 1: (3·2/3 + 7·1)/10
    assert score("dog", ["dog"] * 3 + ["cat"] * 7) == pytest.approx(0.9)
    assert score("dog", ["dog"] + ["cat"] * 9) == pytest.approx(0.3)
    assert score("", ["cat"] * 10) == 0.0


def test_gqa_converts_as_llava():
    for text in ugly.answers(7, COUNT):
        converted = text
        while converted.endswith("."):
            converted = converted[:-1]
        assert gqa.official_answer(text) == converted.lower()
