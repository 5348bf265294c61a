"""SHR: sentence-level hallucination of detailed descriptions of 200 Visual Genome images, by a judge.

Source: Z. Zhao et al., HA-DPO (2311.16839); the rule is that of `shr_eval` (github.com/opendatalab/HA-DPO): the
description is cut at periods, sentences within earlier ones are dropped, and the judge calls each of the others
hallucination, correct or cannot judge. The ratio is over sentences that are one of the three.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from pairsight.benchmarks.files import answers as answer_files
from pairsight.benchmarks.files import official as files
from pairsight.benchmarks.files import visual_genome
from pairsight.benchmarks.files.scripts import filled
from pairsight.benchmarks.judged import JudgedBenchmark
from pairsight.benchmarks.metrics import rate
from pairsight.benchmarks.protocol import JudgeQuestion, JudgeVerdict, Reading, Sample, SampleImages, Verdicts

_QUESTION = "Describe this image in detail."
_LONGEST_PROMPT = 15_000
"""Characters; the script asks nothing longer."""
_TRIES = 10
"""Verdicts until one has a judgement (ours: the script asks for ever)."""
_KINDS = ("hallucination", "correct", "cannot judge")
_GRAMS = (1, 2, 3, 4)
_OWN_PROMPT = """Regions of an image, as [x1, y1, x2, y2] (shares of its width and height): what is there.
{}
What else is known of the image:
{}
Sentences of a description of it:
{}
Say of each sentence whether these facts contradict or do not support what it names (hallucination), support it \
(correct), or say nothing that could decide (cannot judge), e.g. for mood or style. Write:
Judgement:
1. hallucination or correct or cannot judge: the reason
and so on, a line for each sentence."""


class Shr(JudgedBenchmark):
    """SHR from its folder: `val_images_final.json`, `shr_factual_part1.jsonl`, `shr_factual_part2.jsonl`.

    Visual Genome's `image_data.json` and `region_descriptions.json` are in the folder that an option names; images are
    called as there, e.g. `VG_100K/2.jpg`. The judge's prompt is the text GPT_JUDGE_PROMPT of the authors'
    `gpt_utils.py`, which is never run. Answers are `{image_id: text}`, verdicts the script's `judgement.json`. The
    figures `distinct_n` are what the script calls gram-n-repetition: different n-grams over all n-grams.
    """

    visual_genome: str | None = Field(None, description="folder of Visual Genome's files; default: the benchmark's")
    script: str | None = Field(None, description="gpt_utils.py; default: in the benchmark's folder")
    num_beams: int = Field(5, ge=1, le=64, description="beams of the search for an answer; an endpoint has 1 only")

    name = "shr"
    title = "SHR"
    published = "its authors publish it at huggingface.co/datasets/juliozhao/hadpo-data"
    source = "shr"
    original_judge = "gpt-4"
    columns = (
        "hallucinating", "judged", "hallucinating_words", "judged_words", "sentences", "words", "images",
        *(f"{kind}_{n}" for n in _GRAMS for kind in ("distinct", "counted")),
    )  # fmt: skip
    metrics: ClassVar = {
        "hallucination": rate("hallucinating", "judged", "lower"),
        "hallucinating_words": rate("hallucinating_words", "judged_words", "lower"),
        "hallucinating_sentences_per_image": rate("hallucinating", "images", "lower"),
        "hallucinating_words_per_image": rate("hallucinating_words", "images", "lower"),
        "sentences_per_image": rate("sentences", "images", "neither"),
        "words_per_image": rate("words", "images", "neither"),
        **{f"distinct_{n}": rate(f"distinct_{n}", f"counted_{n}", "higher") for n in _GRAMS},
    }
    max_new_tokens = 512

    @property
    def sampling(self) -> Any:
        """A search over beams, as the authors' script."""
        return super().sampling.model_copy(update={"num_beams": self.num_beams})

    def load(self, path: Path, images: SampleImages) -> Iterator[tuple[Sample, ...]]:
        """One group per image; the id is Visual Genome's.

        Raises:
            DataError: a missing file, a record that lacks a field, or an image that Visual Genome's files do not have.
        """
        genome = Path(self.visual_genome) if self.visual_genome else path
        prompt = self.wording(self.script, path / "gpt_utils.py", "GPT_JUDGE_PROMPT", _OWN_PROMPT)
        listed = path / "val_images_final.json"
        wanted = [record.with_id("image_id") for record in self.records(listed, self.document(listed))]
        ids = {record.id for record in wanted}
        sizes, regions = (
            visual_genome.of_images(genome / name, ids) for name in ("image_data.json", "region_descriptions.json")
        )
        facts = visual_genome.known_facts(path)
        for record in wanted:
            if record.id not in sizes or record.id not in regions:
                missing = "image_data.json" if record.id not in sizes else "region_descriptions.json"
                raise record.error(f"{genome / missing} has no image {record.id}", reason="foreign_id")
            size = sizes[record.id]
            known = visual_genome.described(size, list(regions[record.id].listed("regions")))
            target = {"regions": known, "facts": facts.get(record.id, ""), "prompt": prompt}
            image = record.image_called(images, "/".join(size.text("url").split("/")[-2:]))
            yield (self.sample(record.id, _QUESTION, [image], cluster=record.id, target=target),)

    def ask(self, group: tuple[Sample, ...], answers: Sequence[str], verdicts: Verdicts) -> Iterator[JudgeQuestion]:
        """The authors' prompt, again until a verdict has a judgement; nothing where it is too long."""
        (sample,), (answer,) = group, answers
        tried = verdicts.get(sample.id, ())
        done = bool(tried) and (tried[-1].text is None or "Judgement" in tried[-1].text)
        text = self._told(sample, answer)
        if not done and len(tried) < _TRIES and len(text) <= _LONGEST_PROMPT:
            yield self.question(sample, ("user", text), temperature=0.7, max_new_tokens=800)

    def failures(self, group: tuple[Sample, ...]) -> Mapping[str, str]:
        """As of any judge; a prompt that is too long to be asked is said to be so."""
        why = f"not judged: the judge's prompt has more than {_LONGEST_PROMPT:,} characters"
        known = self.verdicts()
        return {name: said if name in known else why for name, said in super().failures(group).items()}

    def read_verdicts(
        self, sample: Sample, answer: str, verdicts: tuple[JudgeVerdict, ...], *, official: bool
    ) -> Reading:
        """The kinds of the sentences; one of other sentences counts none (official) or is left out (robust)."""
        sentences = [f"{sentence}." for sentence in sentences_of(answer)]
        kinds = kinds_of(verdicts[-1].text or "")
        fits = len(kinds) == len(sentences)
        if not fits and not official:
            return self.unjudged(kinds)
        lengths = [len(sentence.split(" ")) for sentence in sentences]
        judged = [(n, kind) for n, kind in zip(lengths, kinds, strict=True) if kind in _KINDS] if fits else []
        wrong = [n for n, kind in judged if kind == "hallucination"]
        grams = [share for n in _GRAMS for share in _distinct(answer, n)]
        counted = (len(wrong), len(judged), sum(wrong), sum(n for n, _ in judged), len(sentences), sum(lengths))
        counts = (*counted, 1, *grams)
        return Reading(kinds, None, fits, tuple(map(float, counts)))

    def read_answers(self, answers: Path, path: Path, groups: Sequence[tuple[Sample, ...]]) -> Mapping[str, str]:
        """Read `{image_id: text}`."""
        records = self.named_records(answers, "text")
        return self.joined(((record, record.text("text", empty=True)) for record in records), answers, groups)

    def write_answers(
        self, folder: Path, path: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str]
    ) -> list[Path]:
        """Write `{image_id: text}`, as the script `json_eval.py` reads it."""
        return [answer_files.write_json(folder / "answers.json", dict(answers))]

    def read_verdict_file(self, file: Path, groups: Sequence[tuple[Sample, ...]]) -> tuple[Verdicts, str]:
        """Read the raw verdicts of the script's first run."""
        runs = self.mapping(file)
        said = runs.get("run1")
        if not isinstance(said, dict):
            raise self.file_error(f"{file} must hold {{'run1': {{image_id: ...}}}}")
        records = (files.FileRecord(file, n, one, name) for n, (name, one) in enumerate(said.items(), start=1))
        texts = self.joined(((r, r.text("raw_judgement")) for r in records), file, groups)
        return {name: (JudgeVerdict(text),) for name, text in texts.items()}, ""

    def write_verdicts(
        self, folder: Path, groups: Sequence[tuple[Sample, ...]], answers: Mapping[str, str], model: str
    ) -> list[Path]:
        """Write the script's `judgement.json`."""
        rows = {}
        for (sample,) in groups:
            given = self.verdicts().get(sample.id, ())
            if given and given[-1].text is not None and sample.id in answers:
                raw, answer = given[-1].text, answers[sample.id]
                sentences, kinds = sentences_of(answer), kinds_of(raw)
                fitting = kinds if len(kinds) == len(sentences) else [None] * len(sentences)
                pairs = zip(sentences, fitting, strict=True)
                notes = [{"model_response": f"{s}.", "judgement": kind, "classification": kind} for s, kind in pairs]
                rows[sample.id] = {"raw_judgement": raw, "model_response": answer, "judgement": notes}
        return [answer_files.write_json(folder / "judgement.json", {"run1": rows})]

    def _told(self, sample: Sample, answer: str) -> str:
        numbered = "".join(f"{n}. {sentence}\n" for n, sentence in enumerate(sentences_of(answer), start=1))
        return filled(sample.target["prompt"], sample.target["regions"], sample.target["facts"], numbered)


def sentences_of(text: str) -> list[str]:
    """The pieces between periods, without empty ones and those within an earlier one."""
    found: list[str] = []
    for piece in (piece.strip() for piece in text.split(".")):
        if piece and not any(piece in earlier for earlier in found):
            found.append(piece)
    return found


def kinds_of(verdict: str) -> list[str]:
    """What each line below "Judgement:" begins with after its number, in lower case; [] without that line."""
    lines = [line for line in verdict.partition("###")[0].split("\n") if line]
    start = next((n for n, line in enumerate(lines) if "Judgement:" in line), None)
    if start is None:
        return []
    bodies = [" ".join(line.split(" ")[1:]).strip() for line in lines[start + 1 :]]
    return [body.split(":")[0].lower() for body in bodies if body]


def _distinct(text: str, n: int) -> tuple[float, float]:
    """(different n-grams / n-grams, 1); (0, 0) for a text with none."""
    for mark in ".:\n?,":
        text = text.replace(mark, "")
    words = text.split()
    grams = list(zip(*(words[k:] for k in range(n)), strict=False))
    return (len(set(grams)) / len(grams), 1.0) if grams else (0.0, 0.0)
