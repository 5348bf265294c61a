"""Every family: our drawing equals `generate` of transformers token for token, whatever else is in the batch."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import families
from family_prompts import Pictures, prompts_of
from pairsight.models.load import load_model
from pairsight.models.local.decoding import Draws
from pairsight.models.local.processor import EncodedPrompt, encode, load_processor
from pairsight.models.local.sampling import draw
from pairsight.models.local.tokens import stop_rules
from pairsight.models.protocols import Sampling

GREEDY = Sampling(temperature=0, max_new_tokens=14)
WARM = Sampling(temperature=1.2, top_p=0.95, max_new_tokens=10)


@dataclass
class Case:
    model: Any
    processor: Any
    encoded: list[EncodedPrompt]


@pytest.fixture(scope="module", params=families.FAMILIES)
def case(request, tmp_path_factory):
    torch.set_num_threads(1)
    folder = families.build(request.param, tmp_path_factory.mktemp(request.param))
    processor, pictures = load_processor(folder), Pictures()
    encoded = [encode(processor, prompt, pictures) for prompt in prompts_of(request.param, pictures)]
    return Case(load_model(folder), processor, encoded)


def generated(case, prompt):
    """What transformers makes of one prompt, up to its stop token."""
    ids = torch.tensor([prompt.input_ids])
    per_token = {name: torch.tensor([values]) for name, values in prompt.token_inputs.items()}
    with torch.no_grad():
        made = case.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=GREEDY.max_new_tokens,
            **per_token,
            **prompt.tensors,
        )[0, ids.shape[1] :].tolist()
    stops = stop_rules(case.model, case.processor).stop_ids
    end = next((index for index, token in enumerate(made) if token in stops), None)
    return tuple(made if end is None else made[:end]), "length" if end is None else "stop"


def test_greedy_completions_are_those_of_generate_in_one_mixed_batch(case):
    drawn = draw(case.model, case.processor, [Draws(prompt, (0,)) for prompt in case.encoded], GREEDY)
    assert [(one.token_ids, one.finish_reason) for (one,) in drawn] == [generated(case, p) for p in case.encoded]


def test_the_image_matters(case):
    seeing = [prompt for prompt in case.encoded if prompt.images]
    if seeing:
        blind = [
            EncodedPrompt(
                prompt.input_ids,
                {**prompt.tensors, "pixel_values": -prompt.tensors["pixel_values"]},
                prompt.token_inputs,
                prompt.images,
                prompt.image_spans,
            )
            for prompt in seeing
        ]
        draws = [
            draw(case.model, case.processor, [Draws(p, tuple(range(16))) for p in group], WARM)
            for group in (seeing, blind)
        ]
        assert draws[0] != draws[1]


def test_sampled_completions_follow_their_seeds_in_any_batch(case):
    together = draw(case.model, case.processor, [Draws(prompt, (1, 2, 3)) for prompt in case.encoded], WARM)
    for prompt, three in zip(case.encoded, together, strict=True):
        alone = draw(case.model, case.processor, [Draws(prompt, (3, 1))], WARM, batch_size=1)
        assert alone == [[three[2], three[0]]]
    assert len({one.token_ids for three in together for one in three}) > len(case.encoded)
