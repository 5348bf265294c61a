"""The world as judged benchmarks have their files: MM-Vet, LLaVA-Bench, MT-Bench, AlpacaEval and MMHal-Bench, small.

The questions, references and judges' prompts are the world's own, in the official formats; `tiny serve` judges them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pairsight.tiny.truth.annotator import TruthQuestion
from pairsight.tiny.world.captions import mentioned_kinds
from pairsight.tiny.world.scenes import kind_name

MOST = 60
"""Questions of each benchmark at most, as many as LLaVA-Bench has (ours)."""
_CAPABILITIES = {"caption": ["rec", "gen"], "existence": ["rec"], "colour": ["rec"], "count": ["rec", "math"]}
_LLAVA_KINDS = {"caption": "detail", "existence": "conv", "colour": "conv"}
QUESTION, REFERENCE, ANSWER = "[Question]", "[Reference]", "[Answer]"
_JUDGE_TEXT = f"{QUESTION}\n{{question}}\n{REFERENCE}\n{{ref_answer_1}}\n{ANSWER}\n{{answer}}"
_JUDGE_SECOND = f"{QUESTION}\n{{question_2}}\n{REFERENCE}\n{{ref_answer_2}}\n{ANSWER}\n{{answer_2}}"
_JUDGE_SYSTEM = "Compare the answer with the reference and end with the rating from 1 to 10 as [[rating]]."
_RATE_BOTH = "Score both answers from 1 to 10 by the context: two numbers on the first line, then your reasons."


def write_judged(folder: Path, rows: Sequence[TruthQuestion]) -> None:
    """Write the five benchmarks on the world's benchmark questions.

    Args:
        folder: where to write; a folder for each benchmark is made in it. Images are in the world's own.
        rows: the benchmark's rows of the world's truth.
    """
    seen = [row for row in rows if row.image is not None]
    texts = [row for row in rows if row.image is None]
    _mm_vet(folder / "mm_vet", _some(seen, tuple(_CAPABILITIES)))
    _llava_bench(folder / "llava_bench", _some(seen, tuple(_LLAVA_KINDS)))
    _mmhal(folder / "mmhal", _some(seen, ("caption", "existence", "count")))
    _mt_bench(folder / "mt_bench", texts[: 2 * MOST])
    _alpaca_eval(folder / "alpaca_eval", texts[:MOST])


def _some(rows: Sequence[TruthQuestion], kinds: Sequence[str]) -> list[TruthQuestion]:
    """The first questions of these kinds, as many of each."""
    each = MOST // len(kinds)
    found = [row for kind in kinds for row in [one for one in rows if one.kind == kind][:each]]
    return sorted(found, key=lambda row: row.id)


def _mm_vet(folder: Path, rows: Sequence[TruthQuestion]) -> None:
    content = {}
    for number, row in enumerate(rows):
        names = [kind_name(kind) for kind in mentioned_kinds(row.answer)] if row.kind == "caption" else [row.answer]
        content[f"v1_{number}"] = {
            "imagename": row.image,
            "question": row.question,
            "answer": "<AND>".join(names) or row.answer,
            "capability": _CAPABILITIES[row.kind],
        }
    _write(folder / "mm-vet.json", json.dumps(content, indent=1))


def _llava_bench(folder: Path, rows: Sequence[TruthQuestion]) -> None:
    questions = [
        {"question_id": n, "image": row.image, "category": _LLAVA_KINDS[row.kind], "text": row.question}
        for n, row in enumerate(rows)
    ]
    contexts = {row.image: {"id": row.id, "image": row.image, "caption": _facts(row)} for row in rows}
    answers = [{"question_id": n, "text": row.answer, "answer_id": row.id} for n, row in enumerate(rows)]
    rule = {"role": "Assistant", "prompt": _RATE_BOTH}
    _write(folder / "questions.jsonl", _lines(questions))
    _write(folder / "context.jsonl", _lines(contexts.values()))
    _write(folder / "answers_gpt4.jsonl", _lines(answers))
    _write(folder / "rule.json", json.dumps({f"llava_bench_{kind}": rule for kind in set(_LLAVA_KINDS.values())}))


def _mmhal(folder: Path, rows: Sequence[TruthQuestion]) -> None:
    records = [
        {"question_type": row.kind, "image_id": row.id, "image_src": row.image, "image_content": _facts(row),
         "question": row.question, "gt_answer": row.answer, "model_answer": ""}
        for row in rows
    ]  # fmt: skip
    _write(folder / "response_template.json", json.dumps(records, indent=1))


def _mt_bench(folder: Path, rows: Sequence[TruthQuestion]) -> None:
    pairs = list(zip(rows[::2], rows[1::2], strict=False))
    questions = [
        {"question_id": n, "category": "reasoning", "turns": [first.question, second.question]}
        for n, (first, second) in enumerate(pairs, start=81)
    ]
    references = [
        {"question_id": n, "choices": [{"index": 0, "turns": [first.answer, second.answer]}]}
        for n, (first, second) in enumerate(pairs, start=81)
    ]
    prompts = [
        {"name": "single-math-v1", "system_prompt": _JUDGE_SYSTEM, "prompt_template": _JUDGE_TEXT},
        {"name": "single-math-v1-multi-turn", "system_prompt": _JUDGE_SYSTEM, "prompt_template": _JUDGE_SECOND},
    ]
    _write(folder / "question.jsonl", _lines(questions))
    _write(folder / "reference_answer" / "gpt-4.jsonl", _lines(references))
    _write(folder / "judge_prompts.jsonl", _lines(prompts))


def _alpaca_eval(folder: Path, rows: Sequence[TruthQuestion]) -> None:
    """The baseline is right on every second instruction."""
    by_question = {row.question: row.answer for row in rows}
    outputs = [
        {"instruction": question, "output": answer if n % 2 else "I do not know.", "generator": "half",
         "dataset": "world"}
        for n, (question, answer) in enumerate(by_question.items())
    ]  # fmt: skip
    _write(folder / "outputs.json", json.dumps(outputs, indent=1))


def _facts(row: TruthQuestion) -> list[str]:
    return [f"{thing['colour']} {thing['shape']}" for thing in row.objects]


def _lines(rows: Iterable[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
