"""What an inspection finds prompt by prompt is what it finds with everything in memory; few records are alive."""

import gc
import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import run_folders
from pairsight.errors import DataError
from pairsight.formats.tables import num_words
from pairsight.inspection import joint_sums
from pairsight.inspection.agreement import AgreementMeter
from pairsight.inspection.dataset import ByPrompt, Dataset, OfRun, read_dataset
from pairsight.inspection.describe import describe
from pairsight.inspection.duplicates import RepetitionMeter, question_key, squeeze
from pairsight.inspection.inspect import inspect_dataset, inspect_run
from pairsight.inspection.joint_sums import JointSums
from pairsight.inspection.measures import BiasMeter, CorrelationMeter, LengthMeter, MarginMeter
from pairsight.records import Annotation, Candidates, Completion, ImageRef, Message, PreferencePair, Prompt
from pairsight.seeds import derived_seed
from pairsight.statistics import cluster_bootstrap, kappa, pearson

QUALITY = ("helpfulness", "correctness", "coherence")
NAMES = (*QUALITY, "verbosity")
score = st.integers(0, 4).map(float) | st.floats(-1e3, 1e3).map(lambda x: round(x, 2))
scores = st.dictionaries(st.sampled_from(NAMES), score, max_size=4) | st.tuples(*[score] * 3).map(
    lambda three: dict(zip(QUALITY, three, strict=True))
)
text = st.lists(st.sampled_from(["a", "b", "c", "  d"]), max_size=4).map(" ".join)


@st.composite
def runs(draw):
    """Candidates with annotations by up to three annotators, and the pairs of some of them."""
    candidates, pairs = [], []
    for number in range(draw(st.integers(1, 8))):
        image = draw(st.sampled_from([(), (ImageRef("a"),), (ImageRef("b"), ImageRef("a"))]))
        prompt = Prompt(f"p{number}", (Message("user", draw(st.sampled_from(["Why?", " Why? ", "Who?"])), image),))
        completions = tuple(
            Completion(f"p{number}:{k}", prompt.id, draw(text), draw(st.sampled_from(["stop", "length"])), "m", 0, k)
            for k in range(draw(st.integers(2, 10)))
        )
        rated = [(one, who) for one in completions for who in draw(st.sets(st.sampled_from("xyz")))]
        annotations = tuple(
            Annotation(one.id, who, draw(scores), position=draw(st.none() | st.integers(0, 3))) for one, who in rated
        )
        candidates.append(Candidates(prompt, completions, annotations))
        if draw(st.booleans()):
            chosen, *rejected = draw(st.permutations(completions))[: draw(st.integers(2, 3))]
            rule = draw(st.sampled_from(["rule", "given"]))
            pairs.append(PreferencePair(prompt.id, prompt, chosen, tuple(rejected), rule))
    return candidates, pairs


def r_of(x, y):
    r = pearson(x, y)
    return None if math.isnan(r) else pytest.approx(r, abs=1e-9)


def means(annotations):
    """(completion, attribute) -> the mean over annotators."""
    found = {}
    for one in annotations:
        for name, value in one.scores.items():
            found.setdefault((one.completion_id, name), []).append(value)
    return {key: sum(values) / len(values) for key, values in found.items()}


def compared(candidates, ids):
    """The ordered comparisons of each prompt's first eight completions among some."""
    for one in candidates:
        for first, second in combinations([c for c in one.completions if c.id in ids][:8], 2):
            swap = derived_seed("comparison", one.prompt.id, first.id, second.id) % 2
            yield (second, first) if swap else (first, second)


@settings(max_examples=25, deadline=None)
@given(runs())
def test_every_measure_is_that_of_all_records_together(run):
    candidates, pairs = run
    rated = list(OfRun("run", pairs, candidates))
    annotations = [note for one in candidates for note in one.annotations]
    both = [(pair, pair.chosen, rejected) for pair in pairs for rejected in pair.rejected]
    lengths = LengthMeter().of(rated)
    if both:
        words = [(num_words(c.text), num_words(r.text)) for _, c, r in both]
        clusters = [p.prompt.images[0].sha256 if p.prompt.images else p.prompt.id for p, *_ in both]
        drift = cluster_bootstrap([(c - r, 1.0) for c, r in words], clusters, lambda s: {"d": s[:, 0] / s[:, 1]})["d"]
        assert list(zip(lengths.chosen, lengths.rejected, strict=True)) == words
        assert lengths.interval == (None if math.isnan(drift.low) else (drift.low, drift.high))
    else:
        assert lengths is None

    mean = means(annotations)
    margins = MarginMeter().of(rated)
    wanted = {}
    for _, c, r in both:
        for name in NAMES:
            if (c.id, name) in mean and (r.id, name) in mean:
                wanted.setdefault(name, []).append(mean[c.id, name] - mean[r.id, name])
    total = [sum(mean[c.id, q] - mean[r.id, q] for q in QUALITY) for _, c, r in both
             if all((one.id, q) in mean for one in (c, r) for q in QUALITY)]  # fmt: skip
    assert (margins.means if margins else {}) == {
        name: pytest.approx(np.mean(v), abs=1e-9) for name, v in wanted.items()
    }
    assert list(margins.totals if margins else ()) == pytest.approx(total)

    correlations = CorrelationMeter().of(rated)
    for i, a in enumerate(correlations.attributes if correlations else ()):
        for j, b in enumerate(correlations.attributes):
            rows = [(n.scores[a], n.scores[b]) for n in annotations if {a, b} <= n.scores.keys()]
            assert correlations.values[i][j] == r_of(*zip(*rows, strict=True)) if rows else True


@settings(max_examples=25, deadline=None)
@given(runs())
def test_bias_and_agreement_are_those_of_all_records_together(run):
    candidates, pairs = run
    rated = list(OfRun("run", pairs, candidates))
    annotations = [note for one in candidates for note in one.annotations]
    given = [
        Annotation(one.id, "given", {"preference": float(one is pair.chosen)})
        for pair in pairs
        if pair.strategy == "given"
        for one in (pair.chosen, *pair.rejected)
    ]
    for bias in BiasMeter().of(rated):
        own = [note for note in annotations if note.annotator == bias.annotator]
        total = {n.completion_id: sum(n.scores[q] for q in QUALITY) for n in own if set(QUALITY) <= n.scores.keys()}
        two = list(compared(candidates, total))
        differences = [(num_words(a.text) - num_words(b.text), total[a.id] - total[b.id]) for a, b in two]
        assert bias.num_comparisons == len(two)
        if two:
            assert bias.length_correlation == r_of(*zip(*differences, strict=True))
        shown = {n.completion_id: n.position for n in own if n.position is not None and n.completion_id in total}
        best = Counter()
        for one in candidates:
            mine = [c.id for c in one.completions if c.id in shown]
            top = [c for c in mine if total[c] == max(total[m] for m in mine)]
            if len(top) == 1 and len(mine) == max(shown.values()) + 1:
                best[shown[top[0]]] += 1
        assert Counter({k: n for k, n in enumerate(bias.best_at) if n}) == best

    order = list(dict.fromkeys(note.annotator for note in (*annotations, *given)))
    found = {(one.first, one.second): one for one in AgreementMeter().of(rated)}
    for first, second in combinations(order, 2):
        mine, other = (
            {n.completion_id: n.scores for n in (*annotations, *given) if n.annotator == who} for who in (first, second)
        )
        shared = mine.keys() & other.keys()
        assert ((first, second) in found) == bool(shared)
        if not shared:
            continue
        one, two = found[first, second], list(compared(candidates, shared))
        assert (one.num_completions, one.num_comparisons) == (len(shared), len(two))
        for i, a in enumerate(one.first_attributes):
            for j, b in enumerate(one.second_attributes):
                rows = [
                    (mine[x.id][a] - mine[y.id][a], other[x.id][b] - other[y.id][b])
                    for x, y in two
                    if a in mine[x.id] and a in mine[y.id] and b in other[x.id] and b in other[y.id]
                ]
                assert one.correlations[i][j] == (r_of(*zip(*rows, strict=True)) if rows else None)
        for name in set(one.first_attributes) & set(one.second_attributes):
            rows = [(mine[c][name], other[c][name]) for c in shared if name in mine[c] and name in other[c]]
            value = kappa(*map(list, zip(*rows, strict=True)), "quadratic") if rows else math.nan
            assert one.kappas.get(name, math.nan) == pytest.approx(value, abs=1e-9, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(runs(), st.integers(1, 3))
def test_repetition_is_that_of_all_records_together(run, times):
    pairs = run[1] * times
    found = RepetitionMeter().of(ByPrompt(pairs))
    both = [(question_key(p.prompt), squeeze(p.chosen.text), squeeze(r.text)) for p in pairs for r in p.rejected]
    uses = Counter(sha for p in pairs for sha in {image.sha256 for image in p.prompt.images})
    assert found.repeated_pairs == len(both) - len(set(both))
    assert found.contradictions == sum((q, r, c) in set(both) for q, c, r in set(both) if c < r)
    assert found.repeated_questions == len(pairs) - len({question_key(p.prompt) for p in pairs})
    assert found.pairs_per_image == dict(sorted(Counter(uses.values()).items()))
    assert found.num_images == len(uses)
    assert list(found.pairs_per_image) == sorted(found.pairs_per_image)


def test_pairs_of_one_prompt_are_taken_together_wherever_they_lie():
    prompts = [Prompt(name, (Message("user", "Why?"),)) for name in "ab"]

    def one(name, prompt):
        made = [Completion(f"{name}:{k}", prompt.id, "a", "stop", "m", 0, k) for k in range(2)]
        return PreferencePair(name, prompt, made[0], (made[1],), "rule", (Annotation(f"{name}:0", "x", {"h": 1.0}),))

    pairs = [one("1", prompts[0]), one("2", prompts[1]), one("3", prompts[0])]
    together = ByPrompt(pairs)
    assert together.num_prompts == 2
    assert [[pair.id for pair in rated.pairs] for rated in together] == [["2"], ["1", "3"]]
    assert [fact.id for fact in list(together)[1].completions] == ["1:0", "1:1", "3:0", "3:1"]
    assert [len(rated.annotations) for rated in together] == [1, 2]


def test_pairs_that_follow_from_no_candidates_are_refused():
    prompt = Prompt("p", (Message("user", "Why?"),))
    made = tuple(Completion(f"p:{k}", "p", "a", "stop", "m", 0, k) for k in range(2))
    pair = PreferencePair(
        "q", Prompt("q", prompt.messages), Completion("q:0", "q", "a", "stop", "m", 0, 0), made, "rule"
    )
    with pytest.raises(DataError, match="the pair 'q' follows from no candidates, or not in their order"):
        list(OfRun(run_folders.Path("run"), [pair], [Candidates(prompt, made)]))


def test_sums_in_blocks_are_those_of_all_rows(monkeypatch):
    monkeypatch.setattr(joint_sums, "_ROWS_A_BLOCK", 7)
    rng = np.random.default_rng(0)
    sums, rows = JointSums(), []
    for number in range(100):
        x = {"far": 1e6 + rng.normal(), "same": 0.1, "late": float(rng.integers(5))}
        if number < 50:
            del x["late"]
        rows.append((x, {"far": x["far"] + rng.normal(), "level": float(rng.integers(3))}))
        sums.add(*rows[-1])
    for a, b in (("far", "far"), ("late", "level"), ("late", "far")):
        both = [(x[a], y[b]) for x, y in rows if a in x and b in y]
        assert sums.pearson(a, b) == pytest.approx(pearson(*zip(*both, strict=True)), abs=1e-9)
        assert sums.kappa(a, b) == pytest.approx(kappa(*map(list, zip(*both, strict=True)), "quadratic"), abs=1e-9)
    assert sums.pearson("same", "far") is None
    assert sums.pearson("unknown", "far") is None
    assert len(sums._rows) == 0
    constant = JointSums()
    constant.add({"x": 2.0, "none": math.nan}, {"x": 2.0})
    assert constant.kappa("x", "x") is constant.kappa("none", "x") is None


TEXTS = {
    "feedback": """\
feedback
  25 prompts, 50 completions, 50 annotations, 20 pairs, 20 images
Dropped
  margin (select) 3, identical (select) 2
Length
  chosen 8.9 words, rejected 16.0: −7.1 (95 % interval −8.2 to −5.8)
  chosen is longer in 0%, shorter in 100% of 20 comparisons
  warning: training on these pairs also rewards shorter completions; compare with \
`pairsight align … --set max_length_difference=2` (length-matched pairs)
Margins
  chosen minus rejected, on average: helpfulness +2.75, correctness +3.00, \
coherence +1.65, complexity +0.00, verbosity −1.00
  total (helpfulness + correctness + coherence) +7.40, from 5 to 10
Attributes
  helpfulness and correctness are correlated (r = +0.92): nearly one attribute
  complexity never varies: it does not distinguish completions
  helpfulness and verbosity are correlated (r = −0.92): nearly each other's opposite
  correctness and verbosity are correlated (r = −1.00): nearly each other's opposite
Bias
  truth, length: r = −0.93 between differences in words and in total, over 25 comparisons within prompts
  warning: truth rewards shorter completions
Repetition
  0 repeated pairs, 0 repeated questions
  0 of 20 images are used by more than one pair""",
    "seva": """\
seva
  25 prompts, 50 completions, 20 pairs, 20 images
Dropped
  margin (select) 3, identical (select) 2
Length
  chosen 10.7 words, rejected 16.0: −5.3 (95 % interval −6.8 to −4.1)
  chosen is longer in 0%, shorter in 100% of 20 comparisons
  warning: training on these pairs also rewards shorter completions; compare with \
`pairsight align … --set max_length_difference=2` (length-matched pairs)
Repetition
  0 repeated pairs, 0 repeated questions
  0 of 20 images are used by more than one pair""",
}


def test_the_figures_are_those_of_before(tmp_path):
    demo = run_folders.write_demo(tmp_path / "demo")
    found = {name: inspect_run(demo / name) for name in ("feedback", "seva")}
    assert {name: describe(one) for name, one in found.items()} == TEXTS
    assert found["feedback"].lengths.interval == (-8.15, -5.8)
    assert found["seva"].lengths.interval == (-6.75, -4.1)
    r = [value for value in found["feedback"].correlations.values[0] if value is not None]
    assert r == pytest.approx([1.0, 0.9236370674627926, 0.3825031357657988, -0.9236370674627926], rel=1e-15)
    assert list(found["feedback"].margins.means.values()) == [2.75, 3.0, 1.65, 0.0, -1.0]


class Watched:
    """A sequence that counts how many records are alive as it is gone through."""

    def __init__(self, items, kinds):
        self.items, self.kinds, self.most = items, kinds, 0
        self.before = self.alive()

    def alive(self):
        gc.collect()
        return sum(isinstance(other, self.kinds) for other in gc.get_objects())

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        for number, one in enumerate(self.items):
            if number % 50 == 0:
                self.most = max(self.most, self.alive() - self.before)
            yield one


def test_few_records_are_alive_while_a_run_is_inspected(tmp_path):
    data = read_dataset(run_folders.write_run(tmp_path / "run", "feedback", num_pairs=120, size=2))
    watched = Watched(data.rated, (Candidates, PreferencePair))
    found = inspect_dataset(Dataset(data.name, data.pairs, watched, num_prompts=data.num_prompts))
    assert (found.counts["pairs"], found.num_annotated) == (120, 250)
    assert 0 < watched.most <= 5


def test_a_first_number_far_from_the_others_costs_no_digits():
    x, y = [0.01 * k for k in range(50)], [0.01 * (k % 7) for k in range(50)]
    sums = JointSums()
    sums.add({"x": 1e6}, {})
    sums.add({}, {"y": -1e6})
    for one, other in zip(x, y, strict=True):
        sums.add({"x": one}, {"y": other})
    assert sums.pearson("x", "y") == pytest.approx(pearson(x, y), abs=1e-12)
    assert sums.kappa("x", "y") == pytest.approx(kappa(x, y, "quadratic"), abs=1e-12)
