"""Drawing completions: seeds, batches, stop rules, one prefill a prompt."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import families
from family_prompts import Pictures, ask, prompts_of
from pairsight.errors import ModelError
from pairsight.models.load import free_bytes, load_model
from pairsight.models.local.decoding import Drawn, Draws
from pairsight.models.local.processor import encode, load_processor
from pairsight.models.local.sampling import cache_bytes, draw, rows_that_fit
from pairsight.models.local.tokens import StopRules, stop_rules
from pairsight.models.protocols import Sampling
from pairsight.records import ItemError

GREEDY = Sampling(temperature=0, max_new_tokens=12)
WARM = Sampling(temperature=1.3, top_p=0.9, top_k=50, max_new_tokens=12)


@dataclass
class Case:
    model: Any
    processor: Any
    encoded: list[Any]

    def draw(self, draws, sampling, batch_size=32):
        return draw(self.model, self.processor, draws, sampling, batch_size)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    torch.set_num_threads(1)
    folder = families.build("llava", tmp_path_factory.mktemp("llava"))
    processor, pictures = load_processor(folder), Pictures()
    return Case(load_model(folder), processor, [encode(processor, p, pictures) for p in prompts_of("llava", pictures)])


def test_a_seed_gives_the_same_completion_in_any_batch(llava):
    every = [Draws(prompt, (1, 2, 3, 4)) for prompt in llava.encoded]
    together = llava.draw(every, WARM)
    alone = [llava.draw([Draws(prompt, (seed,))], WARM)[0] for prompt in llava.encoded for seed in (1, 2, 3, 4)]
    assert [one for group in together for one in group] == [group[0] for group in alone]
    assert together == llava.draw(every, WARM, batch_size=5)
    assert len({one.token_ids for one in together[0]}) == 4


def test_other_seeds_give_other_completions_and_the_order_of_seeds_is_kept(llava):
    (a,), (b,) = (
        llava.draw([Draws(llava.encoded[0], (7, 8))], WARM),
        llava.draw([Draws(llava.encoded[0], (8, 7))], WARM),
    )
    assert a == b[::-1]
    assert a[0] != a[1]


def test_greedy_completions_do_not_depend_on_their_neighbours(llava):
    together = llava.draw([Draws(prompt, (0,)) for prompt in llava.encoded], GREEDY)
    assert together == [llava.draw([Draws(prompt, (0,))], GREEDY)[0] for prompt in llava.encoded]


def test_greedy_samples_of_one_prompt_are_one(llava):
    (three,) = llava.draw([Draws(llava.encoded[0], (1, 2, 3))], GREEDY)
    assert len(three) == 3
    assert len(set(three)) == 1


def test_a_prompt_is_read_once_for_all_its_completions(llava):
    read = []

    def count(_module, _arguments, given):
        read.append((tuple(given["input_ids"].shape), given.get("pixel_values") is not None))

    hook = llava.model.register_forward_pre_hook(count, with_kwargs=True)
    llava.draw([Draws(llava.encoded[0], (1, 2, 3, 4))], WARM)
    hook.remove()
    assert read[0] == ((1, len(llava.encoded[0].input_ids)), True)
    assert read[1] == ((4, 1), False)
    assert all(shape[1] == 1 and not seen for shape, seen in read[1:])


def test_finished_rows_leave_the_batch(llava):
    config = llava.model.generation_config
    before = config.eos_token_id
    config.eos_token_id = [2, *range(100, 160)]
    rows = []
    hook = llava.model.register_forward_pre_hook(
        lambda _m, _a, given: rows.append(given["input_ids"].shape[0]), with_kwargs=True
    )
    (drawn,) = llava.draw([Draws(llava.encoded[0], tuple(range(16)))], WARM)
    hook.remove()
    config.eos_token_id = before
    assert {one.finish_reason for one in drawn} >= {"stop"}
    assert min(rows[1:]) < 16
    assert rows[1:] == sorted(rows[1:], reverse=True)


def test_the_stop_token_is_no_part_of_the_completion(llava):
    (free,) = llava.draw([Draws(llava.encoded[0], (0,))], GREEDY)
    config = llava.model.generation_config
    before, config.eos_token_id = config.eos_token_id, [2, free[0].token_ids[3]]
    (stopped,) = llava.draw([Draws(llava.encoded[0], (0,))], GREEDY)
    config.eos_token_id = before
    first = free[0].token_ids.index(free[0].token_ids[3])
    assert stopped[0].token_ids == free[0].token_ids[:first]
    assert stopped[0].finish_reason == "stop"
    assert free[0].finish_reason == "length"
    assert len(free[0].token_ids) == 12


def test_a_stop_string_ends_a_completion_before_it():
    rules = StopRules((), ("###", "\nUSER"), None, 1.0, 0, ())
    assert rules.cut_at_stop_string("An answer\nUSER: ###") == "An answer"
    assert rules.cut_at_stop_string("An answer") is None


def test_a_stop_string_is_found_while_drawing(llava):
    (free,) = llava.draw([Draws(llava.encoded[0], (5,))], WARM)
    stop = free[0].text[3:5]
    config = llava.model.generation_config
    config.stop_strings = [stop]
    (stopped,) = llava.draw([Draws(llava.encoded[0], (5,))], WARM)
    config.stop_strings = None
    assert stopped[0].text == free[0].text[: free[0].text.find(stop)]
    assert stopped[0].finish_reason == "stop"


def test_the_repetition_penalty_of_the_model_is_that_of_transformers(llava):
    config = llava.model.generation_config
    config.repetition_penalty = 1.7
    drawn = llava.draw([Draws(prompt, (0,)) for prompt in llava.encoded], GREEDY)
    expected = []
    for prompt in llava.encoded:
        ids = torch.tensor([prompt.input_ids])
        made = llava.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                                    max_new_tokens=12, **prompt.tensors)  # fmt: skip
        expected.append(tuple(made[0, ids.shape[1] :].tolist()))
    config.repetition_penalty = None
    assert [one[0].token_ids for one in drawn] == expected


def test_a_prompt_longer_than_the_context_is_an_error_of_its_own_before_the_model_runs(llava):
    long = encode(llava.processor, ask("p", "x" * 1100), Pictures())
    ran = []
    hook = llava.model.register_forward_pre_hook(lambda *_: ran.append(1))
    (error,) = llava.draw([Draws(long, (0,))], GREEDY)
    hook.remove()
    assert isinstance(error, ItemError)
    assert (error.reason, error.retryable) == ("too_long", False)
    assert f"{len(long.input_ids)} tokens, the model's context 1024" in error.detail
    assert ran == []
    results = llava.draw([Draws(long, (0,)), Draws(llava.encoded[0], (0,))], GREEDY)
    assert isinstance(results[0], ItemError)
    assert isinstance(results[1][0], Drawn)


def test_a_completion_ends_where_the_context_ends(llava):
    words = encode(llava.processor, ask("p", "x" * 998), Pictures())
    room = 1024 - len(words.input_ids)
    assert 0 < room < 12
    (drawn,) = llava.draw([Draws(words, (0,))], GREEDY)
    assert len(drawn[0].token_ids) == room
    assert drawn[0].finish_reason == "length"


def test_rules_come_from_the_model_s_generation_config(llava):
    rules = stop_rules(llava.model, llava.processor)
    assert rules == StopRules((2,), (), 1024, 1.0, 0, ())
    assert rules.new_tokens(1000, 512) == 24
    llava.model.generation_config.no_repeat_ngram_size = 3
    assert stop_rules(llava.model, llava.processor).needs_generate == ("no_repeat_ngram_size",)
    llava.model.generation_config.no_repeat_ngram_size = None


class CannotShare:
    """A model that can only `generate`."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, **_):
        raise NotImplementedError


def generated(case, prompt, **options):
    ids = torch.tensor([prompt.input_ids])
    made = case.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, **prompt.tensors, **options
    )
    return tuple(token for token in made[0, ids.shape[1] :].tolist() if token != 2)


def test_a_family_not_proven_is_compared_with_generate_and_served_either_way(llava, monkeypatch, caplog):
    monkeypatch.setattr("pairsight.models.local.sampling.PROVEN", frozenset())
    draws = [Draws(prompt, (0, 1)) for prompt in llava.encoded]
    assert llava.draw(draws, WARM) == draw(llava.model, llava.processor, draws, WARM)
    assert caplog.text == ""
    other = Case(CannotShare(llava.model), llava.processor, llava.encoded)
    other.model.get_base_model = lambda: other.model
    assert other.draw(draws, GREEDY) == llava.draw(draws, GREEDY)
    assert "model of type 'llava': completions are drawn one by one, its prompts cannot share" in caplog.text
    warm = other.draw(draws, WARM)
    assert warm == other.draw(draws[::-1], WARM)[::-1]
    assert warm[0][0] != warm[0][1]
    assert len(caplog.records) == 1


def test_options_that_only_generate_knows_are_left_to_it(llava, caplog):
    model = CannotShare(llava.model)
    model.get_base_model = lambda: model
    config = llava.model.generation_config
    config.no_repeat_ngram_size = 2
    drawn = draw(model, llava.processor, [Draws(prompt, (0,)) for prompt in llava.encoded], GREEDY)
    expected = [generated(llava, prompt, do_sample=False) for prompt in llava.encoded]
    config.no_repeat_ngram_size = None
    assert [one[0].token_ids for one in drawn] == expected
    assert "only generate() knows its no_repeat_ngram_size" in caplog.text


def test_a_model_that_computes_no_numbers_is_said_so(tmp_path):
    folder = families.build("llama", tmp_path)
    model, processor = load_model(folder), load_processor(folder)
    model.lm_head.weight.data[5] = float("nan")
    with pytest.raises(ModelError, match="computes NaN"):
        draw(model, processor, [Draws(encode(processor, ask("p", "Hi"), Pictures()), (0,))], WARM)


def test_a_token_that_the_model_does_not_know_is_an_error_of_its_prompt(llava):
    known = llava.encoded[0]
    strange = replace(known, input_ids=[*known.input_ids, 5000])
    refused, fine = llava.draw([Draws(strange, (0,)), Draws(known, (0,))], GREEDY)
    assert isinstance(refused, ItemError)
    assert refused.detail.startswith("token 5000 is not one of the model's")
    assert isinstance(fine, list)


def test_rows_at_once_are_what_memory_holds(llava, monkeypatch):
    # 2 (keys, values) × 2 layers × 2 heads × 8 wide × 4 bytes × 100 tokens
    assert cache_bytes(llava.model, 100) == 25_600
    monkeypatch.setattr("pairsight.models.local.sampling.free_bytes", lambda device: 10 * 25_600)
    assert [rows_that_fit(llava.model, 100, wanted) for wanted in (3, 50)] == [3, 5]
    monkeypatch.setattr("pairsight.models.local.sampling.free_bytes", lambda device: 0)
    assert rows_that_fit(llava.model, 100, 50) == 1


def test_free_memory_is_some_of_the_machine_s():
    assert 1 << 20 < free_bytes(torch.device("cpu")) < 1 << 50
