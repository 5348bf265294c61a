"""Down-sampling before a training: a number of pairs of each source, as SeVa's authors do (4,300 and 6,500)."""

from dataclasses import replace

import pytest

from pairsight.errors import ConfigError, DataError
from pairsight.images.source import UnpackedImages, WithImages
from pairsight.options import AlignOptions
from pairsight.pipeline.align import AlignSpec, limited
from pairsight.records import Completion, Message, PreferencePair, Prompt
from pairsight.training.config import TrainingConfig


def pair(name, source):
    texts = [Completion(f"{name}:{index}", name, text, "stop", "m", 0, index) for index, text in enumerate("ab")]
    return PreferencePair(name, Prompt(name, (Message("user", "?"),), source), texts[0], (texts[1],), "s")


PAIRS = [pair(f"{source}-{number}", f"{source}/") for number in range(9) for source in ("ocr_vqa", "textvqa", "gqa")]


def kept(per_source, **options):
    spec = AlignSpec(AlignOptions(data="d", model="m", per_source=per_source, **options), TrainingConfig())
    found = limited(WithImages(PAIRS, UnpackedImages()), spec)
    return [one.id for one in found], spec


def test_a_number_of_each_source_in_their_order_and_the_same_again():
    names, spec = kept({"ocr_vqa": 4, "textvqa/": 2})
    counts = {source: sum(name.startswith(source) for name in names) for source in ("ocr_vqa", "textvqa", "gqa")}
    assert counts == {"ocr_vqa": 4, "textvqa": 2, "gqa": 9}
    assert names == [one.id for one in PAIRS if one.id in names]
    assert names == kept({"ocr_vqa": 4, "textvqa": 2})[0]
    other = replace(spec, training=TrainingConfig(seed=7))
    assert [one.id for one in limited(WithImages(PAIRS, UnpackedImages()), other)] != names
    assert len(kept({"ocr_vqa": 4300}, limit=6)[0]) == 6


def test_bad_counts():
    with pytest.raises(DataError, match=r"per_source names 'coco', and no example is of it; there are 'ocr_vqa' \(9\)"):
        kept({"coco": 3})
    with pytest.raises(ConfigError, match="per_source"):
        kept({"ocr_vqa": 0})
