"""The synthetic system on what ships: real pictures, four models, scorers that look and one that does not."""

import numpy as np
import pytest
import torch

from pairsight.models.images.diffusion import DiffusersGenerator
from pairsight.pipeline.select import load_candidates, select
from pairsight.selection.strategy import make_strategy
from pairsight.tiny.demo import GUIDANCE_SCALES, build_synthetic
from pairsight.tiny.models.cards import shown
from pairsight.tiny.models.shipped import shipped_pipeline
from pairsight.tiny.world.picture_texts import picture_prompts, write_texts
from pairsight.tiny.world.world_files import write_world

torch.set_num_threads(1)


def test_guidance_makes_pictures_show_what_was_asked():
    texts = [one.question for one in picture_prompts(6, seed=4)]
    generator = DiffusersGenerator(shipped_pipeline(), num_inference_steps=10, device="cpu")
    recall = {scale: shown(texts, generator.generate(texts, scale, range(30)), scale).recall for scale in (1.0, 5.0)}
    assert recall[5.0] > recall[1.0] + 0.1
    assert recall[5.0] > 0.5


@pytest.mark.long
def test_a_run_on_the_shipped_weights_has_pairs_ranked_two_ways(tmp_path):
    world = write_world(tmp_path / "world", 1, prompt_scenes=0)
    write_texts(tmp_path / "texts.jsonl", 4)
    build_synthetic(world, tmp_path / "run", texts=tmp_path / "texts.jsonl", quiet=True)
    candidates = load_candidates(tmp_path / "run")
    assert len(candidates) >= 12
    for one in candidates:
        assert [image.guidance_scale for image in one.images] == list(GUIDANCE_SCALES)
        assert len({image.image.sha256 for image in one.images}) == len(GUIDANCE_SCALES)
        assert len({completion.model for completion in one.completions}) == 4
        assert np.asarray(candidates.images.open(one.prompt.images[0])).shape == (48, 48, 3)
    by_looking, by_reading = (
        {
            pair.prompt.id: pair.chosen.text
            for pair in select(candidates, make_strategy("best_over_worst", **own))[0].items
        }
        for own in ({}, {"scorer": "sequence"})
    )
    assert len(by_looking) >= 10
    assert any(by_looking[key] != by_reading.get(key) for key in by_looking)
