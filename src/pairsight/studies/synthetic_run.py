"""All analyses of the paper on one synthetic run, each with its table and figure, into `RUN/studies/`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import Field

from pairsight.errors import DataError
from pairsight.models.scorers.names import looks
from pairsight.pipeline.select import load_candidates
from pairsight.records import Candidates
from pairsight.studies.completion_scores import (
    completion_score_distributions,
    image_score_distributions,
    scorer_disagreement,
)
from pairsight.studies.image_selection import ImageJudge, guidance_wins, judged_wins, selector_overlap
from pairsight.studies.result import Study, StudyResult
from pairsight.studies.similarity import Embed, Said, said, similarity


class SyntheticAnalyses(Study):
    """`pairsight study synthetic --run RUN`: every analysis that the run's scorers allow."""

    run: str = Field(description="a finished run of the recipe synthetic")
    embedding_model: str | None = Field(None, description="an encoder for the similarity of completions and prompts")

    def results(self, *, quiet: bool = False) -> list[StudyResult]:
        """Make them, written to `RUN/studies/`; says, unless `quiet`, which were left out and why."""
        embed: tuple[str, Embed] | None = None
        if self.embedding_model is not None:
            from pairsight.studies.text_embedding import TextEmbedder

            embedder = TextEmbedder(self.embedding_model)
            embed = (embedder.name, embedder)
        results, left_out = analyse_run(self.run, embed)
        for reason in [] if quiet else left_out:
            logging.getLogger("pairsight.studies").warning("left out: %s", reason)
        return results


def analyse_run(
    run: str | Path,
    embed: tuple[str, Embed] | None = None,
    judge: tuple[str, ImageJudge] | None = None,
    others: Mapping[str, Sequence[Said]] | None = None,
) -> tuple[list[StudyResult], list[str]]:
    """Every analysis that a run's scorers allow, written to `RUN/studies/`; and what was left out, with the reason.

    Wins per guidance scale and scores always; overlap and judged wins with two image scorers or more; disagreement with
    a completion scorer that looks at the image and one that does not; similarity with an embedding model.

    Args:
        run: a finished synthetic run.
        embed: an embedding model's name and the function.
        judge: a judge of images, its name and the function.
        others: other preference sets, to stand beside the run's similarity.

    Raises:
        DataError: the run has no generated images.
        RunError: no such run.
    """
    results, left_out = analyse(load_candidates(run), embed, judge, others)
    for result in results:
        result.write(Path(run) / "studies")
    return results, left_out


def analyse(
    candidates: Sequence[Candidates],
    embed: tuple[str, Embed] | None = None,
    judge: tuple[str, ImageJudge] | None = None,
    others: Mapping[str, Sequence[Said]] | None = None,
) -> tuple[list[StudyResult], list[str]]:
    """The same on candidates at hand, nothing written."""
    selectors = list(dict.fromkeys(name for one in candidates for image in one.images for name in image.scores))
    scorers = list(dict.fromkeys(note.annotator for one in candidates for note in one.annotations))
    if not selectors:
        raise DataError("these candidates have no generated images: they are not of a synthetic run")
    studies: list[Callable[[], StudyResult]] = [partial(guidance_wins, candidates)]
    studies += [partial(image_score_distributions, candidates, name) for name in selectors]
    if len(selectors) > 1:
        studies.append(partial(selector_overlap, candidates, selectors))
        if judge is not None:
            studies.append(partial(judged_wins, candidates, selectors[0], selectors[1], judge[1], judge[0]))
    studies += [partial(completion_score_distributions, candidates, name) for name in scorers]
    unseeing, looking = ([name for name in scorers if looks(name) is wanted] for wanted in (False, True))
    if unseeing and looking:
        studies.append(partial(scorer_disagreement, candidates, unseeing[0], looking[0]))
    if embed is not None:
        sets = {"this run": said(candidates), **(others or {})}
        studies.append(partial(similarity, sets, embed[1], embed[0]))
    results, left_out = [], []
    for study in studies:
        try:
            results.append(study())
        except DataError as error:
            left_out.append(str(error))
    return results, left_out
