"""Small official files of every benchmark in their authors' formats."""

import base64
import csv
import io
import json

from PIL import Image

from pairsight.benchmarks.protocol import Sample
from pairsight.benchmarks.suites.pope import SPLITS
from pairsight.records import ImageRef, Message, Prompt


class Names:
    """Images by name only."""

    def ref(self, name, *others):
        return ImageRef(f"name:{name}")

    def add(self, data, name):
        return ImageRef(f"bytes:{name}")


def sample(name, target, text="?"):
    return Sample(name, Prompt(name, (Message("user", text),)), name, target)


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def as_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def picture(shade=0):
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(data, "PNG")
    return data.getvalue()


def pope(folder, count=4):
    for split in SPLITS:
        rows = [
            {"question_id": k, "image": f"{k % 2}.jpg", "text": f"Is there a thing {k} in the image?",
             "label": "yes" if k % 2 else "no"}
            for k in range(1, count + 1)
        ]  # fmt: skip
        jsonl(folder / f"coco_pope_{split}.json", rows)
    return folder


def mme(folder, tasks=("existence", "color", "code_reasoning")):
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        lines = [
            f"{k}.jpg\tIs it {question} in picture {k}? Please answer yes or no.\t{label}\n"
            for k in (1, 2)
            for question, label in (("there", "Yes"), ("absent", "No"))
        ]
        (folder / f"{task}.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def mmbench(path, rows=None):
    """Two questions: 0 with two options and two rotations, 1 with three options and one rotation."""
    names = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split"]
    image = base64.b64encode(picture()).decode()
    rows = rows or [
        [0, "What is it?", "", "cat", "dog", "", "", "A", "identity", image, "coarse", "dev"],
        [1, "Which colour?", "Look at\nthe mat.", "red", "blue", "None", "", "B", "colour", image, "fine", "dev"],
        [1000000, "What is it?", "", "dog", "cat", "", "", "B", "identity", 0, "coarse", "dev"],
        [1000001, "Which colour?", "Look at\nthe mat.", "blue", "red", "None", "", "A", "colour", 1, "fine", "dev"],
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([names, *rows])
    return path


def scienceqa(folder):
    problems = {
        "1": {"question": "Q one?", "choices": ["x", "y"], "answer": 1, "hint": "", "image": "image.png",
              "subject": "natural science", "grade": "grade 2"},
        "2": {"question": "Q two?", "choices": ["x", "y", "z"], "answer": 2, "hint": "Some context.",
              "image": "image.png", "subject": "language science", "grade": "grade 8"},
        "3": {"question": "Text only?", "choices": ["x", "y"], "answer": 0, "hint": "", "image": None,
              "subject": "social science", "grade": "grade 8"},
        "4": {"question": "Training?", "choices": ["x", "y"], "answer": 0, "hint": "", "image": None},
    }  # fmt: skip
    as_json(folder / "problems.json", problems)
    as_json(folder / "pid_splits.json", {"train": ["4"], "test": ["1", "2", "3"]})
    return folder


def gqa(path):
    questions = {
        "101": {"imageId": "n1", "question": "Is it red?", "answer": "yes", "isBalanced": True,
                "types": {"structural": "verify", "semantic": "attr"}},
        "102": {"imageId": "n1", "question": "What is it?", "answer": "traffic light", "isBalanced": True,
                "types": {"structural": "query", "semantic": "obj"}},
        "103": {"imageId": "n2", "question": "Skipped?", "answer": "no", "isBalanced": False,
                "types": {"structural": "verify", "semantic": "rel"}},
    }  # fmt: skip
    return as_json(path, questions)


def vqav2(folder, labelled=True):
    questions = [{"image_id": 42, "question": "How many?", "question_id": 420},
                 {"image_id": 42, "question": "Is it?", "question_id": 421}]  # fmt: skip
    as_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"data_subtype": "val2014", "questions": questions})
    given = {420: ["2"] * 6 + ["two", "3", "3", "four"], 421: ["yes"] * 10}
    annotations = [
        {"question_id": name, "image_id": 42, "answer_type": "number" if name == 420 else "yes/no",
         "answers": [{"answer": text, "answer_id": k} for k, text in enumerate(given[name], start=1)]}
        for name in given
    ]  # fmt: skip
    if labelled:
        as_json(folder / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    return folder


def textvqa(path):
    data = [
        {"question_id": 7, "image_id": "abc", "question": "What Brand?", "answers": ["nike"] * 4 + ["Nike's"] * 6},
        {"question_id": 8, "image_id": "abc", "question": "What year?", "answers": ["1998"] * 10},
    ]
    return as_json(path, {"dataset_type": "val", "data": data})


def seed_bench(path):
    questions = [
        {"question_id": "11", "question_type_id": 1, "data_id": "a.jpg", "data_type": "image", "question": "What?",
         "choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": 4, "answer": "B"},
        {"question_id": "12", "question_type_id": 9, "data_id": "b.jpg", "data_type": "image", "question": "Who?",
         "choice_a": "He", "choice_b": "She", "choice_c": "They", "choice_d": "It", "answer": "D"},
        {"question_id": "13", "question_type_id": 10, "data_id": "c.mp4", "data_type": "video", "question": "When?",
         "choice_a": "Now", "choice_b": "Then", "choice_c": "Soon", "choice_d": "Never", "answer": "A"},
    ]  # fmt: skip
    return as_json(path, {"questions": questions, "question_type": {"Scene Understanding": 1, "Text": 9, "Action": 10}})


SYNONYMS = """person, man, woman, people, child
bus, minibus
motorcycle, scooter,  motor bike, motorbike
cat, kitten
dog, puppy
oven, stove, stove top oven
tie, bow, bow tie
wine glass
chair, seat, stool
toilet
tennis racket, racket
dining table, table
cake,  cheesecake
"""


def coco(folder):
    """Image 1: a cat labelled, "a bus" and "a man" in captions; image 2: a table labelled."""
    names = ["person", "bus", "cat", "dining table"]
    images = [{"id": k, "file_name": f"COCO_val2014_{k:012d}.jpg"} for k in (1, 2)]
    labels = {
        "images": images, "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
        "annotations": [{"image_id": 1, "category_id": 2}, {"image_id": 2, "category_id": 3}],
    }  # fmt: skip
    captions = {
        "annotations": [{"image_id": 1, "caption": "A man. And two buses!"}, {"image_id": 1, "caption": "Cats"}]
    }
    as_json(folder / "instances_val2014.json", labels)
    as_json(folder / "captions_val2014.json", captions)
    (folder / "synonyms.txt").write_text(SYNONYMS, encoding="utf-8")
    return folder


def object_halbench(folder):
    coco(folder)
    (folder / "synonyms_refine.txt").write_text(SYNONYMS, encoding="utf-8")
    image = base64.b64encode(picture()).decode()
    rows = [{"image_id": k, "question": "Describe.", "image": image} for k in (1, 2)]
    return jsonl(folder / "obj_halbench.jsonl", rows)


def amber(folder):
    """Two descriptions, and one question of each yes-no kind twice."""
    types = ["hallucination", "attribute-state", "attribute-number", "attribute-action", "relation"]
    annotations = [
        {"id": 1, "type": "generative", "truth": ["sky", "man"], "hallu": ["bird"]},
        {"id": 2, "type": "generative", "truth": ["dog"], "hallu": ["cat", "sky"]},
    ]
    for number, kind in enumerate([*types, *types], start=3):
        truth = "no" if kind == "hallucination" or number % 2 else "yes"
        full = "relation" if kind == "relation" else f"discriminative-{kind}"
        annotations.append({"id": number, "type": full, "truth": truth})
    relations = {"sky": [], "man": ["person", "boy"], "bird": ["wing"], "dog": ["puppy"], "cat": ["kitten"]}
    queries = [{"id": a["id"], "image": f"AMBER_{a['id']}.jpg", "query": f"Query {a['id']}?"} for a in annotations]
    as_json(folder / "annotations.json", annotations)
    as_json(folder / "relation.json", relations)
    (folder / "safe_words.txt").write_text("light\nperson", encoding="utf-8")
    as_json(folder / "query" / "query_all.json", queries)
    as_json(folder / "query" / "query_discriminative.json", queries[2:])
    return folder
