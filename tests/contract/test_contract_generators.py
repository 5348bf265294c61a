"""One suite for every generator: order, names, seeds, errors of single requests, pickling, the stage around it.

A backend joins by a line in `BACKENDS`: a function of a folder and pictures that makes a generator.
"""

import pickle
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import families
from family_prompts import Pictures, ask
from pairsight.models.load import load_model
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.protocols import Generator, Sampling
from pairsight.models.stages import GenerateCompletions
from pairsight.records import Completion, CompletionRequest, ItemError

WARM = Sampling(temperature=1.0, max_new_tokens=6)


def local(family):
    return lambda folder, pictures: LocalVLM(families.build(family, folder / "model"), pictures, batch_size=5)


def with_adapter(folder, pictures):
    families.build("qwen2_5_vl", folder / "model")
    model = get_peft_model(load_model(folder / "model"), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(folder / "adapter")
    return LocalVLM(folder / "model", pictures, folder / "adapter", batch_size=5)


BACKENDS = {**{family: local(family) for family in families.FAMILIES}, "adapter": with_adapter}


@dataclass
class Backend:
    generator: Generator
    pictures: Pictures
    sees: bool

    def requests(self, samples=2) -> list[CompletionRequest]:
        pictures = [self.pictures.ref(number) for number in range(3)] if self.sees else []
        prompts = [ask(f"p{n}", f"What is {n}?", *pictures[n : n + 1]) for n in range(3)]
        return [CompletionRequest(prompt, index, seed=17 * index) for prompt in prompts for index in range(samples)]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request, tmp_path_factory):
    torch.set_num_threads(1)
    pictures = Pictures()
    generator = BACKENDS[request.param](tmp_path_factory.mktemp(request.param), pictures)
    return Backend(generator, pictures, request.param != "llama")


def test_one_result_per_request_in_order_under_its_names(backend):
    wanted = backend.requests()
    made = backend.generator.generate(wanted, WARM)
    assert all(isinstance(one, Completion) for one in made)
    for one, request in zip(made, wanted, strict=True):
        assert one.id == f"{request.prompt.id}:{request.sample_index}"
        assert (one.prompt_id, one.seed, one.sample_index) == (request.prompt.id, request.seed, request.sample_index)
        assert one.model == backend.generator.fingerprint
        assert one.finish_reason in ("stop", "length")
        assert one.images is None


def test_a_request_s_result_does_not_depend_on_the_others(backend):
    wanted = backend.requests()
    made = backend.generator.generate(wanted, WARM)
    assert backend.generator.generate(wanted[::-1], WARM) == made[::-1]
    assert [backend.generator.generate([request], WARM)[0] for request in wanted] == made


def test_a_bad_request_fails_alone(backend):
    wanted = backend.requests(1)
    bad = CompletionRequest(ask("bad", "<image><image><image>", *wanted[0].prompt.images))
    long = CompletionRequest(ask("long", "x" * 3000, *wanted[0].prompt.images))
    made = backend.generator.generate([bad, *wanted, long], WARM)
    assert [one.reason for one in made if isinstance(one, ItemError)] == ["image_marks", "too_long"]
    assert made[1:-1] == backend.generator.generate(wanted, WARM)


def test_no_requests_are_no_work(backend):
    assert backend.generator.generate([], WARM) == []


def test_it_travels_to_workers(backend):
    copy: Any = pickle.loads(pickle.dumps(backend.generator))
    assert copy.fingerprint == backend.generator.fingerprint
    wanted = backend.requests(1)
    assert copy.generate(wanted, WARM) == backend.generator.generate(wanted, WARM)
    copy.close()


def test_the_stage_gives_the_same(backend):
    stage = GenerateCompletions(generator=backend.generator, sampling=WARM)
    wanted = backend.requests()
    stage.setup()
    assert list(stage.process(wanted)) == backend.generator.generate(wanted, WARM)
    assert len({str(stage.key(request)) for request in wanted}) == len(wanted)
    named = replace(wanted[0], prompt=replace(wanted[0].prompt, id="other"))
    assert stage.key(named) == stage.key(wanted[0])
