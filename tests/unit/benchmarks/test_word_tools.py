"""Taggers, lemmatizers and tokenizers of official scorers: NLTK with data in a folder, and the fallbacks."""

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import official
import pytest
import ugly
from nltk_folder import nltk_folder

from pairsight.benchmarks.tasks import make_benchmark
from pairsight.benchmarks.words import similarity as word_similarity
from pairsight.benchmarks.words.coco_objects import CocoObjects
from pairsight.benchmarks.words.singular import pattern_singular
from pairsight.benchmarks.words.tokens import noun_lemma, split_words, tagged_nouns, tokenizer
from pairsight.errors import ConfigError

CHILD = """
import json, sys
from pathlib import Path
from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.words.tokens import noun_lemma, tagged_nouns
from pairsight.benchmarks.words.tokens import tokenizer
from pairsight.benchmarks.sections import EvaluationSettings
folder, data = Path(sys.argv[1]), sys.argv[2]
found = {"words": tokenizer(data)[0]("It is approx. two dogs. A man."), "lemmas": [], "labels": []}
found["lemmas"] = [noun_lemma(data)[0](w) for w in ("dogs", "men", "women", "wolves", "leaves", "xyzs", "glasses")]
found["nouns"] = tagged_nouns(data)[0]("A dogs runs quickly on the skies")
found["labels"] = [tokenizer(data)[1], noun_lemma(data)[1], tagged_nouns(data)[1]]
for name, path, more in (("chair", "coco", {}), ("object_halbench", "hal/obj_halbench.jsonl", {}),
                         ("amber", "amber", {"vectors": str(folder / "vectors.txt")})):
    section = score_answers(name, folder / path, folder / f"{name}.json", folder / "out" / name,
                            options={"nltk_data": data, **more}, settings=EvaluationSettings(num_resamples=10))
    section = section.to_plain()["benchmarks"][name]
    found[name] = {"parser": section["parser"], "fallbacks": section["fallbacks"],
                   "metrics": {n: metric["value"] for n, metric in section["metrics"].items()}}
print(json.dumps(found))
"""


def test_nltk_and_its_data_from_a_folder_make_figures_official(tmp_path):
    """In a separate process, as NLTK keeps loaded data."""
    pytest.importorskip("nltk", reason="NLTK is not installed (extra `words`)")
    official.coco(tmp_path / "coco")
    official.object_halbench(tmp_path / "hal")
    official.amber(tmp_path / "amber")
    (tmp_path / "vectors.txt").write_text("dog 1 0\npuppy 0.9 0.1\ncat 0 1\n")
    caption = "A puppy, a puppy and a cat on approx. two buses."
    rows = [{"image_id": k, "question": "Describe.", "answer": caption, "caption": caption} for k in (1, 2)]
    official.as_json(tmp_path / "chair.json", rows)
    official.as_json(tmp_path / "object_halbench.json", rows)
    responses = [{"id": k, "response": "men dogs on the sky" if k < 3 else "No"} for k in range(1, 13)]
    official.as_json(tmp_path / "amber.json", responses)
    data = nltk_folder(tmp_path / "nltk_data")
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["labels"] == ["", "", ""]
    assert found["words"] == ["It", "is", "approx.", "two", "dogs", ".", "A", "man", "."]
    assert found["lemmas"] == ["dog", "men", "woman", "wolf", "leaf", "xyzs", "glass"]
    assert found["nouns"] == ["dog", "sky"]
    assert (found["chair"]["parser"], found["chair"]["fallbacks"]) == ("official", [])
    # image 1 has a cat and a bus, image 2 neither: of puppy, puppy, cat, bus 2 and 4 are hallucinated
    assert found["chair"]["metrics"]["chair_i"] == 6 / 8
    assert found["object_halbench"]["parser"] == "official rule with fallbacks"
    assert found["object_halbench"]["fallbacks"] == ["objects found by the word list, where the original asks GPT-3.5"]
    assert found["object_halbench"]["metrics"]["chair_i"] == 4 / 6  # puppy counts once per answer
    assert found["amber"]["fallbacks"] == ["word vectors from vectors.txt"]
    # `men` stays `men`, which is not in AMBER's vocabulary; dog and sky: sky is present in 1, dog in 2
    assert found["amber"]["metrics"]["chair"] == pytest.approx(0.5)


def test_a_missing_nltk_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nltk_data .*nothing .*(is not a folder|needs NLTK)"):
        _ = make_benchmark("chair", {"nltk_data": str(tmp_path / "nothing")}).fallbacks


def test_textblob_and_lemminflect_are_named_fallbacks():
    pytest.importorskip("lemminflect", reason="lemminflect is not installed (extra `words`)")
    pytest.importorskip("textblob", reason="textblob is not installed (extra `words`)")
    lemma, label = noun_lemma()
    if not label:
        pytest.skip("NLTK's WordNet is installed: no fallback is used")
    assert label == "base forms by lemminflect"
    bases = {"dogs": "dog", "buses": "bus", "glasses": "glass", "leaves": "leaf", "people": "people", "men": "men",
             "women": "woman", "children": "child", "knives": "knife", "geese": "goose", "boxes": "box"}  # fmt: skip
    assert {word: lemma(word) for word in bases} == bases
    nouns, labels = tagged_nouns()
    assert "base forms by lemminflect" in labels
    assert "nouns tagged by textblob's pattern tagger" in labels
    assert nouns("The image features a man riding two motorcycles down a street.")[-3:] == [
        "man", "motorcycle", "street",
    ]  # fmt: skip
    assert nouns("") == []
    for text in ugly.answers(11, 300):
        assert all(isinstance(noun, str) for noun in nouns(text))


@pytest.mark.parametrize(
    ("seed", "count"), [(12, 3_000), pytest.param(13, 60_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_words_are_split_as_by_nltks_tokenizer(seed, count):
    nltk = pytest.importorskip("nltk", reason="NLTK is not installed (extra `words`)")
    extra = ["don't", "cannot", '"quoted"', "it's", "(a dog)", "3,000", "a,b", "gonna", "''", "``", "rock'n'roll", "--"]
    for text in ugly.answers(seed, count, extra):
        sentence = re.sub(r"[.?!]+", "", text).replace("\n", " ")  # a single sentence
        sentence = sentence.replace("\x1c", " ")  # whitespace in Python's `re`, but not in NLTK's `regex`
        assert split_words(sentence) == nltk.word_tokenize(sentence, preserve_line=True), repr(sentence)


def test_singular_forms_follow_patterns_rules():
    """textblob has pattern's rules; words decided by its longer word lists are not compared."""
    inflect = pytest.importorskip("textblob.en.inflect", reason="textblob is not installed (extra `words`)")
    stems = "bus glas tenni ti pon cook wom child kni wol glo mou sheep sk hou couch box potat pizz ax shoe quiz matr"
    ends = ["", "s", "es", "ies", "ves", "ses", "men", "ice", "ices", "oes", "zes", "us", "a", "ae", "i", "ews", "eaux"]
    objects = CocoObjects.read(Path(__file__).parent / "chair_words.txt", None).synonyms
    words = {stem + end for stem in stems.split() for end in ends} | {
        form for word in objects for form in (word.split(" ")[-1], f"{word.split(' ')[-1]}s")
    }
    lists = ("singular_uninflected", "singular_uncountable", "singular_ie", "singular_s", "singular_irregular")
    listed = {word for name in lists for word in getattr(inflect, name)}
    compared = 0
    for word in sorted(words):
        if any(word.endswith(one) or one.endswith(word) or word.startswith(one) for one in listed):
            continue
        assert pattern_singular(word) == inflect.singularize(word), word
        compared += 1
    assert compared > 400


def test_spacy_compares_words_if_it_is_installed(monkeypatch, tmp_path):
    """With a fake package that has the two calls AMBER makes."""
    vectors = {"dog": 1.0, "puppy": 0.81, "cat": 0.8}

    class Document:
        def __init__(self, word):
            self.word = word

        def similarity(self, other):
            return 1.0 if self.word == other.word else min(vectors[self.word], vectors[other.word])

    spacy = types.ModuleType("spacy")
    spacy.load = lambda name: Document
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    monkeypatch.setattr(word_similarity.importlib.util, "find_spec", lambda name: object())
    similar, label = word_similarity.word_similarity(None, 0.8)
    assert label == ""
    assert (similar("dog", "puppy"), similar("dog", "cat")) == (True, False)  # above, not at, the threshold
    assert word_similarity.word_similarity("en_core_web_sm", 0.8)[1] == "word vectors of en_core_web_sm"


def test_without_punkt_the_tokenizer_is_a_named_fallback():
    split, label = tokenizer()
    assert split("a dog. Two cats") == ["a", "dog", ".", "Two", "cats"]
    assert label in ("", "words split by NLTK's rules without its punkt data")
