"""Lengths, margins, correlations and repetition of small hand-worked sets of pairs."""

import pytest

from pairsight.inspection.dataset import ByPrompt, Dataset, Unrated
from pairsight.inspection.describe import describe
from pairsight.inspection.duplicates import RepetitionMeter
from pairsight.inspection.figures import sections
from pairsight.inspection.inspect import inspect_dataset
from pairsight.inspection.measures import CorrelationMeter, LengthMeter, MarginMeter, Rated
from pairsight.records import Annotation, Completion, Distortion, ImageRef, Message, PreferencePair, Prompt


def pair(name, chosen, *rejected, question="what is it", image="a", scores=None):
    images = (ImageRef(image),) if image else ()
    prompt = Prompt(f"prompt-{name}", (Message("user", question, images),))
    texts = (chosen, *rejected)
    completions = [Completion(f"{name}:{k}", prompt.id, t, "stop", "m", 0, k) for k, t in enumerate(texts)]
    annotations = tuple(
        Annotation(c.id, "truth", s) for c, s in zip(completions, scores or [], strict=False) if s is not None
    )
    return PreferencePair(name, prompt, completions[0], tuple(completions[1:]), "rule", annotations)


def measure_lengths(pairs):
    return LengthMeter().of(Unrated(pairs))


def measure_margins(pairs, annotations):
    return MarginMeter().of([Rated((), tuple(annotations), tuple(pairs))])


def measure_correlations(annotations):
    return CorrelationMeter().of([Rated((), tuple(annotations))])


def measure_repetition(pairs):
    return RepetitionMeter().of(Unrated(pairs))


def test_lengths_count_every_rejected_completion():
    lengths = measure_lengths([pair("1", "a b c", "a b", "a b c d"), pair("2", "a", "a b c", image="b")])
    assert list(lengths.chosen) == [3, 3, 1]
    assert list(lengths.rejected) == [2, 4, 3]
    assert lengths.mean_chosen == pytest.approx(7 / 3)
    assert lengths.mean_rejected == pytest.approx(3)
    assert lengths.share_chosen_longer == pytest.approx(1 / 3)
    assert lengths.share_rejected_longer == pytest.approx(2 / 3)
    assert lengths.interval[0] <= -2 / 3 <= lengths.interval[1]


def test_the_interval_of_the_drift_is_unknown_for_one_image():
    assert measure_lengths([pair("1", "a b", "a"), pair("2", "a b", "a")]).interval is None
    assert measure_lengths([]) is None


def test_margins_are_taken_where_both_sides_have_scores():
    pairs = [
        pair("1", "a", "b", scores=[{"help": 4, "verb": 2}, {"help": 1, "verb": 3}]),
        pair("2", "a", "b", "c", scores=[{"help": 3}, {"help": 1}, {"help": 2}]),
        pair("3", "a", "b", scores=[{"help": 4}, None]),
    ]
    margins = measure_margins(pairs, [annotation for one in pairs for annotation in one.annotations])
    assert margins.means == {"help": 2, "verb": -1}
    assert measure_margins([pair("1", "a", "b")], []) is None


def test_two_annotators_of_one_completion_are_averaged():
    one = pair("1", "a", "b", scores=[{"help": 4}, {"help": 1}])
    second = Annotation("1:0", "other", {"help": 2})
    assert measure_margins([one], [*one.annotations, second]).means == {"help": 2.0}


def test_correlations_are_pearsons_and_blank_where_nothing_varies():
    annotations = [
        Annotation("1", "t", {"x": 0, "y": 0, "z": 1}),
        Annotation("2", "t", {"x": 1, "y": 2, "z": 1}),
        Annotation("3", "t", {"x": 2, "y": 1, "z": 1}),
    ]
    correlations = measure_correlations(annotations)
    assert correlations.attributes == ("x", "y", "z")
    assert correlations.values[0][1] == pytest.approx(0.5)
    assert correlations.values[1][0] == pytest.approx(0.5)
    assert correlations.values[2] == (None, None, None)
    assert measure_correlations(annotations[:2]) is None
    assert measure_correlations([Annotation("1", "t", {"x": 1})] * 5) is None


def test_repetition_counts_copies_contradictions_and_image_use():
    repetition = measure_repetition(
        [
            pair("1", "yes", "no"),
            pair("2", " yes ", "no"),
            pair("3", "no", "yes"),
            pair("4", "yes", "no", image="b"),
            pair("5", "yes", "no", question="else", image=""),
        ]
    )
    assert repetition.repeated_pairs == 1
    assert repetition.repeated_questions == 2
    assert repetition.contradictions == 1
    assert repetition.num_images == 2
    assert repetition.num_text_only == 1
    assert repetition.num_cut == 0
    assert repetition.pairs_per_image == {1: 1, 3: 1}
    assert repetition.images_used_more_than_once == 1


def test_a_distorted_image_is_another_question():
    first, second = pair("1", "yes", "no"), pair("2", "yes", "no")
    noisy = ImageRef("a", Distortion("diffusion", {"step": 500.0}, 1, "normalised"))
    prompt = Prompt("prompt-2", (Message("user", "what is it", (noisy,)),))
    second = PreferencePair("2", prompt, second.chosen, second.rejected, "rule")
    assert measure_repetition([first, second]).repeated_questions == 0


def test_an_inspection_in_words_warns_about_length():
    pairs = tuple(
        pair(str(k), "a b c d", "a b", image=f"i{k}", scores=[{"help": 4, "x": k % 3}, {"help": 1, "x": k % 2}])
        for k in range(6)
    )
    dropped = {"margin (select)": 2, "empty (select)": 1}
    found = inspect_dataset(Dataset("first", pairs, ByPrompt(pairs), dropped, 9, 18))
    assert found.counts == {"prompts": 9, "completions": 18, "annotations": 12, "pairs": 6, "images": 6}
    text = describe(found)
    assert "first" in text
    assert "9 prompts, 18 completions, 12 annotations, 6 pairs, 6 images" in text
    assert "margin (select) 2, empty (select) 1" in text
    assert "chosen 4.0 words, rejected 2.0: +2.0 (95 % interval +2.0 to +2.0)" in text
    assert "warning: training on these pairs also rewards longer completions" in text
    assert "help +3.00" in text
    assert [section.title for section in sections(found)] == ["Length", "Margins", "Attributes", "Repetition"]


def test_attributes_that_say_the_same_are_named():
    annotations = tuple(Annotation(str(k), "t", {"x": k, "y": 2 * k, "z": 1}) for k in range(5))
    text = describe(inspect_dataset(Dataset("d", (), [Rated((), annotations)])))
    assert "x and y are correlated (r = +1.00)" in text
    assert "z never varies" in text


def test_an_empty_dataset_is_not_an_error():
    found = inspect_dataset(Dataset("nothing"))
    assert found.counts == {"pairs": 0}
    assert "0 pairs" in describe(found)
    assert sections(found)
