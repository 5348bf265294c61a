"""All analyses of the PDS-DPO paper on a synthetic run, each with a table and a figure in `RUN/studies/`."""

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
from pairsight.studies.similarity import Embed, PromptTexts, prompt_texts, similarity


class SyntheticAnalyses(Study):
    """`pairsight study synthetic --run RUN`: all analyses that the run's scorers allow."""

    run: str = Field(description="a finished run of the recipe synthetic")
    embedding_model: str | None = Field(None, description="an encoder for the similarity of completions and prompts")

    def results(self, *, quiet: bool = False) -> list[StudyResult]:
        """Run the analyses and write them to `RUN/studies/`; logs, unless `quiet`, which were left out and why."""
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
    others: Mapping[str, Sequence[PromptTexts]] | None = None,
) -> tuple[list[StudyResult], list[str]]:
    """Run all analyses that a run's scorers allow and write them to `RUN/studies/`.

    Wins per guidance scale and score distributions always; overlap and judged wins with at least two image scorers;
    disagreement with a text-only and an image-aware completion scorer; similarity with an embedding model.

    Args:
        run: a finished synthetic run.
        embed: an embedding model's name and function.
        judge: an image judge's name and function.
        others: other data sets to compare in the similarity study.

    Returns:
        The results, and the reasons why analyses were left out.

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
    others: Mapping[str, Sequence[PromptTexts]] | None = None,
) -> tuple[list[StudyResult], list[str]]:
    """As `analyse_run`, on given candidates and without writing files."""
    selectors = list(dict.fromkeys(name for one in candidates for image in one.images for name in image.scores))
    scorers = list(dict.fromkeys(note.annotator for one in candidates for note in one.annotations))
    if not selectors:
        raise DataError("the candidates have no generated images: they are not of a synthetic run")
    studies: list[Callable[[], StudyResult]] = [partial(guidance_wins, candidates)]
    studies += [partial(image_score_distributions, candidates, name) for name in selectors]
    if len(selectors) > 1:
        studies.append(partial(selector_overlap, candidates, selectors))
        if judge is not None:
            studies.append(partial(judged_wins, candidates, selectors[0], selectors[1], judge[1], judge[0]))
    studies += [partial(completion_score_distributions, candidates, name) for name in scorers]
    text_only, image_aware = ([name for name in scorers if looks(name) is wanted] for wanted in (False, True))
    if text_only and image_aware:
        studies.append(partial(scorer_disagreement, candidates, text_only[0], image_aware[0]))
    if embed is not None:
        sets = {"this run": prompt_texts(candidates), **(others or {})}
        studies.append(partial(similarity, sets, embed[1], embed[0]))
    results, left_out = [], []
    for study in studies:
        try:
            results.append(study())
        except DataError as error:
            left_out.append(str(error))
    return results, left_out
