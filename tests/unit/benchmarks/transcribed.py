"""Plain reimplementations of the official scorers, independent of our code, each from its authors' script.

Each takes the script's input and returns its decision per item and the metrics it prints. Tools that the scripts import
(a tokenizer, a lemmatizer, word vectors) are arguments.
"""

import re
from collections import defaultdict

CONTRACTED = """
aint ain't, arent aren't, cant can't, couldve could've, couldnt couldn't, couldn'tve couldn't've,
couldnt've couldn't've, didnt didn't, doesnt doesn't, dont don't, hadnt hadn't, hadnt've hadn't've,
hadn'tve hadn't've, hasnt hasn't, havent haven't, hed he'd, hed've he'd've, he'dve he'd've, hes he's, howd how'd,
howll how'll, hows how's, Id've I'd've, I'dve I'd've, Im I'm, Ive I've, isnt isn't, itd it'd, itd've it'd've,
it'dve it'd've, itll it'll, let's let's, maam ma'am, mightnt mightn't, mightnt've mightn't've, mightn'tve mightn't've,
mightve might've, mustnt mustn't, mustve must've, neednt needn't, notve not've, oclock o'clock, oughtnt oughtn't,
ow's'at 'ow's'at, 'ows'at 'ow's'at, 'ow'sat 'ow's'at, shant shan't, shed've she'd've, she'dve she'd've, she's she's,
shouldve should've, shouldnt shouldn't, shouldnt've shouldn't've, shouldn'tve shouldn't've, somebody'd somebodyd,
somebodyd've somebody'd've, somebody'dve somebody'd've, somebodyll somebody'll, somebodys somebody's,
someoned someone'd, someoned've someone'd've, someone'dve someone'd've, someonell someone'll, someones someone's,
somethingd something'd, somethingd've something'd've, something'dve something'd've, somethingll something'll,
thats that's, thered there'd, thered've there'd've, there'dve there'd've, therere there're, theres there's,
theyd they'd, theyd've they'd've, they'dve they'd've, theyll they'll, theyre they're, theyve they've, twas 'twas,
wasnt wasn't, wed've we'd've, we'dve we'd've, weve we've, werent weren't, whatll what'll, whatre what're, whats what's,
whatve what've, whens when's, whered where'd, wheres where's, whereve where've, whod who'd, whod've who'd've,
who'dve who'd've, wholl who'll, whos who's, whove who've, whyll why'll, whyre why're, whys why's, wont won't,
wouldve would've, wouldnt wouldn't, wouldnt've wouldn't've, wouldn'tve wouldn't've, yall y'all, yall'll y'all'll,
y'allll y'all'll, yall'd've y'all'd've, y'alld've y'all'd've, y'all'dve y'all'd've, youd you'd, youd've you'd've,
you'dve you'd've, youll you'll, youre you're, youve you've
"""
CONTRACTIONS = dict(pair.split() for pair in " ".join(CONTRACTED.split()).split(", "))
DIGITS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
          "seven": "7", "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")


def pope(answers, labels):
    """evaluate.py: (yes or no per answer, accuracy, precision, recall, F1, yes ratio)."""
    read = []
    for text in answers:
        sentence = text.split(".")[0] if text.find(".") != -1 else text
        words = sentence.replace(",", "").split(" ")
        read.append("no" if "No" in words or "not" in words or "no" in words else "yes")
    pairs = list(zip(read, labels, strict=True))
    tp, fp = pairs.count(("yes", "yes")), pairs.count(("yes", "no"))
    tn, fn = pairs.count(("no", "no")), pairs.count(("no", "yes"))
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    figures = {
        "accuracy": (tp + tn) / len(pairs), "precision": precision, "recall": recall,
        "f1": 2 * precision * recall / (precision + recall), "yes_rate": read.count("yes") / len(read),
    }  # fmt: skip
    return read, figures


def mme_task(lines):
    """calculation.py on the lines of one task file: (yes, no or other per line, the task's score)."""
    read, right, both = [], 0, 0
    for first in range(0, len(lines), 2):
        correct = 0
        for line in lines[first : first + 2]:
            _, _, truth, answer = line.split("\t")
            truth, answer = truth.lower(), answer.lower()
            if answer not in ("yes", "no"):
                head = answer[:4]
                answer = "yes" if "yes" in head else ("no" if "no" in head else "other")
            read.append(answer)
            correct += answer == truth
        right, both = right + correct, both + (correct == 2)
    return read, right / len(lines) * 100 + both / (len(lines) // 2) * 100


def mmbench_choice(answer, choices):
    """can_infer of VLMEvalKit d21c5e9: a letter, "Z", or None."""
    if "Failed to obtain answer via API" not in answer:
        refusals = ["Sorry, I can't help with images of people yet.", "I can't process this file.",
                    "I'm sorry, but without the image provided", "Cannot determine the answer"]  # fmt: skip
        if any(refusal in answer for refusal in refusals):
            return "Z"
        spaced = answer
        for mark in ".()[],:;!*#{}":
            spaced = spaced.replace(mark, " ")
        tokens = [token.strip() for token in spaced.split()]
        count = sum(letter in tokens for letter in choices)
        if count == 1:
            for letter in choices:
                if letter in tokens and tokens.index(letter) > len(tokens) - 5:
                    return letter
        elif count == 0 and "Z" in tokens:
            return "Z"
        said = re.search(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", answer)
        if said and said.group(1).upper() in choices:
            return said.group(1).upper()
    low = answer.lower()
    if len(low) > 2 * sum(len(text) for text in choices.values()):
        return None
    inside = [letter for letter, text in choices.items() if text.lower() in low]
    return inside[0] if len(inside) == 1 else None


def mmbench(rows, answers):
    """Circular evaluation: (letter per index, share of questions with all rotations correct)."""
    read = {index: mmbench_choice(answers[index], choices) for index, choices, _ in rows}
    hits = defaultdict(list)
    for index, _, truth in rows:
        hits[int(index % 1e6)].append(read[index] == truth)
    return read, sum(map(all, hits.values())) / len(hits)


def scienceqa(problems, predictions):
    """LLaVA's eval_science_qa.py: (letter or FAILED per problem, accuracy of all, of those with an image)."""
    letters = ["A", "B", "C", "D", "E"]
    read, results = {}, []
    for name, problem in problems.items():
        prediction = predictions.get(name, {"text": "FAILED", "prompt": "Unknown"})
        text = prediction["text"]
        if text in letters:
            answer = text
        elif len(text) >= 3 and text[0] in letters and text[1:3] == ". ":
            answer = text[0]
        else:
            found = re.findall(r"The answer is ([A-Z]).", text)
            answer = found[0] if len(found) == 1 else "FAILED"
        index = letters.index(answer) if answer in letters[: len(problem["choices"])] else -1
        read[name] = answer
        results.append((index == problem["answer"], "<image>" in prediction["prompt"]))
    with_image = [right for right, shown in results if shown]
    return read, sum(right for right, _ in results) / len(results), sum(with_image) / len(with_image)


def gqa(questions, predictions):
    """LLaVA's conversion, then eval.py: (right per balanced question, accuracy, by binary and open)."""
    converted = {name: text.rstrip(".").lower() for name, text in predictions.items()}
    right = {name: converted[name] == q["answer"] for name, q in questions.items() if q["isBalanced"]}
    kinds = defaultdict(list)
    for name, hit in right.items():
        kinds["open" if questions[name]["types"]["structural"] == "query" else "binary"].append(hit)
    return right, sum(right.values()) / len(right), {kind: sum(hits) / len(hits) for kind, hits in kinds.items()}


def _punctuation(text, comma):
    out = text
    for mark in [
        ";",
        "/",
        "[",
        "]",
        '"',
        "{",
        "}",
        "(",
        ")",
        "=",
        "+",
        "\\",
        "_",
        "-",
        ">",
        "<",
        "@",
        "`",
        ",",
        "?",
        "!",
    ]:
        if (mark + " " in text or " " + mark in text) or re.search(comma, text) is not None:
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    return re.compile(r"(?!<=\d)(\.)(?!\d)").sub("", out, 32)


def _digits_and_articles(text):
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ("a", "an", "the"))


def m4c(text):
    """EvalAIAnswerProcessor of the M4C evaluator."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return _digits_and_articles(_punctuation(text, r"(?<=\d)(\,)+(?=\d)"))


def textvqa(pairs):
    """TextVQAAccuracyEvaluator on (answer, ten answers): (score per answer, mean)."""
    scores = []
    for answer, given in pairs:
        truth = list(enumerate(m4c(text) for text in given))
        by_answer = {}
        for unique in {text for _, text in truth}:
            accuracies = []
            for one in truth:
                others = [other for other in truth if other != one and other[1] == unique]
                accuracies.append(min(1, float(len(others)) / 3))
            by_answer[unique] = sum(accuracies) / len(accuracies)
        scores.append(by_answer.get(m4c(answer), 0.0))
    return scores, sum(scores) / len(scores)


def vqav2(pairs):
    """vqaEval.py on (answer, ten answers): (accuracy per answer, mean in percent with two digits)."""
    scores = []
    for raw, given in pairs:
        answer = raw.replace("\n", " ").replace("\t", " ").strip()
        truth = [{"id": n, "answer": g.replace("\n", " ").replace("\t", " ").strip()} for n, g in enumerate(given)]
        if len({one["answer"] for one in truth}) > 1:
            for one in truth:
                one["answer"] = _digits_and_articles(_punctuation(one["answer"], r"(\d)(\,)(\d)"))
            answer = _digits_and_articles(_punctuation(answer, r"(\d)(\,)(\d)"))
        accuracies = []
        for one in truth:
            matching = [other for other in truth if other != one and other["answer"] == answer]
            accuracies.append(min(1, float(len(matching)) / 3))
        scores.append(float(sum(accuracies)) / len(accuracies))
    return scores, round(100 * float(sum(scores)) / len(scores), 2)


def seed_bench(questions, texts):
    """convert_seed_for_submission.py, images only: (right per id, accuracy, accuracy by type)."""
    right, types = {}, defaultdict(list)
    for question in questions:
        if question["data_type"] == "image":
            right[question["question_id"]] = texts[question["question_id"]] == question["answer"]
            types[question["question_type_id"]].append(right[question["question_id"]])
    return right, sum(right.values()) / len(right), {kind: sum(hits) / len(hits) for kind, hits in types.items()}


DOUBLES = [
    "motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal", "stop light",
    "fire hydrant", "stop sign", "parking meter", "suit case", "sports ball", "baseball bat", "baseball glove",
    "tennis racket", "wine glass", "hot dog", "cell phone", "mobile phone", "teddy bear", "hair drier", "potted plant",
    "bow tie", "laptop computer", "stove top oven", "home plate", "train track",
]  # fmt: skip


def _double_words(pairs):
    table = {pair: pair for pair in pairs}
    for animal in ANIMALS:
        table[f"baby {animal}"] = table[f"adult {animal}"] = animal
    for vehicle in ("jet", "train"):
        table[f"passenger {vehicle}"] = vehicle
    return table | {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}


def caption_words(caption, synonyms, split, base, *, refined=False):
    """caption_to_words of chair.py, or of RLHF-V's script: [(word, object)].

    `synonyms` are the lines of the table; RLHF-V strips its words and joins all its word pairs.
    """
    inverse = {}
    for line in synonyms:
        words = line.strip().split(", ")
        for word in words:
            inverse[word.strip() if refined else word] = words[0].strip() if refined else words[0]
    pairs = [*(w for w in inverse if len(w.split(" ")) >= 2), "home plate", "train track"] if refined else DOUBLES
    doubles = _double_words(pairs)
    words = [base(word) for word in split(caption.lower())]
    joined, i = [], 0
    while i < len(words):
        pair = " ".join(words[i : i + 2])
        if pair in doubles:
            joined.append(doubles[pair])
            i += 2
        else:
            joined.append(words[i])
            i += 1
    if "toilet" in joined and "seat" in joined:
        joined = [word for word in joined if word != "seat"]
    return [(word, inverse[word]) for word in joined if word in inverse]


def chair(captions, truth, words_of):
    """compute_chair: (invented words per image, CHAIRs, CHAIRi)."""
    invented, mentions, sentences = {}, 0, 0
    for image, caption in captions.items():
        found = words_of(caption)
        mentions += len(found)
        invented[image] = [word for word, node in found if node not in truth[image]]
        sentences += bool(invented[image])
    return invented, sentences / len(captions), sum(map(len, invented.values())) / mentions


def amber_caption(nouns, item, association, safe, similar):
    """inference.py on one description's nouns: (noun is unsupported per noun, objects covered, made up)."""
    vocabulary = {word for name, words in association.items() for word in [name, *words]}
    nouns = [noun for noun in nouns if noun in vocabulary]

    def spread(names):
        words, marks = [], []
        for index, name in enumerate(names):
            words += association[name]
            marks += [index] * len(association[name])
        return words + list(names), marks + [0] * len(names)

    def mark(marks, names, j):
        start = len(marks) - len(names)
        marks[marks[j] + start if j < start else j] = 1

    there, there_marks = spread(item["truth"])
    likely, likely_marks = spread(item["hallu"])
    unsupported = [0] * len(nouns)
    for index, noun in enumerate(nouns):
        if noun in safe:
            continue
        if noun in there:
            mark(there_marks, item["truth"], there.index(noun))
            continue
        if noun in likely:
            mark(likely_marks, item["hallu"], likely.index(noun))
        for j, word in enumerate(likely):
            if similar(noun, word):
                mark(likely_marks, item["hallu"], j)
                break
        for j, word in enumerate(there):
            if similar(noun, word):
                mark(there_marks, item["truth"], j)
                break
        else:
            unsupported[index] = 1
    covered = sum(there_marks[-len(item["truth"]) :]) if item["truth"] else 0
    made_up = sum(likely_marks[-len(item["hallu"]) :]) if item["hallu"] else 0
    return unsupported, covered, made_up


def amber_generative(counts, items):
    """The four metrics that inference.py prints for all descriptions, in percent."""

    def share(top, bottom):
        return round(top / (bottom + 0.001) * 100, 1)

    unsupported = [flags for flags, _, _ in counts]
    clean = sum(sum(flags) == 0 for flags in unsupported)
    return {
        "chair": share(sum(map(sum, unsupported)), sum(map(len, unsupported))),
        "cover": share(sum(covered for _, covered, _ in counts), sum(len(item["truth"]) for item in items)),
        "hal": round(100 - clean / (len(counts) + 0.001) * 100, 1),
        "cog": share(sum(made_up for _, _, made_up in counts), sum(len(item["hallu"]) for item in items)),
    }  # fmt: skip
