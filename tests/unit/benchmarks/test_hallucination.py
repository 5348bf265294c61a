"""CHAIR, Object HalBench and AMBER: mentions and metrics by hand, yes-no metrics against a second implementation."""

import random

import numpy as np
import official
import pytest

from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.benchmarks.tasks import make_benchmark
from pairsight.benchmarks.words.amber_nouns import AmberWords, count_caption
from pairsight.benchmarks.words.coco_objects import CocoObjects
from pairsight.benchmarks.words.similarity import word_similarity
from pairsight.benchmarks.words.singular import pattern_singular
from pairsight.benchmarks.words.tokens import known_nouns, split_words
from pairsight.errors import ConfigError, DataError

FEW = EvaluationSettings(num_resamples=50)


@pytest.fixture
def table(tmp_path):
    return CocoObjects.read(official.coco(tmp_path / "coco") / "synonyms.txt")


def values(section, where="metrics"):
    return {name: metric["value"] for name, metric in section[where].items()}


@pytest.mark.parametrize(
    ("word", "singular"),
    [
        ("dogs", "dog"), ("bus", "bu"), ("buses", "bus"), ("tennis", "tenni"), ("glass", "glas"), ("glasses", "glass"),
        ("ties", "ty"), ("ponies", "pony"), ("cookies", "cookies"), ("women", "woman"), ("people", "person"),
        ("children", "child"), ("knives", "knife"), ("wolves", "wolf"), ("leaves", "leaf"), ("gloves", "glove"),
        ("mice", "mouse"), ("sheep", "sheep"), ("scissors", "scissors"), ("skis", "ski"), ("hour", "hmy"), ("s", "s"),
        ("couches", "couch"), ("boxes", "box"), ("potatoes", "potato"), ("oxen", "ox"), ("pizza", "pizza"),
        ("pita", "pitum"), ("dogs'", "dog's"), ("", ""),
    ],
)  # fmt: skip
def test_pattern_singular_by_hand(word, singular):
    assert pattern_singular(word) == singular


def test_words_are_split_as_nltk_does():
    text = "A dog. \"Two cats,\" he said; it isn't (really) the man's... No! cannot 3,000 x:y"
    expected = "A dog . `` Two cats , '' he said ; it is n't ( really ) the man 's ... No ! can not 3,000 x : y"
    assert split_words(text) == expected.split()
    assert split_words("a dog.cat and a dog.\nend.") == ["a", "dog.cat", "and", "a", "dog", ".", "end", "."]
    assert split_words("") == []


@pytest.mark.parametrize(
    ("caption", "official_words", "robust_words"),
    [
        ("A bus and two buses.", ["bus"], ["bus", "bus"]),  # bus -> bu is never found
        ("A motor bike.", [], ["motor bike"]),  # its line has an extra space
        ("a stove top oven", ["stove", "oven"], ["stove top oven"]),  # three words are two objects
        ("A baby cat and an adult dog", ["cat", "dog"], ["cat", "dog"]),
        ("the seat of the toilet", ["toilet"], ["toilet"]),
        ("a toilet seat", ["toilet"], ["toilet"]),
        ("wine glasses on tables", ["wine glass", "table"], ["wine glass", "table"]),
        ("A man in bow ties", ["man", "bow"], ["man", "tie"]),
        ("Women, people; cats!", ["woman", "person", "cat"], ["woman", "people", "cat"]),
        ("a tennis racket", ["racket"], ["tennis racket"]),
        ("cheesecake", [], ["cheesecake"]),
        ("", [], []),
    ],
)
def test_mentions(table, caption, official_words, robust_words):
    assert [word for word, _ in table.mentions(caption, "official")] == official_words
    assert [word for word, _ in table.mentions(caption, "robust")] == robust_words


def test_chair_by_hand(tmp_path):
    path = official.coco(tmp_path / "coco")
    # image 1 has cat (label), person and bus (captions, the bus as "buses"); image 2 has a table
    captions = {1: "A cat, a puppy and a puppy on two buses.", 2: "Two tables and chairs."}
    rows = [{"image_id": image, "caption": caption} for image, caption in captions.items()]
    answers = official.jsonl(tmp_path / "answers.jsonl", rows)
    section = score_answers("chair", path, answers, tmp_path / "out", settings=FEW).to_plain()["benchmarks"]["chair"]
    found = values(section)
    assert found["chair_s"] == 1.0
    assert found["chair_i"] == pytest.approx(3 / 6)  # puppy twice and chair, of cat, puppy, puppy, bus, table, chair
    assert found["recall"] == pytest.approx(3 / 4)  # cat, bus and table of cat, person, bus, table
    assert found["mean_words"] == 7.0
    assert section["metrics"]["chair_i"]["better"] == "lower"


def test_figures_with_a_fallback_are_not_called_official(tmp_path):
    path = official.coco(tmp_path / "coco")
    answers = official.jsonl(tmp_path / "a.jsonl", [{"image_id": k, "caption": "x"} for k in (1, 2)])
    section = score_answers("chair", path, answers, tmp_path / "out", settings=FEW).to_plain()["benchmarks"]["chair"]
    fallbacks = make_benchmark("chair").fallbacks
    assert section["fallbacks"] == list(fallbacks)
    assert section["parser"] == ("official rule with fallbacks" if fallbacks else "official")
    assert section["other_parser"]["parser"] == "robust"


def test_chair_draws_its_images_by_seed_or_uses_the_listed_ones(tmp_path):
    path = official.coco(tmp_path / "coco")
    load = lambda **options: list(make_benchmark("chair", options).load(path, official.Names()))  # noqa: E731
    drawn = [load(num_images=1, seed=seed)[0][0].id for seed in range(20)]
    assert drawn == [load(num_images=1, seed=seed)[0][0].id for seed in range(20)]
    assert set(drawn) == {"1", "2"}
    assert len(load(num_images=9)) == 2
    official.jsonl(path / "questions.jsonl", [{"image_id": 2, "image": "x.jpg", "text": "What?"}])
    ((sample,),) = load()
    assert (sample.id, sample.prompt.question) == ("2", "What?")
    official.jsonl(path / "questions.jsonl", [{"image_id": 77, "image": "x.jpg"}])
    with pytest.raises(DataError, match=r"questions\.jsonl:1 \(id 77\): COCO's files .* have no image 77"):
        load()


def test_object_halbench_counts_each_word_once(tmp_path):
    path = official.object_halbench(tmp_path / "hal")
    rows = [
        {"image_id": 1, "question": "Describe.", "answer": "Assistant: A puppy, a puppy, a cat and kittens."},
        {"image_id": 2, "question": "Describe.", "answer": "Nothing to see."},
    ]
    answers = official.jsonl(tmp_path / "answers.jsonl", rows)
    section = score_answers("object_halbench", path, answers, tmp_path / "out", settings=FEW).to_plain()
    found = values(section["benchmarks"]["object_halbench"])
    assert found["chair_s"] == 1.0  # one answer mentions an object, and it hallucinates
    assert found["chair_i"] == pytest.approx(1 / 3)  # puppy, cat, kitten
    assert "GPT-3.5" in section["benchmarks"]["object_halbench"]["fallbacks"][0]


WORDS = AmberWords({"sky": ["cloud"], "man": ["person", "boy"], "bird": ["wing"], "dog": ["boy"]}, {"light"})


def counted(nouns, truth, likely, similar=lambda a, b: a == b):
    found = count_caption(nouns, truth, likely, words=WORDS, similar=similar)
    return (found.unsupported, found.nouns, found.covered, found.truth, found.made_up, found.likely)


def test_amber_captions_by_hand():
    assert counted(["sky", "man", "bird"], ["sky", "man"], ["bird"]) == (1, 3, 2, 2, 1, 1)
    assert counted(["light", "light"], ["sky"], ["bird"]) == (0, 2, 0, 1, 0, 1)  # safe words count as nouns
    assert counted(["sky", "sky"], ["sky", "sky"], []) == (0, 2, 1, 2, 0, 0)  # named twice, covered once
    assert counted(["boy"], ["man", "dog"], []) == (0, 1, 1, 2, 0, 0)  # a shared word covers the first
    assert counted(["wing"], ["sky"], ["bird"]) == (1, 1, 0, 1, 1, 1)  # by association
    # similar to a likely and to a present object: made up, but supported
    near = lambda a, b: (a, b) in {("hawk", "bird"), ("hawk", "sky")}  # noqa: E731
    assert counted(["hawk"], ["sky"], ["bird"], near) == (0, 1, 1, 1, 1, 1)
    assert counted([], ["sky"], ["bird"]) == (0, 0, 0, 1, 0, 1)


def original_amber(annotations, responses):
    """The yes-no part again: counts that start at .001, percentages with one digit, F1 from those."""
    counts = {}

    def add(kind, name, start=0.0):
        counts.setdefault((kind, name), start)
        counts[kind, name] += 1

    short = {"discriminative-attribute-state": "as", "discriminative-attribute-number": "an",
             "discriminative-attribute-action": "aa", "discriminative-hallucination": "ha"}  # fmt: skip
    for item in annotations:
        response = responses[item["id"]]
        for kind in ("qa", short.get(item["type"], "asso")):
            add(kind, "num", 0.001)
            if item["truth"] == "yes":
                if response == "Yes":
                    add(kind, "right")
            else:
                add(kind, "no_num", 0.001)
                if response == "No":
                    add(kind, "right")
                    add(kind, "no_right")
            if response == "No":
                add(kind, "said_num", 0.001)
                if item["truth"] == "no":
                    add(kind, "said_right")

    def of(kinds, top, bottom):
        total = sum(counts.get((k, bottom), 0.001) for k in kinds)
        return round(sum(counts.get((k, top), 0) for k in kinds) / total * 100, 1)

    found = {}
    groups = {"": ["qa"], "existence_": ["ha"], "attribute_": ["as", "an", "aa"], "state_": ["as"], "number_": ["an"],
              "action_": ["aa"], "relation_": ["asso"]}  # fmt: skip
    for prefix, kinds in groups.items():
        p, r = of(kinds, "said_right", "said_num"), of(kinds, "no_right", "no_num")
        extra = 0.001 if prefix == "existence_" else 0.0001
        found |= {
            f"{prefix}accuracy": of(kinds, "right", "num"), f"{prefix}precision": p, f"{prefix}recall": r,
            f"{prefix}f1": round(2 * (p / 100) * (r / 100) / ((p / 100) + (r / 100) + extra) * 100, 1),
        }  # fmt: skip
    return found


@pytest.mark.parametrize("seed", range(6))
def test_amber_yes_no_figures_equal_the_original(seed):
    rng = random.Random(seed)
    kinds = {"hallucination": "existence", "attribute-state": "state", "attribute-number": "number",
             "attribute-action": "action", "relation": "relation"}  # fmt: skip
    annotations, groups, responses = [], [], {}
    benchmark = make_benchmark("amber")
    sums = np.zeros(len(benchmark.columns))
    for number in range(1, 401):
        kind = rng.choice(list(kinds))
        item = {"id": number, "truth": "no" if kind == "hallucination" else rng.choice(["yes", "no"])}
        item["type"] = kind if kind == "relation" else f"discriminative-{kind}"
        responses[number] = rng.choice(["Yes", "No", "No", "yes", "no", "No.", "", "Yes, it is"])
        annotations.append(item)
        sample = official.sample(str(number), {"kind": kinds[kind], "truth": item["truth"]})
        groups.append(sample)
        sums += benchmark.score((sample,), [responses[number]], "official").sums
    found = {name: float(value[0]) for name, value in benchmark.combine(sums[None]).items()}
    expected = {name: value / 100 for name, value in original_amber(annotations, responses).items()}
    assert found == expected
    assert expected["existence_precision"] == 1.0


def test_complete_amber(tmp_path):
    path = official.amber(tmp_path / "amber")
    texts = {1: "A man and a bird in the sky.", 2: "A puppy under the light."} | dict.fromkeys(range(3, 13), "No")
    answers = official.as_json(tmp_path / "a.json", [{"id": k, "response": text} for k, text in texts.items()])
    section = score_answers("amber", path, answers, tmp_path / "out", settings=FEW).to_plain()["benchmarks"]["amber"]
    found = values(section)
    # nouns of the vocabulary: man, bird, sky; puppy (light is safe but not in it): bird is unsupported
    assert found["chair"] == 0.25
    assert (found["cover"], found["hal"], found["cog"]) == (1.0, 0.5, pytest.approx(0.333))
    assert found["amber_score"] == pytest.approx((1 - 0.25 + found["f1"]) / 2)
    assert section["categories"]["existence"]["existence_recall"]["value"] == 1.0
    part = score_answers("amber", path, answers_of(tmp_path, texts), tmp_path / "o2", settings=FEW,
                         options={"part": "discriminative"}).to_plain()["benchmarks"]["amber"]  # fmt: skip
    assert "chair" not in values(part)
    assert (part["parser"], part["fallbacks"]) == ("official", [])


def answers_of(tmp_path, texts):
    rows = [{"id": k, "response": text} for k, text in texts.items() if k > 2]
    return official.as_json(tmp_path / "part.json", rows)


def test_nouns_by_vocabulary_and_vectors_from_a_file(tmp_path):
    find = known_nouns({"dog", "bus", "grass", "TV"})
    assert find("Dogs, a bus, two dogs on grass. TV") == ["bus", "dog", "grass", "TV"]
    file = tmp_path / "vectors.txt"
    file.write_text("2 2\ndog 1 0\npuppy 0.9 0.1\ncat 0 1\n")
    similar, label = word_similarity(str(file), 0.8)
    assert (similar("dog", "puppy"), similar("dog", "cat"), similar("dog", "unknown")) == (True, False, False)
    assert label == "word vectors from vectors.txt"
    with pytest.raises(ConfigError, match="neither a file nor an installed spaCy model"):
        word_similarity("no_such_model", 0.8)
    file.write_text("dog 1 0\ncat 1\n")
    with pytest.raises(DataError, match=r"vectors\.txt:2: 2 numbers are expected, found 1"):
        word_similarity(str(file), 0.8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("annotations.json", [{"id": 1, "type": "generative", "truth": ["dragon"], "hallu": []}]),
            "'dragon' is not in",
        ),
        (("annotations.json", []), r"query_all\.json:1 \(id 1\): item 1 of annotations.json does not have this id"),
        (("relation.json", []), "must hold"),
        (("query/query_all.json", [{"id": "x", "image": "a", "query": "b"}]), "'id' must be a whole number"),
    ],
)
def test_bad_amber_files_are_named(tmp_path, change, message):
    path = official.amber(tmp_path / "amber")
    official.as_json(path / change[0], change[1])
    with pytest.raises(DataError, match=message):
        list(make_benchmark("amber").load(path, official.Names()))
