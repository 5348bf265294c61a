"""Models by name or as objects: what is neither is refused before anything runs."""

import pytest

from pairsight.errors import ConfigError
from pairsight.models.protocols import Annotator
from pairsight.pipeline.models import open_models
from pairsight.store.blobs import BlobStore


class Nobody(Annotator):
    fingerprint = "nobody"

    def annotate(self, prompt, completions):
        return []


def test_an_annotator_is_a_reference_or_an_annotator(tmp_path):
    class Looks:
        fingerprint = "looks like one"

        def annotate(self, prompt, completions):
            return []

    nobody = Nobody()
    assert open_models([], BlobStore(tmp_path), annotator=nobody).annotator is nobody
    assert open_models([], BlobStore(tmp_path)).annotator is None
    with pytest.raises(ConfigError, match="annotator: found a Looks; give a model's name, or an object of a class"):
        open_models([], BlobStore(tmp_path), annotator=Looks())
