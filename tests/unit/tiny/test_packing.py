"""Packed rows give the loss and gradients of the questions asked one at a time."""

import numpy as np
import pytest
import torch

from pairsight.tiny.models.architecture import Size, build_model, build_processor
from pairsight.tiny.train.language import Encoder, embed
from pairsight.tiny.train.packing import PrefixGroup, pack, packed_loss
from pairsight.tiny.train.vision import patch_labels
from pairsight.tiny.world.noise import pixels
from pairsight.tiny.world.render import render_image
from pairsight.tiny.world.scenes import scenes

SMALL = Size(width=32, vision_layers=1, language_layers=2, language_mlp=48, heads=2)
QUESTIONS = (("Is there a red circle in the image?", "No"), ("What is in the image?", "There is a blue ring."))


@pytest.fixture(scope="module")
def processor():
    return build_processor()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(SMALL)


def test_packed_questions_equal_the_same_asked_alone(model, processor):
    encoder = Encoder(processor.tokenizer)
    scene = scenes("train", 1)[0]
    branches = tuple(encoder.branch(*question) for question in QUESTIONS)
    image = torch.from_numpy(pixels(scene, None, np.random.default_rng(0)))[None]

    def loss(rows):
        batch = pack(rows, encoder.pad_id)
        embeddings = embed(model, batch, image.expand(len(rows), -1, -1, -1), encoder.image_id)
        return packed_loss((model.model.language_model, model.lm_head), batch, embeddings)

    prefix = encoder.prefix(image=True)
    together = loss([PrefixGroup(prefix, branches)])
    apart = loss([PrefixGroup(prefix, (branch,)) for branch in branches])
    assert together.item() == pytest.approx(apart.item(), abs=1e-5)
    model.zero_grad()
    together.backward()
    packed_gradient = model.lm_head.weight.grad.clone()
    model.zero_grad()
    apart.backward()
    assert torch.allclose(packed_gradient, model.lm_head.weight.grad, atol=1e-5)


def test_training_sees_what_the_processor_and_the_template_make(model, processor):
    scene = scenes("train", 1)[0]
    encoder = Encoder(processor.tokenizer)
    question, answer = QUESTIONS[0]
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    inputs = processor(text=processor.apply_chat_template(messages), images=render_image(scene), return_tensors="pt")
    asked, completed = encoder.branch(question, answer)
    assert tuple(inputs["input_ids"][0].tolist()) == encoder.prefix(image=True) + asked + completed
    trained_on = torch.from_numpy(pixels(scene, None, np.random.default_rng(0)))
    assert torch.allclose(inputs["pixel_values"][0], trained_on, atol=1e-5)
    features = model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    row = PrefixGroup(encoder.prefix(image=True), ((asked, completed),))
    batch = pack([row], encoder.pad_id)
    embedded = embed(model, batch, inputs["pixel_values"], encoder.image_id)
    assert torch.allclose(embedded[0, 2:38], features, atol=1e-5)


def test_patch_labels_by_hand():
    scene = scenes("train", 1)[0]
    colours, shapes, cells = patch_labels(scene)
    assert cells.tolist()[:6] == [0, 0, 1, 1, 2, 2]
    assert cells.tolist()[-2:] == [8, 8]
    assert {int(cell) for cell in cells[colours > 0]} == {thing.cell for thing in scene.things}
    assert ((colours > 0) == (shapes > 0)).all()
