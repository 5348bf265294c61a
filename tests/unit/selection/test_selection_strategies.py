import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsight.errors import ConfigError
from pairsight.records import (
    Annotation,
    Candidates,
    Completion,
    Dropped,
    ImageRef,
    Message,
    PreferencePair,
    Prompt,
)
from pairsight.registry import strategies
from pairsight.selection.clean_over_distorted import CleanOverDistorted
from pairsight.selection.length_matching import match_lengths
from pairsight.selection.preference_rule import PreferenceRule
from pairsight.selection.rejection_sampling import RejectionSampling
from pairsight.selection.sft import Sft
from pairsight.selection.steerlm import SteerLM
from pairsight.selection.strategy import choose, make_strategy, normalised

IMAGE = ImageRef("a" * 64)


def prompt(name="p"):
    return Prompt(name, (Message("user", "What is it?", (IMAGE,)),))


def completion(index, text, *, distorted=False, derived_from=None, name="p"):
    images = (IMAGE,) if distorted else None
    return Completion(f"{name}:{index}", name, text, "stop", "model", 0, index, images, derived_from)


def scored(*rows, name="p"):
    """Rows of (text, total): a total is split over the three quality attributes."""
    completions = tuple(completion(index, text, name=name) for index, (text, _) in enumerate(rows))
    annotations = tuple(
        Annotation(f"{name}:{index}", "judge", split(total), "because")
        for index, (_, total) in enumerate(rows)
        if total is not None
    )
    return Candidates(prompt(name), completions, annotations)


def split(total):
    scores = [min(4, max(0, total - 4 * index)) for index in range(3)]
    names = ("helpfulness", "correctness", "coherence")
    return dict(zip(names, scores, strict=True)) | {"complexity": 1, "verbosity": 3}


def test_rule_takes_the_first_best_and_one_clearly_worse():
    pair = PreferenceRule()(scored(("a", 8), ("b", 11), ("c", 11), ("d", 9)))
    assert isinstance(pair, PreferencePair)
    assert (pair.id, pair.chosen.text, pair.strategy) == ("p", "b", "preference_rule")
    assert pair.rejected[0].text in ("a", "d")
    assert {one.completion_id for one in pair.annotations} == {pair.chosen.id, pair.rejected[0].id}


def test_rule_draws_evenly_by_prompt_and_seed():
    drawn = Counter(
        PreferenceRule()(scored(("a", 12), ("b", 3), ("c", 4), ("d", 10), name=f"p{index}")).rejected[0].text
        for index in range(600)
    )
    assert set(drawn) == {"b", "c", "d"}
    assert all(150 <= count <= 250 for count in drawn.values())
    candidates = scored(("a", 12), ("b", 3), ("c", 4), ("d", 10))
    numbers = [int(hashlib.sha256(b'["preference_rule", %d, "p"]' % n).hexdigest()[:8], 16) // 2 for n in range(8)]
    drawn = [PreferenceRule(seed=seed)(candidates).rejected[0].text for seed in range(8)]
    assert drawn == ["bcd"[number % 3] for number in numbers] == list("ccbbdcbb")


def test_rule_lowest_margin_and_weights():
    candidates = scored(("a", 12), ("b", 3), ("c", 11))
    assert PreferenceRule(rejected="lowest")(candidates).rejected[0].text == "b"
    assert PreferenceRule(min_margin=1, rejected="lowest")(scored(("a", 12), ("c", 11))).rejected[0].text == "c"
    # by helpfulness alone both have 4: no margin
    assert PreferenceRule(weights={"helpfulness": 1})(scored(("a", 12), ("c", 4))).reason == "margin"
    assert PreferenceRule(weights={"verbosity": -1, "correctness": 1})(scored(("a", 4), ("b", 8))).chosen.text == "b"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("a", 12), ("b", 11)], "margin"),
        ([("a", 12), ("b", 12)], "margin"),
        ([("a", 12), ("b", None)], "too_few_scored"),
        ([], "too_few_scored"),
        ([("a", 12), ("  ", 1)], "too_few_scored"),
        ([("A dog.", 12), ("a  dog", 1)], "identical"),
    ],
)
def test_rule_drops_with_a_reason(rows, reason):
    dropped = PreferenceRule()(scored(*rows))
    assert isinstance(dropped, Dropped)
    assert (dropped.item_id, dropped.stage, dropped.reason) == ("p", "select/preference_rule", reason)


def test_rule_passes_over_an_identical_one():
    pair = PreferenceRule()(scored(("A dog.", 12), ("a dog", 1), ("A cat.", 2)))
    assert pair.rejected[0].text == "A cat."


def test_annotations_without_all_attributes_do_not_count():
    candidates = Candidates(
        prompt(),
        (completion(0, "a"), completion(1, "b")),
        (Annotation("p:0", "j", split(9)), Annotation("p:1", "j", {"helpfulness": 0})),
    )
    assert PreferenceRule()(candidates).reason == "too_few_scored"


def test_several_annotators_count_by_their_mean():
    candidates = Candidates(
        prompt(),
        (completion(0, "a"), completion(1, "b")),
        tuple(Annotation(f"p:{index}", judge, split(total))
              for index, judge, total in ((0, "x", 12), (0, "y", 8), (1, "x", 10), (1, "y", 7))),
    )  # fmt: skip
    assert PreferenceRule(min_margin=1.5)(candidates).chosen.text == "a"  # 10 over 8.5
    assert PreferenceRule(min_margin=1.6)(candidates).reason == "margin"


def distorted(clean, *others):
    completions = (
        completion(0, clean),
        *(completion(index, text, distorted=True) for index, text in enumerate(others, 1)),
    )
    return Candidates(prompt(), completions)


def test_clean_over_distorted():
    pair = CleanOverDistorted()(distorted("A red dot.", "A blue dot.", "a RED dot", "A blue  dot.", "Nothing", " "))
    assert pair.chosen.text == "A red dot."
    assert [one.text for one in pair.rejected] == ["A blue dot.", "Nothing"]


@pytest.mark.parametrize(
    ("candidates", "reason"),
    [
        (distorted("A dot.", "a dot"), "identical"),
        (distorted("  ", "a dot"), "empty"),
        (distorted("A dot.", "", "  "), "empty"),
        (distorted("A dot."), "no_distorted_completion"),
        (Candidates(prompt(), (completion(1, "x", distorted=True),)), "no_clean_completion"),
    ],
)
def test_clean_over_distorted_drops(candidates, reason):
    assert CleanOverDistorted()(candidates).reason == reason


def test_null_control_has_two_clean_completions():
    candidates = Candidates(prompt(), (completion(0, "one"), completion(1, "two")))
    pair = CleanOverDistorted()(candidates)
    assert (pair.chosen.text, pair.rejected[0].text) == ("one", "two")


def test_same_to_a_reader():
    assert normalised(" The DOG\n runs. ") == normalised("the dog runs")
    assert normalised("ﬁve") == "five"
    assert normalised("a.b") != normalised("ab")
    assert normalised(" . ") == ""


def test_rejection_sampling():
    (demonstration,) = RejectionSampling()(scored(("a", 8), ("b", 11), ("c", 11)))
    assert (demonstration.id, demonstration.completion.text, demonstration.strategy) == (
        "p:1",
        "b",
        "rejection_sampling",
    )
    assert RejectionSampling()(scored(("a", 8)))[0].completion.text == "a"
    assert RejectionSampling(min_total=12)(scored(("a", 8), ("b", 11))).reason == "below_min_total"
    assert RejectionSampling(min_total=11)(scored(("b", 11)))[0].completion.text == "b"
    assert RejectionSampling()(scored(("a", None))).reason == "too_few_scored"


def test_steerlm_puts_the_real_scores_into_training_and_the_targets_into_inference():
    strategy = SteerLM(conditioning="Scores: {scores}")
    first, second = strategy(scored(("a", 12), ("b", 5), ("c", None)))
    line = "Helpfulness:4,Correctness:1,Coherence:0,Complexity:1,Verbosity:3"
    assert second.prompt.messages[-1].text == f"What is it?\nScores: {line}"
    assert second.prompt.images == (IMAGE,)
    assert (first.id, second.id, second.completion.text) == ("p:0", "p:1", "b")
    everything = "Helpfulness:4,Correctness:4,Coherence:4,Complexity:4,Verbosity:4"
    assert strategy.inference_suffix() == f"Scores: {everything}"
    assert PreferenceRule().inference_suffix() == ""
    assert SteerLM(target={"helpfulness": 3}).inference_suffix().endswith("4: Helpfulness:3")
    assert SteerLM()(scored(("a", None))).reason == "too_few_scored"
    with pytest.raises(ConfigError, match=r"\{scores\}"):
        SteerLM.parse({"conditioning": "no place"})


def test_sft_takes_the_marked_answer():
    answers = (completion(0, "sampled"), completion(4, "written", derived_from="annotator"))
    (demonstration,) = Sft()(Candidates(prompt(), answers))
    assert demonstration.completion.text == "written"
    assert Sft(sft_source="dataset")(Candidates(prompt(), answers)).reason == "no_answer"
    assert Sft()(Candidates(prompt(), (completion(4, " ", derived_from="annotator"),))).reason == "empty"


def test_length_matching_keeps_what_is_about_as_long():
    def pair(name, chosen, *rejected):
        completions = tuple(completion(index, text) for index, text in enumerate(rejected, 1))
        return PreferencePair(name, prompt(), completion(0, chosen), completions, "x")

    pairs = [pair("same", "a b", "c d"), pair("longer", "a", "b c d e"), pair("one", "a b", "c", "d e f g h")]
    same, longer, one = (match_lengths(each, 1) for each in pairs)
    assert [r.text for r in same.rejected] == ["c d"]
    assert (longer.item_id, longer.reason) == ("longer", "length")
    assert "+3 words from 1" in longer.detail
    assert [r.text for r in one.rejected] == ["c"]
    assert [isinstance(match_lengths(each, 0), PreferencePair) for each in pairs] == [True, False, False]
    assert [match_lengths(each, 9) for each in pairs] == pairs


def test_options_that_reach_no_strategy_are_refused():
    from pairsight.images.source import UnpackedImages, WithImages
    from pairsight.pipeline.select import CandidateSet, select

    made = CandidateSet((scored(("a", 9), ("b", 1)),), UnpackedImages(), built_with=PreferenceRule())
    with pytest.raises(ConfigError, match="options min_margin need the name of their strategy: strategy='NAME'"):
        select(made, min_margin=3)
    with pytest.raises(ConfigError, match="options min_margin need the name"):
        select(WithImages(made.items, made.images), PreferenceRule(), min_margin=3)


def test_select_counts_every_prompt():
    lost = Dropped("q", "generate", "too_long")
    candidates = [scored(("a", 12), ("b", 1), name="p1"), lost, scored(("a", 12), name="p2")]
    selection = choose(candidates, make_strategy("preference_rule", min_margin=3))
    assert [pair.id for pair in selection.pairs] == ["p1"]
    assert [one.reason for one in selection.dropped] == ["too_long", "too_few_scored"]
    assert len(choose(candidates, SteerLM()).demonstrations) == 3
    with pytest.raises(ConfigError, match="did you mean 'min_margin'"):
        make_strategy("preference_rule", min_margn=3)
    with pytest.raises(ConfigError, match="did you mean 'steerlm'"):
        make_strategy("steerlmm")


@pytest.mark.parametrize("name", ["preference_rule", "clean_over_distorted", "rejection_sampling", "steerlm", "sft"])
def test_strategies_are_found_by_name_and_survive_yaml(name):
    cls = strategies.get(name)
    assert cls.name == name
    assert cls.parse(cls().to_plain()) == cls()


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "b", "c", " ", "A"]), st.none() | st.integers(0, 12)), max_size=6),
    margin=st.integers(1, 12),
    rejected=st.sampled_from(["seeded", "lowest"]),
)
def test_rule_keeps_its_promise_for_any_scores(rows, margin, rejected):
    strategy = PreferenceRule(min_margin=margin, rejected=rejected)
    chosen = strategy(scored(*rows))
    totals = [total for text, total in rows if total is not None and text.strip()]
    if isinstance(chosen, PreferencePair):
        by_id = {f"p:{index}": total for index, (_, total) in enumerate(rows)}
        assert by_id[chosen.chosen.id] == max(totals)
        assert by_id[chosen.chosen.id] - by_id[chosen.rejected[0].id] >= margin
        assert normalised(chosen.chosen.text) != normalised(chosen.rejected[0].text)
    else:
        assert chosen.reason in ("too_few_scored", "margin", "identical")
        if chosen.reason == "margin":
            assert max(totals) - min(totals) < margin
    assert strategy(scored(*rows)) == chosen


def test_steerlm_in_the_authors_words_has_the_same_line_of_scores():
    strategy = SteerLM(conditioning="authors")
    asked = (
        "Please answer the question such that your response is in the following attributes in 5-point Likert scale:\n"
        "Helpfulness:4,Correctness:4,Coherence:4,Complexity:4,Verbosity:4"
    )
    assert strategy.inference_suffix() == asked
    assert SteerLM().inference_suffix().endswith(asked.splitlines()[1])
    assert SteerLM.parse(strategy.to_plain()) == strategy
    with pytest.raises(ConfigError, match=r"must be ours or authors, or hold \{scores\}"):
        SteerLM(conditioning="paper")
