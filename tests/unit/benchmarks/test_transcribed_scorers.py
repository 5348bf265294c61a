"""`score` against reimplemented official scorers (`transcribed`) on ugly answers: every item, then every metric."""

import base64
import functools
import json
import random

import official
import pyarrow.parquet as pq
import pytest
import transcribed
import ugly

from pairsight.benchmarks.score import score_answers
from pairsight.benchmarks.sections import EvaluationSettings
from pairsight.benchmarks.suites.mme import COGNITION, PERCEPTION
from pairsight.benchmarks.words.singular import pattern_singular
from pairsight.benchmarks.words.tokens import known_nouns, noun_lemma, tagged_nouns, tokenizer
from pairsight.benchmarks.words.vqa import CONTRACTIONS, NUMBERS

FEW = EvaluationSettings(num_resamples=4)
SUFFIX = "\nAnswer the question using a single word or phrase."
LONG = [pytest.mark.long, pytest.mark.timeout(1200)]
counts = pytest.mark.parametrize("count", [1_500, pytest.param(24_000, marks=LONG)])


def scored(name, path, answers, tmp_path, **more):
    """(metric -> value, category -> metric -> value, id -> (prediction, correct)) of the official parser."""
    content = score_answers(name, path, answers, tmp_path / "out", settings=FEW, **more).to_plain()["benchmarks"][name]
    values = {name: metric["value"] for name, metric in content["metrics"].items()}
    categories = {
        category: {name: metric["value"] for name, metric in metrics.items()}
        for category, metrics in content.get("categories", {}).items()
    }
    table = pq.read_table(
        tmp_path / "out" / "answers-model.parquet", columns=["id", "official_prediction", "official_correct"]
    )
    ids, read, correct = (column.to_pylist() for column in table.columns)
    return values, categories, dict(zip(ids, zip(read, correct, strict=True), strict=True))


def records_of(texts):
    return [{"question_id": str(k), "text": text} for k, text in enumerate(texts)]


def test_the_word_tables_equal_the_originals():
    assert NUMBERS == transcribed.DIGITS
    lower = {word: form for word, form in transcribed.CONTRACTIONS.items() if word == word.lower()}
    assert lower == CONTRACTIONS
    assert set(transcribed.CONTRACTIONS) - set(lower) == {"Id've", "I'dve", "Im", "Ive"}


@counts
def test_pope(count, tmp_path):
    rng = random.Random(count)
    expected, decided = {}, {}
    for seed, split in enumerate(("random", "popular", "adversarial")):
        texts = ugly.answers(seed, count // 3, ["Yes", "No", "no", "not", "No!", "No.", "yes, no"])
        labels = [rng.choice(["yes", "no"]) for _ in texts]
        rows = [{"question_id": k, "image": f"{k // 6}.jpg", "text": f"Is there a thing {k}?", "label": label}
                for k, label in enumerate(labels)]  # fmt: skip
        official.jsonl(tmp_path / "pope" / f"coco_pope_{split}.json", rows)
        given = [{"question": row["text"], "answer": text} for row, text in zip(rows, texts, strict=True)]
        as_json_lines(tmp_path / "answers" / f"{split}.json", given)
        read, expected[split] = transcribed.pope(texts, labels)
        decided |= {f"{split}:{k}": word for k, word in enumerate(read)}
    values, _, items = scored("pope", tmp_path / "pope", tmp_path / "answers", tmp_path)
    assert {name: read for name, (read, _) in items.items()} == decided
    for split, figures in expected.items():
        assert {name: values[f"{name}_{split}"] for name in figures} == figures


@counts
def test_mme(count, tmp_path):
    rng = random.Random(count)
    texts = iter(
        ugly.answers(count, count + 100, ["yes", "No", "Yes.", "no,", " yes", "\nYes", "\tno", "İno", "noyes"])
    )
    tasks = (*PERCEPTION, *COGNITION)
    rows, decided, scores = [], {}, {}
    (tmp_path / "mme").mkdir()
    for task in tasks:
        questions, lines = "", []
        for image in range(count // len(tasks) // 2):
            for number in (1, 2):
                label, text = rng.choice(["Yes", "No"]), next(texts)
                line = f"{image}.jpg\tQuestion {number} of {image}? Please answer yes or no.\t{label}"
                questions += f"{line}\n"
                flat = text.replace("\t", " ").replace("\n", " ").replace("\r", " ")
                lines.append(f"{line}\t{flat}\n")
                prompt = f"Question {number} of {image}?{SUFFIX}"
                rows.append({"question_id": f"{task}/images/{image}.jpg", "prompt": prompt, "text": text})
        (tmp_path / "mme" / f"{task}.txt").write_text(questions, encoding="utf-8")
        read, scores[task] = transcribed.mme_task(lines)
        decided |= {f"{task}:{k // 2}.jpg:{k % 2 + 1}": word for k, word in enumerate(read)}
    values, _, items = scored("mme", tmp_path / "mme", as_json_lines(tmp_path / "a.jsonl", rows), tmp_path)
    assert {name: read for name, (read, _) in items.items()} == decided
    assert {task: values[task] for task in tasks} == scores
    assert values["perception"] == functools.reduce(lambda total, task: total + scores[task], PERCEPTION, 0)
    assert values["cognition"] == functools.reduce(lambda total, task: total + scores[task], COGNITION, 0)


@counts
@pytest.mark.parametrize("name", ["mmbench", "mmbench_cn"])
def test_mmbench(name, count, tmp_path):
    rng = random.Random(name)
    image = base64.b64encode(official.picture()).decode()
    pool = [
        "cat",
        "dog",
        "a dog",
        "a bird",
        "red mat",
        "2",
        "没有",
        "一只猫",
        "N",
        "nan b",
        "A",
        "İ",
        "The Pacific Ocean",
    ]
    texts = iter(
        ugly.answers(count, 4 * count, ["A", "B", "A.", "(B)", "answer is B", "cat", "没有", "D", "C。", "A B"])
    )
    table, judged, answers, index = [], [], {}, 0
    while len(table) < count:
        options = rng.sample(pool, rng.randint(2, 4))
        for rotation in range(len(options)):
            shown = options[rotation:] + options[:rotation]
            truth, own = "ABCD"[shown.index(options[0])], index + 1_000_000 * rotation
            answers[own] = rng.choice([truth, truth, next(texts)])
            judged.append((own, dict(zip("ABCD", shown, strict=False)), truth))
            blank = [""] * (4 - len(shown))
            table.append([own, "?", "", *shown, *blank, truth, "c", index if rotation else image, "l", "dev"])
        index += 1
    path = official.mmbench(tmp_path / "mmbench.tsv", table)
    rows = [{"question_id": own, "text": text} for own, text in answers.items()]
    values, _, items = scored(name, path, as_json_lines(tmp_path / "a.jsonl", rows), tmp_path)
    read, accuracy = transcribed.mmbench(judged, answers)
    assert {own: letter for own, (letter, _) in items.items()} == {str(own): letter for own, letter in read.items()}
    assert values["accuracy"] == accuracy
    assert 0.05 < accuracy < 0.95


@counts
def test_scienceqa(count, tmp_path):
    rng = random.Random(count)
    texts = ugly.answers(count, count, ["A", "B", "A. x", "The answer is B.", "The answer is A", "B. ", "E"])
    problems, predictions = {}, {}
    for k, text in enumerate(texts):
        choices, shown = ["x", "y", "z", "w", "v"][: rng.randint(2, 5)], rng.random() < 0.7
        problems[str(k)] = {"question": "?", "choices": choices, "answer": rng.randrange(len(choices)), "hint": "",
                            "image": "image.png" if shown else None}  # fmt: skip
        if rng.random() > 0.1:
            predictions[str(k)] = {"question_id": str(k), "prompt": ("<image>\n" if shown else "") + "?", "text": text}
    official.as_json(tmp_path / "sqa" / "problems.json", problems)
    official.as_json(tmp_path / "sqa" / "pid_splits.json", {"test": list(problems)})
    answers = as_json_lines(tmp_path / "a.jsonl", predictions.values())
    values, _, items = scored("scienceqa", tmp_path / "sqa", answers, tmp_path, options={"text_only": True})
    read, accuracy, with_image = transcribed.scienceqa(problems, predictions)
    assert {name: letter or "FAILED" for name, (letter, _) in items.items()} == read
    assert (values["accuracy"], values["img_accuracy"]) == (accuracy, with_image)


@counts
def test_gqa(count, tmp_path):
    rng = random.Random(count)
    truths = ["yes", "no", "dog", "a dog", "traffic light", "2", "没有"]
    texts = ugly.answers(count, count, ["Yes", "no.", "No..", "Dog", "dog", "traffic light", "Yes. "])
    questions = {
        str(k): {"imageId": f"n{k // 5}", "question": "?", "answer": rng.choice(truths),
                 "isBalanced": rng.random() < 0.9,
                 "types": {"structural": rng.choice(["query", "verify", "choose"]), "semantic": "obj"}}
        for k in range(count)
    }  # fmt: skip
    path = official.as_json(tmp_path / "questions.json", questions)
    values, categories, items = scored("gqa", path, as_json_lines(tmp_path / "a.jsonl", records_of(texts)), tmp_path)
    right, accuracy, kinds = transcribed.gqa(questions, {str(k): text for k, text in enumerate(texts)})
    assert {name: bool(correct) for name, (_, correct) in items.items()} == right
    assert values["accuracy"] == accuracy
    assert {kind: categories[kind]["accuracy"] for kind in kinds} == kinds


POOL = ["nike", "Nike's", "the nike", "1998", "1,998", "two", "2", "ice-cream", "ice cream", "yes", "Yes", "a", "no.",
        "dont", "don't", " red", "re\td", "$5.00", "3.5", "no. 5.", "Im", "none", "没有"]  # fmt: skip


@counts
def test_vqav2(count, tmp_path):
    rng = random.Random(count)
    texts = ugly.answers(count, count, POOL)
    given = [[rng.choice(POOL[: rng.randint(1, len(POOL))]) for _ in range(10)] for _ in texts]
    questions = [{"image_id": k // 4, "question": "?", "question_id": k} for k in range(count)]
    annotations = [
        {"question_id": k, "answer_type": "other", "question_type": f"what {k % 3}",
         "answers": [{"answer": text, "answer_id": n} for n, text in enumerate(row)]}
        for k, row in enumerate(given)
    ]  # fmt: skip
    official.as_json(tmp_path / "v" / "q_questions.json", {"data_subtype": "val2014", "questions": questions})
    official.as_json(tmp_path / "v" / "q_annotations.json", {"annotations": annotations})
    answers = as_json_lines(tmp_path / "a.jsonl", records_of(texts))
    values, categories, items = scored("vqav2", tmp_path / "v", answers, tmp_path)
    scores, accuracy = transcribed.vqav2(list(zip(texts, given, strict=True)))
    for kind in range(3):  # perQuestionType
        found = categories[f"question type: what {kind}"]["accuracy"]
        assert round(100 * found, 2) == round(100 * float(sum(scores[kind::3])) / len(scores[kind::3]), 2)
    assert [items[str(k)][1] for k in range(count)] == scores
    assert round(100 * values["accuracy"], 2) == accuracy
    # LLaVA normalises before it uploads: the same script on the normalised answers
    values, _, items = scored("vqav2", tmp_path / "v", answers, tmp_path, options={"normalise": True})
    scores, accuracy = transcribed.vqav2([(transcribed.m4c(t), g) for t, g in zip(texts, given, strict=True)])
    assert [items[str(k)][1] for k in range(count)] == scores
    assert round(100 * values["accuracy"], 2) == accuracy


@counts
def test_textvqa(count, tmp_path):
    rng = random.Random(count)
    texts = ugly.answers(count, count, POOL)
    given = [[rng.choice(POOL[: rng.randint(1, len(POOL))]) for _ in range(10)] for _ in texts]
    data = [{"question_id": k, "image_id": f"i{k // 3}", "question": f"What IS thing {k}?", "answers": row}
            for k, row in enumerate(given)]  # fmt: skip
    path = official.as_json(tmp_path / "textvqa.json", {"data": data})
    rows = [{"question_id": f"i{k // 3}", "text": text,
             "prompt": f"What is Thing {k}?" + ("\nReference OCR token: x" if k % 2 else "") + SUFFIX}
            for k, text in enumerate(texts)]  # fmt: skip
    values, _, items = scored("textvqa", path, as_json_lines(tmp_path / "a.jsonl", rows), tmp_path)
    scores, accuracy = transcribed.textvqa(list(zip(texts, given, strict=True)))
    assert [items[str(k)][1] for k in range(count)] == scores
    assert values["accuracy"] == pytest.approx(accuracy, abs=1e-12)


@counts
def test_seed_bench(count, tmp_path):
    rng = random.Random(count)
    texts = dict(enumerate(ugly.answers(count, count, ["A", "B", "B.", " A", "C", "D"])))
    questions = []
    for k in range(count):
        kind = rng.randint(1, 12)
        options = {f"choice_{letter}": f"{letter} {k}" for letter in "abcd"}
        questions.append({"question_id": str(k), "question_type_id": kind, "data_id": f"{k // 2}", "question": "?",
                          "data_type": "image" if kind < 10 else "video", **options,
                          "answer": rng.choice("ABCD")})  # fmt: skip
    names = {f"ability {kind}": kind for kind in range(1, 13)}
    path = official.as_json(tmp_path / "seed.json", {"questions": questions, "question_type": names})
    answers = as_json_lines(tmp_path / "a.jsonl", records_of(texts.values()))
    values, categories, items = scored("seed_bench", path, answers, tmp_path)
    right, accuracy, kinds = transcribed.seed_bench(questions, {str(k): text for k, text in texts.items()})
    assert {name: bool(correct) for name, (_, correct) in items.items()} == right
    assert values["letter_accuracy"] == accuracy
    found = {kind: categories[f"ability: ability {kind}"]["letter_accuracy"] for kind in kinds}
    assert found == kinds


CAPTION = ["a bus", "two buses", "a man", "women", "people", "a toilet seat", "the seat of the toilet", "bow tie",
           "ties", "wine glasses", "a wine glass", "stove top oven", "motor bike", "motorbikes", "baby cat",
           "adult dogs", "cats", "home plate", "train track", "tennis racket", "dining table", "tables", "cheesecake",
           "child", "children's", "knives", "A dog.", "passenger train", "chairs and stools", "cakes",
           "puppies"]  # fmt: skip


def captions(seed, count):
    return dict(enumerate(ugly.answers(seed, count, CAPTION), start=1))


def coco(folder, count):
    """Images with up to two labels and two reference captions each; returns a function for the objects present."""
    rng = random.Random(count)
    names = ["person", "bus", "cat", "dog", "dining table", "chair", "toilet", "oven"]
    images = [{"id": k, "file_name": f"COCO_val2014_{k:012d}.jpg"} for k in range(1, count + 1)]
    labels = {k: rng.sample(range(len(names)), rng.randint(0, 2)) for k in range(1, count + 1)}
    references = {k: ugly.answers(k, 2, CAPTION) for k in labels}
    annotations = [{"image_id": k, "category_id": n} for k, found in labels.items() for n in found]
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    instances = {"images": images, "categories": categories, "annotations": annotations}
    as_json_text(folder / "instances_val2014.json", instances)
    texts = [{"image_id": k, "caption": text} for k, pair in references.items() for text in pair]
    as_json_text(folder / "captions_val2014.json", {"annotations": texts})
    for file in ("synonyms.txt", "synonyms_refine.txt"):
        (folder / file).write_text(official.SYNONYMS, encoding="utf-8")
    rows = [{"image_id": k, "image": f"{k}.jpg", "text": "Describe.", "question": "Describe."} for k in labels]
    official.jsonl(folder / "questions.jsonl", rows)

    def truth(words_of):
        return {
            k: {names[n] for n in labels[k]} | {node for text in references[k] for _, node in words_of(text)}
            for k in labels
        }

    return truth


@counts
def test_chair(count, tmp_path):
    truth_by = coco(tmp_path / "coco", count // 2)
    said = captions(count, count // 2)
    lines = official.SYNONYMS.splitlines()
    words_of = functools.partial(transcribed.caption_words, synonyms=lines, split=tokenizer()[0], base=pattern_singular)
    rows = [{"image_id": k, "caption": text} for k, text in said.items()]
    values, _, items = scored("chair", tmp_path / "coco", as_json_lines(tmp_path / "a.jsonl", rows), tmp_path)
    invented, sentences, mentions = transcribed.chair(said, truth_by(words_of), words_of)
    assert {name: correct == 1.0 for name, (_, correct) in items.items()} == {
        str(k): not w for k, w in invented.items()
    }
    assert (values["chair_s"], values["chair_i"]) == (sentences, mentions)
    assert 0.1 < sentences < 0.99


@counts
def test_object_halbench(count, tmp_path):
    truth_by = coco(tmp_path / "coco", count // 2)
    said = captions(count + 1, count // 2)
    lines = official.SYNONYMS.splitlines()
    words_of = functools.partial(
        transcribed.caption_words, synonyms=lines, split=tokenizer()[0], base=noun_lemma()[0], refined=True
    )
    truth = truth_by(words_of)
    rows = [{"image_id": k, "question": "Describe.", "answer": f"Assistant: {text}"} for k, text in said.items()]
    path = tmp_path / "coco" / "questions.jsonl"
    values, _, _ = scored("object_halbench", path, as_json_lines(tmp_path / "a.jsonl", rows), tmp_path)
    different = {k: list(dict.fromkeys(words_of(text.replace("Assistant:", "").strip()))) for k, text in said.items()}
    wrong = {k: [word for word, node in found if node not in truth[k]] for k, found in different.items()}
    with_objects = sum(bool(found) for found in different.values())
    assert values["chair_s"] == sum(map(bool, wrong.values())) / with_objects
    assert values["chair_i"] == sum(map(len, wrong.values())) / sum(map(len, different.values()))
    right = sum(len({node for _, node in found if node in truth[k]}) for k, found in different.items())
    assert values["recall"] == right / sum(map(len, truth.values()))
    assert values["mean_words"] == sum(len(text.strip().split(" ")) for text in said.values()) / len(said)


@counts
def test_amber_descriptions(count, tmp_path):
    rng = random.Random(count)
    association = {"sky": ["cloud"], "man": ["person", "boy"], "bird": ["wing"], "dog": ["puppy", "boy"],
                   "cat": ["kitten"], "bus": [], "grass": ["lawn"], "light": ["lamp"]}  # fmt: skip
    safe = {"light", "person"}
    vectors = {"sky": "1 0 0", "cloud": "0.9 0.2 0", "bird": "0.95 0.1 0", "dog": "0 1 0", "puppy": "0 0.95 0.1",
               "cat": "0 0.79 0.61", "kitten": "0 0.7 0.7", "man": "0 0 1", "boy": "0.1 0 1"}  # fmt: skip
    items = [
        {"id": k, "type": "generative", "truth": rng.choices(list(association), k=rng.randint(0, 3)),
         "hallu": rng.sample(list(association), rng.randint(0, 3))}
        for k in range(1, count + 1)
    ]  # fmt: skip
    data = tmp_path / "amber"
    official.as_json(data / "annotations.json", items)
    official.as_json(data / "relation.json", association)
    (data / "safe_words.txt").write_text("\n".join(sorted(safe)), encoding="utf-8")
    queries = [{"id": item["id"], "image": f"{item['id']}.jpg", "query": "Describe."} for item in items]
    official.as_json(data / "query" / "query_generative.json", queries)
    file = tmp_path / "vectors.txt"
    file.write_text("".join(f"{word} {numbers}\n" for word, numbers in vectors.items()), encoding="utf-8")
    extra = ["a man", "birds", "the sky", "puppies", "clouds", "lights", "boys", "cats and dogs", "a kitten", "buses"]
    said = captions_of(count, extra)
    rows = [{"id": k, "response": text} for k, text in said.items()]
    values, _, found = scored("amber", data, as_json_text(tmp_path / "a.json", rows), tmp_path,
                              options={"part": "generative", "vectors": str(file)})  # fmt: skip
    vocabulary = {word for name, words in association.items() for word in (name, *words)}
    nouns = tagged_nouns()[0] if tagged_nouns() else known_nouns(vocabulary)
    similar = cosine({word: [float(n) for n in numbers.split()] for word, numbers in vectors.items()})
    counted = [transcribed.amber_caption(nouns(said[i["id"]]), i, association, safe, similar) for i in items]
    assert {name: correct == 1.0 for name, (_, correct) in found.items()} == {
        str(item["id"]): sum(flags) == 0 for item, (flags, _, _) in zip(items, counted, strict=True)
    }
    figures = transcribed.amber_generative(counted, items)
    assert {name: values[name] for name in figures} == {name: value / 100 for name, value in figures.items()}


def captions_of(count, extra):
    return dict(enumerate(ugly.answers(count, count, extra), start=1))


def cosine(vectors):
    def similar(first, second):
        if first not in vectors or second not in vectors:
            return False
        a, b = vectors[first], vectors[second]
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / (sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5) > 0.8

    return similar


def as_json_lines(path, rows):
    """Lone surrogates are escaped, as by Python's `json.dumps`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_json_text(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path
