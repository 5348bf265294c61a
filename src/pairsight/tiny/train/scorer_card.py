"""How well the tiny scorers rank, measured on the part "validation", and their model cards."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from pairsight.images.source import FileImages
from pairsight.models.scorers.base import ImageText
from pairsight.models.scorers.names import load_completion_scorer, load_image_scorer
from pairsight.records import Completion, ItemError, Message, Prompt
from pairsight.tiny.train.scorer_data import Example, edited, true_caption
from pairsight.tiny.world.captions import word_caption
from pairsight.tiny.world.questions import CAPTION_PROMPTS
from pairsight.tiny.world.render import render
from pairsight.tiny.world.scenes import scenes

_SCENES = 300
_KINDS = {"clip": "clip", "blip": "blip_match", "image_reward": "image_reward", "reward": "sequence"}


def measure_scorers(folder: Path, num_scenes: int = _SCENES) -> dict[str, float]:
    """The share of validation scenes whose true caption scores above the same with one edit; 0.5 is chance."""
    with TemporaryDirectory() as pictures:
        rows = [_pair(index) for index in range(num_scenes)]
        for index, (true, _) in enumerate(rows):
            Image.fromarray(render(true.scene)).save(Path(pictures) / f"{index}.png")
        images = FileImages(pictures)
        refs = [images.ref(f"{index}.png") for index in range(num_scenes)]
        found = {}
        for name, kind in _KINDS.items():
            texts = [[word_caption(one.kinds) for one in pair] for pair in rows]
            if kind == "sequence":
                scorer = load_completion_scorer(f"{kind}:{folder / name}", images, "cpu")
                asked = Prompt("p", (Message("user", CAPTION_PROMPTS[0]),))
                scored = [scorer.score([(asked, _said(text)) for text in pair]) for pair in texts]
            else:
                looking = load_image_scorer(f"{kind}:{folder / name}", images, "cpu")
                items: list[list[ImageText]] = [
                    [(text, ref) for text in pair] for pair, ref in zip(texts, refs, strict=True)
                ]
                scored = [looking.score(pair) for pair in items]
            found[name] = float(np.mean([_value(a) > _value(b) for a, b in scored]))
    return found


def write_scorer_cards(folder: Path, seed: int, steps: Mapping[str, int], measured: Mapping[str, float]) -> None:
    """A `README.md` in each scorer's folder."""
    about = {
        "clip": "A `CLIPModel`, trained by contrast between pictures and captions",
        "blip": "A `BlipForImageTextRetrieval`, trained by contrast and by matching against edited captions",
        "image_reward": "ImageReward's network, trained to rank two pictures of one text and two texts of one picture",
        "reward": "A `LlamaForSequenceClassification` that never sees the picture, trained to rank captions",
    }
    for name, text in about.items():
        lines = [
            f"# The tiny {name.replace('_', ' ')} scorer of the rendered world",
            "",
            f"{text} (scenes of the part `train`), from scratch in {steps[name]} steps by",
            f"`python -m pairsight.tiny.train.scorers --seed {seed}`.",
            "",
            f"Of {_SCENES} scenes of the part `validation` it scores the true caption above the same with one edit for",
            f"{measured[name]:.1%} (chance: 50 %).",
            "",
            "Licence: Apache-2.0, as the package.",
        ]
        (folder / name / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _pair(index: int) -> tuple[Example, Example]:
    scene = scenes("validation", 1, seed=700, start=index)[0]
    rng = np.random.default_rng([48_2028, index])
    true = true_caption(scene, rng)
    return true, edited(scene, true.kinds, rng, 1)


def _said(text: str) -> Completion:
    return Completion("p:0", "p", text, "stop", "", 0, 0)


def _value(scores: Mapping[str, float] | ItemError) -> float:
    return float("nan") if isinstance(scores, ItemError) else next(iter(scores.values()))
