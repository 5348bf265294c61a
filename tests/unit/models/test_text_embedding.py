"""Texts as unit vectors: the mean over a text's own tokens, whatever the batch; CLIP's own vector."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, CLIPModel

from pairsight.studies.text_embedding import TextEmbedder
from scorer_folders import bert_tokenizer, save_clip

torch.set_num_threads(1)


def test_the_mean_over_a_texts_tokens(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=64, max_position_embeddings=8, **sizes)).save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    embed = TextEmbedder(tmp_path, device="cpu")
    vectors = embed(["red circle", "the photo of two small blue square", "red " * 50])
    assert vectors.shape == (3, 16)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    ids = torch.tensor([bert_tokenizer()("red circle")["input_ids"]])
    with torch.no_grad():
        mean = BertModel.from_pretrained(tmp_path).eval()(ids).last_hidden_state[0].mean(0).numpy()
    assert vectors[0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def test_clip_has_its_own_text_vector(tmp_path):
    folder = save_clip(tmp_path)
    embed = TextEmbedder(folder, device="cpu")
    vector = embed(["red circle"])[0]
    ids = torch.tensor([embed.tokenizer("red circle")["input_ids"]])
    with torch.no_grad():
        own = CLIPModel.from_pretrained(folder).eval().get_text_features(ids).pooler_output[0].numpy()
    assert vector == pytest.approx(own / np.linalg.norm(own), abs=1e-5)
