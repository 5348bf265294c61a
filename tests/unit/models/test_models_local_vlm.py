"""A model folder as a generator, and the stage of completions."""

import pickle
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

import families
from family_prompts import Pictures, ask
from pairsight.errors import DataError
from pairsight.images.distort import make_distortion
from pairsight.models.folders import fingerprint
from pairsight.models.load import load_model
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.protocols import Sampling, named_for, request_key, seen_prompt
from pairsight.models.stages import GenerateCompletions
from pairsight.records import Completion, CompletionRequest, ImageRef, ItemError, Message, Prompt

GREEDY = Sampling(temperature=0, max_new_tokens=8)
WARM = Sampling(temperature=1.2, max_new_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return families.build("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def pictures():
    made = Pictures()
    for number in range(4):
        made.ref(number)
    return made


@pytest.fixture(scope="module")
def vlm(folder, pictures):
    return LocalVLM(folder, pictures)


def requests(pictures, count=3, samples=2):
    prompts = [ask(f"p{n}", f"What is {n}?", pictures.ref(n)) for n in range(count)]
    return [CompletionRequest(prompt, k, seed=10 * k + 1) for prompt in prompts for k in range(samples)]


def test_completions_come_in_order_under_the_names_of_their_requests(vlm, pictures):
    wanted = requests(pictures)
    made = vlm.generate(wanted, WARM)
    assert [one.id for one in made] == ["p0:0", "p0:1", "p1:0", "p1:1", "p2:0", "p2:1"]
    assert {one.model for one in made} == {vlm.fingerprint} == {fingerprint(vlm.model_name)}
    assert [(one.seed, one.sample_index) for one in made] == [(r.seed, r.sample_index) for r in wanted]
    mixed = [wanted[index] for index in (5, 0, 3)]
    assert vlm.generate(mixed, WARM) == [made[index] for index in (5, 0, 3)]


def test_one_bad_request_fails_alone(vlm, pictures):
    good = requests(pictures, 1, 1)
    bad = [
        CompletionRequest(ask("gone", "What?", ImageRef("e" * 64))),
        CompletionRequest(ask("marks", "<image><image>?", pictures.ref(1))),
        CompletionRequest(ask("long", "x" * 2000)),
        CompletionRequest(ask("count", "What?", pictures.ref(1)), images=()),
    ]
    results = vlm.generate([*bad[:2], *good, *bad[2:]], GREEDY)
    assert [one.reason for one in results if isinstance(one, ItemError)] == [
        "missing_image", "image_marks", "too_long", "image_count"]  # fmt: skip
    assert results[2] == vlm.generate(good, GREEDY)[0]


def test_other_images_are_seen_in_place_of_the_prompt_s(vlm, pictures):
    prompt = ask("p", "What?", pictures.ref(0))
    noisy = ImageRef(pictures.ref(0).sha256, make_distortion("diffusion", seed=1, step=999))
    plain, other, swapped = vlm.generate(
        [
            CompletionRequest(prompt),
            CompletionRequest(prompt, 1, images=(noisy,)),
            CompletionRequest(ask("q", "What?", pictures.ref(1)), 2, images=(pictures.ref(0),)),
        ],
        GREEDY,
    )
    assert plain.text == swapped.text
    assert (plain.images, other.images) == (None, (noisy,))
    dialogue = Prompt("d", (Message("user", "a", (noisy,)), Message("user", "b", (noisy,))))
    seen = seen_prompt(CompletionRequest(dialogue, images=(pictures.ref(0), pictures.ref(1))))
    assert [m.images for m in seen.messages] == [(pictures.ref(0),), (pictures.ref(1),)]
    with pytest.raises(DataError, match="has 2 images and its request 1"):
        seen_prompt(CompletionRequest(dialogue, images=(noisy,)))


def test_weights_load_when_first_needed_and_do_not_travel(folder, pictures):
    vlm = LocalVLM(folder, pictures)
    assert vlm._model is None
    first = vlm.generate(requests(pictures, 1), WARM)
    copy = pickle.loads(pickle.dumps(vlm))
    assert copy._model is None
    assert copy.generate(requests(pictures, 1), WARM) == first
    vlm.close()
    assert vlm._model is None
    assert vlm.generate(requests(pictures, 1), WARM) == first


def test_an_adapter_makes_another_generator(folder, pictures, tmp_path):
    model = get_peft_model(load_model(folder), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=3.0)
    model.save_pretrained(tmp_path / "adapter")
    plain, adapted = LocalVLM(folder, pictures), LocalVLM(folder, pictures, tmp_path / "adapter")
    assert plain.fingerprint != adapted.fingerprint
    wanted = requests(pictures)
    assert [a.text for a in plain.generate(wanted, GREEDY)] != [a.text for a in adapted.generate(wanted, GREEDY)]


class Small:
    """Stands for a GPU that holds at most three rows."""

    def __init__(self, model):
        self.model = model
        self.tried = []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, **given):
        rows = given["input_ids"].shape[0]
        self.tried.append(rows)
        if rows > 3:
            raise torch.OutOfMemoryError("too many rows")
        return self.model(**given)


def test_a_batch_that_does_not_fit_is_halved(folder, pictures, vlm):
    small = LocalVLM(folder, pictures, batch_size=8)
    small.load()
    small._model = Small(small._model)
    small._model.get_base_model = lambda: small._model
    wanted = requests(pictures, 4, 2)
    assert small.generate(wanted, WARM) == vlm.generate(wanted, WARM)
    assert small.batch_size == 2


def test_the_stage_keeps_the_key_free_of_names_and_batches(vlm, pictures):
    stage = GenerateCompletions(generator=vlm, sampling=WARM)
    (item,) = requests(pictures, 1, 1)
    key = stage.key(item)
    assert stage.item_id(item) == "p0:0"
    renamed = replace(item, prompt=replace(item.prompt, id="else", source="s"))
    assert stage.key(renamed) == key == replace(stage, batch_size=2).key(item)
    changed = [
        replace(item, seed=2),
        replace(item, sample_index=1),
        replace(item, prompt=ask("p0", "What is 0 ?", pictures.ref(0))),
        replace(item, images=(pictures.ref(1),)),
        replace(item, images=(ImageRef(pictures.ref(0).sha256, make_distortion("random_flip")),)),
    ]
    keys = [stage.key(other) for other in changed] + [replace(stage, sampling=GREEDY).key(item)]
    assert key not in keys
    assert len({str(other) for other in keys}) == len(keys)
    assert request_key(replace(item, images=item.prompt.images)) == request_key(item)


def test_the_stage_makes_completions_and_is_picklable(folder, pictures):
    stage = pickle.loads(pickle.dumps(GenerateCompletions(LocalVLM(folder, pictures), WARM)))
    stage.setup()
    made = list(stage.process(requests(pictures, 2)))
    stage.close()
    assert [type(one) for one in made] == [stage.output] * len(requests(pictures, 2))
    assert stage.generator._model is None


def test_a_shared_result_can_be_named_for_each_request(pictures):
    made = Completion("p0:0", "p0", "text", "stop", "m", 1, 0)
    (item,) = requests(pictures, 1, 1)
    other = replace(item, prompt=replace(item.prompt, id="q"))
    assert named_for(made, other) == replace(made, id="q:0", prompt_id="q")
