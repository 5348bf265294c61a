"""A folder of NLTK data made by hand: sentence ends, a tagger that knows a few words, and a WordNet of a few nouns."""

import json

NOUNS = ("dog", "man", "men", "bus", "leaf", "woman", "cat", "grass", "glass", "glasses", "people", "wolf", "sky")
EXCEPTIONS = ("men man", "women woman", "wolves wolf")
TAGS = {"dogs": "NNS", "runs": "VBZ", "quickly": "RB", "A": "DT", "a": "DT", "the": "DT", "men": "NNS", "on": "IN"}


def nltk_folder(folder):
    """Write it; unknown words are tagged as nouns, and the period of "approx." does not end a sentence."""
    punkt = folder / "tokenizers" / "punkt_tab" / "english"
    punkt.mkdir(parents=True)
    for name, text in (("collocations.tab", ""), ("sent_starters.txt", ""), ("ortho_context.tab", "")):
        (punkt / name).write_text(text)
    (punkt / "abbrev_types.txt").write_text("approx\n")
    tagger = folder / "taggers" / "averaged_perceptron_tagger_eng"
    tagger.mkdir(parents=True)
    parts = {"weights": {"bias": {"NN": 1.0}}, "tagdict": TAGS, "classes": ["DT", "IN", "NN", "NNS", "RB", "VBZ"]}
    for name, value in parts.items():
        (tagger / f"averaged_perceptron_tagger_eng.{name}.json").write_text(json.dumps(value))
    wordnet = folder / "corpora" / "wordnet"
    wordnet.mkdir(parents=True)
    for part in ("adj", "adv", "verb", "noun"):
        (wordnet / f"index.{part}").write_text("")
        (wordnet / f"data.{part}").write_text("")
        (wordnet / f"{part}.exc").write_text("")
    for name in ("cntlist.rev", "index.sense"):
        (wordnet / name).write_text("")
    (wordnet / "lexnames").write_text("00\tadj.all\t3\n")
    (wordnet / "data.adj").write_text("  1 WordNet 3.0 Copyright\n")
    lines = [f"{word} n 1 0 1 1 {number:08d}  \n" for number, word in enumerate(sorted(NOUNS), start=1)]
    (wordnet / "index.noun").write_text("".join(lines))
    (wordnet / "noun.exc").write_text("".join(f"{line}\n" for line in EXCEPTIONS))
    return folder
