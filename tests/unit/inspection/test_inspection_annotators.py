"""Agreement, bias of length and position, and one model in two roles: hand-worked."""

import json

import pytest

from pairsight.build_record import BuildRecord
from pairsight.inspection.agreement import AgreementMeter
from pairsight.inspection.dataset import Dataset
from pairsight.inspection.describe import agreement_in_words, bias_in_words, describe
from pairsight.inspection.figures import sections
from pairsight.inspection.inspect import inspect_dataset
from pairsight.inspection.measures import (
    BiasMeter,
    CompletionFacts,
    Rated,
    chi_square_p,
    comparisons,
    facts_of_pair,
    totals,
)
from pairsight.inspection.roles import read_roles, roles_in_words
from pairsight.records import Annotation, Completion, Message, PreferencePair, Prompt


def by_prompt(completions, annotations=(), pairs=()):
    """What a dataset holds, prompt by prompt."""
    for prompt in dict.fromkeys(one.prompt_id for one in completions):
        own = tuple(one for one in completions if one.prompt_id == prompt)
        ids = {one.id for one in own}
        yield Rated(
            own,
            tuple(one for one in annotations if one.completion_id in ids),
            tuple(pair for pair in pairs if pair.prompt.id == prompt),
        )


def facts_of_pairs(pairs):
    return [fact for pair in pairs for fact in facts_of_pair(pair)]


def measure_agreement(completions, annotations, pairs):
    return AgreementMeter().of(by_prompt(completions, annotations, pairs))


def measure_bias(completions, annotations):
    return BiasMeter().of(by_prompt(completions, annotations))


def facts(prompt, *words):
    return [CompletionFacts(f"{prompt}:{k}", prompt, count) for k, count in enumerate(words)]


def rated(annotator, **scores):
    return [Annotation(c.replace("_", ":"), annotator, {"help": value}) for c, value in scores.items()]


def given(name, chosen="yes", rejected="no"):
    prompt = Prompt(name, (Message("user", "q"),))
    completions = [Completion(f"{name}:{k}", name, t, "stop", "", 0, k) for k, t in enumerate((chosen, rejected))]
    return PreferencePair(name, prompt, completions[0], (completions[1],), "given")


def test_comparisons_stay_within_a_prompt_and_take_both_orders():
    found = [two for k in range(200) for two in comparisons(facts(f"p{k}", 1, 2))]
    assert len(found) == 200
    assert all(first.prompt_id == second.prompt_id for first, second in found)
    assert 60 < sum(first.id.endswith(":0") for first, _ in found) < 140
    assert len(list(comparisons(facts("p", *range(20))))) == 28


def test_annotators_that_agree_have_r_and_kappa_of_one():
    completions = facts("a", 1, 1, 1)
    first = rated("x", a_0=0, a_1=2, a_2=4)
    (same,) = measure_agreement(completions, [*first, *rated("y", a_0=0, a_1=2, a_2=4)], [])
    assert (same.first, same.second, same.num_completions, same.num_comparisons) == ("x", "y", 3, 3)
    assert same.correlations[0][0] == pytest.approx(1.0)
    assert same.kappas["help"] == pytest.approx(1.0)
    (opposite,) = measure_agreement(completions, [*first, *rated("y", a_0=4, a_1=2, a_2=0)], [])
    assert opposite.correlations[0][0] == pytest.approx(-1.0)
    assert opposite.kappas["help"] == pytest.approx(-1.0)


def test_annotators_without_a_completion_in_common_are_not_compared():
    assert measure_agreement(facts("a", 1, 1), [*rated("x", a_0=1), *rated("y", a_1=1)], []) == ()
    assert measure_agreement(facts("a", 1, 1), rated("x", a_0=1, a_1=2), []) == ()


def test_a_preference_that_came_with_the_data_is_held_against_the_annotator():
    pairs = [given(f"p{k}") for k in range(40)]
    annotations = [
        Annotation(completion.id, "truth", {"help": float(k % 5 + (completion is pair.chosen))})
        for k, pair in enumerate(pairs)
        for completion in (pair.chosen, *pair.rejected)
    ]
    (found,) = measure_agreement(facts_of_pairs(pairs), annotations, pairs)
    assert (found.first, found.second) == ("truth", "given")
    assert found.correlations == ((pytest.approx(1.0),),)
    assert "help and preference: r = +1.00" in agreement_in_words(found)


def test_preferences_that_a_run_was_given_are_held_against_its_annotator_too():
    completions = [c for k in range(40) for c in facts(f"p{k}", 1, 1)]
    preferred = [Annotation(c.id, "given", {"preference": float(c.id.endswith(":0"))}) for c in completions]
    annotations = [Annotation(a.completion_id, "truth", {"help": 2 * a.scores["preference"]}) for a in preferred]
    (found,) = measure_agreement(completions, [*preferred, *annotations], [])
    assert "preference and help: r = +1.00" in agreement_in_words(found)


def scored(annotator, totals, positions=None):
    return [
        Annotation(
            c, annotator, {"helpfulness": q, "correctness": 0, "coherence": 0}, position=(positions or {}).get(c)
        )
        for c, q in totals.items()
    ]


def test_length_bias_is_the_correlation_of_differences():
    completions = [*facts("a", 1, 5), *facts("b", 3, 2), *facts("c", 4, 4)]
    totals = {"a:0": 2.0, "a:1": 10.0, "b:0": 6.0, "b:1": 4.0, "c:0": 1.0, "c:1": 1.0}
    (bias,) = measure_bias(completions, scored("x", totals))
    assert bias.length_correlation == pytest.approx(1.0)
    assert bias.num_comparisons == 3
    assert (bias.best_at, bias.p_value) == ((), None)
    assert "warning: x rewards longer completions" in bias_in_words(bias)
    assert measure_bias(completions, rated("x", a_0=1)) == ()


def test_a_position_that_always_wins_is_found_for_each_annotator_alone():
    completions = [c for k in range(40) for c in facts(f"p{k}", 1, 1)]
    shown = {c.id: (int(c.id[-1]) + int(c.prompt_id[1:])) % 2 for c in completions}
    first = scored("x", {c.id: 4.0 - 3.0 * shown[c.id] for c in completions}, shown)
    fair = scored("y", {c.id: 4.0 - 3.0 * int(c.id[-1]) for c in completions}, shown)
    one, other = measure_bias(completions, [*first, *fair])
    assert one.best_at == (40, 0)
    assert one.p_value < 1e-6
    assert one.length_correlation is None
    assert "warning: x rates completions by the position at which they are shown" in bias_in_words(one)
    assert other.best_at == (20, 20)
    assert "in 50%, 50% of 40 prompts" in bias_in_words(other)[0]


@pytest.mark.parametrize(("counts", "p"), [((30, 30, 30), 1.0), ((40, 60), 0.0455), ((10, 20, 30), 0.00674)])
def test_chi_square_is_near_the_tables_values(counts, p):
    assert chi_square_p(counts) == pytest.approx(p, abs=0.01)


def test_too_few_counts_have_no_p_value():
    assert chi_square_p((3, 4)) is None
    assert chi_square_p((100,)) is None


def test_totals_need_all_three_attributes_and_average_annotators():
    annotations = [
        Annotation("1", "x", {"helpfulness": 4, "correctness": 3, "coherence": 2, "verbosity": 1}),
        Annotation("1", "y", {"helpfulness": 2, "correctness": 3, "coherence": 2}),
        Annotation("2", "x", {"helpfulness": 4, "correctness": 3}),
    ]
    assert totals(annotations) == {"1": 8.0}


def test_one_model_in_two_roles_gets_a_warning(tmp_path):
    benchmarks = {"mm_vet": {"judge": "gemini-pro", "metrics": {}}}
    (tmp_path / "results.json").write_text(json.dumps({"schema": 1, "systems": {"s": {"benchmarks": benchmarks}}}))
    config = {"model": "m", "model_fingerprint": "sha256:1", "annotator": "gemini-pro"}

    def said(**config):
        return roles_in_words(read_roles(tmp_path, BuildRecord.from_plain(config)))

    (warning,) = said(**config)
    assert warning.startswith("warning: annotator and judge are one model (gemini-pro)")
    assert said(**{**config, "annotator": "gpt-4"}) == []
    assert said(model="m") == []
    (note,) = said(**{**config, "annotator": "n", "annotator_fingerprint": "sha256:1"})
    assert "it rates its own" in note


def test_everything_reaches_the_words_and_the_page():
    pairs = tuple(given(f"p{k}", "a b", "a b c") for k in range(12))
    names = ("helpfulness", "correctness", "coherence")
    annotations = tuple(
        Annotation(
            c.id,
            who,
            {name: float((k + j + (who == "y") + 2 * (c is pair.chosen)) % 5) for j, name in enumerate(names)},
        )
        for who in ("x", "y")
        for k, pair in enumerate(pairs)
        for c in (pair.chosen, *pair.rejected)
    )
    found = inspect_dataset(
        Dataset("d", pairs, list(by_prompt(facts_of_pairs(pairs), annotations, pairs)), num_prompts=12)
    )
    assert [section.title for section in sections(found)] == [
        "Length", "Margins", "Attributes", "Bias", "Agreement", "Repetition",
    ]  # fmt: skip
    text = describe(found)
    assert "x and y: 24 completions, 12 comparisons" in text
    assert "x and given" in text
