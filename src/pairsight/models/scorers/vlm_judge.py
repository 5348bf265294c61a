"""A vision-language model as a scorer of (prompt, completion) that looks, by the annotation prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pairsight.images.source import ImageSource
from pairsight.models.annotation.options import AnnotationOptions
from pairsight.models.annotation.vlm_annotator import VlmAnnotator, annotator_fingerprint
from pairsight.models.endpoint.model import endpoint_fingerprint, is_endpoint
from pairsight.models.folders import fingerprint
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.protocols import Generator
from pairsight.models.scorers.base import Rated, Scorer, Scores
from pairsight.records import ATTRIBUTES, QUALITY_ATTRIBUTES, Annotation, Candidates, ItemError

if TYPE_CHECKING:
    import torch


class VlmJudge(Scorer[Rated]):
    """Any model that follows the annotation prompt. Each completion is rated alone, so that no other sways its score.

    Its columns: `total`, helpfulness + correctness + coherence in 0–12, which selects; and the five attributes, 0–4.

    Args:
        model_name: a folder, or a hub name. (Behind an endpoint its stage becomes a call: `judging_call`.)
        images: where the prompts' images are.
        device: default: the GPU where there is one.
        generator: instead of the model in `model_name`, one that is open already.
    """

    needs_images: ClassVar[bool] = True
    may_be_endpoint: ClassVar[bool] = True
    asks: ClassVar[bool] = True
    columns = ("total", *ATTRIBUTES)

    def __init__(
        self,
        model_name: str | Path,
        images: ImageSource,
        device: "torch.device | str | None" = None,
        generator: Generator | None = None,
    ) -> None:
        chosen = None if device is None else str(device)
        self.annotator = VlmAnnotator(generator or LocalVLM(model_name, images, device=chosen))
        self.annotator.load()
        self.fingerprint = self.annotator.fingerprint

    @classmethod
    def identity(cls, model_name: str | Path) -> str:
        """The fingerprint of a judge on the model in `model_name`, which is not loaded."""
        model = endpoint_fingerprint(str(model_name)) if is_endpoint(model_name) else fingerprint(model_name)
        return annotator_fingerprint(model)

    def ask_by(self, options: AnnotationOptions) -> None:
        """Ask by a user's own options from now on."""
        self.annotator.options = options
        self.fingerprint = self.annotator.fingerprint

    def score(self, items: Sequence[Rated]) -> list[Scores]:
        """One mapping column -> number, or error, per completion: what cannot be parsed is that item's error."""
        alone = [Candidates(prompt, (completion,)) for prompt, completion in items]
        return [quality_scores(marks[0]) for marks in self.annotator.annotate_batch(alone)]


def quality_scores(mark: Annotation | ItemError) -> Scores:
    """The scores of one annotation by column; its error when it is one."""
    if isinstance(mark, ItemError):
        return mark
    return {"total": sum(mark.scores[name] for name in QUALITY_ATTRIBUTES), **mark.scores}
