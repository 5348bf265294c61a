"""All analyses of the PDS-DPO paper on a synthetic run, each with a table and a figure in `RUN/studies/`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import Field

from pairsight.build_record import BuildRecord
from pairsight.errors import ConfigError, DataError
from pairsight.models.scorers.names import scorer_kind, sees_images
from pairsight.pipeline.select import load_candidates
from pairsight.records import Candidates
from pairsight.store.run_folder import RunFolder
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
    named = BuildRecord.from_plain(RunFolder.open(run).config).recipe.options.get("completion_scorers")
    scorers = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    results, left_out = analyse(load_candidates(run), embed, judge, others, scorers)
    for result in results:
        result.write(Path(run) / "studies")
    return results, left_out


def analyse(
    candidates: Sequence[Candidates],
    embed: tuple[str, Embed] | None = None,
    judge: tuple[str, ImageJudge] | None = None,
    others: Mapping[str, Sequence[PromptTexts]] | None = None,
    completion_scorers: Sequence[str] = (),
) -> tuple[list[StudyResult], list[str]]:
    """As `analyse_run`, on given candidates and without writing files.

    Args:
        completion_scorers: their complete names, which say of a plug-in where it is and so whether it sees images.
    """
    selectors = list(dict.fromkeys(name for one in candidates for image in one.images for name in image.scores))
    scorers = list(dict.fromkeys(note.annotator for one in candidates for note in one.annotations))
    if not selectors:
        raise DataError("the candidates have no generated images: they are not of a synthetic run")
    studies: list[Callable[[], StudyResult | None]] = [partial(guidance_wins, candidates)]
    studies += [partial(image_score_distributions, candidates, name) for name in selectors]
    if len(selectors) > 1:
        studies.append(partial(selector_overlap, candidates, selectors))
        if judge is not None:
            studies.append(partial(judged_wins, candidates, selectors[0], selectors[1], judge[1], judge[0]))
    studies += [partial(completion_score_distributions, candidates, name) for name in scorers]
    if len(scorers) > 1:
        studies.append(partial(_disagreement, candidates, scorers, completion_scorers))
    if embed is not None:
        sets = {"this run": prompt_texts(candidates), **(others or {})}
        studies.append(partial(similarity, sets, embed[1], embed[0]))
    results: list[StudyResult] = []
    left_out: list[str] = []
    for study in studies:
        try:
            if result := study():
                results.append(result)
        except (ConfigError, DataError) as error:
            left_out.append(str(error))
    return results, left_out


def _disagreement(candidates: Sequence[Candidates], kinds: Sequence[str], names: Sequence[str]) -> StudyResult | None:
    """The first text-only scorer against the first image-aware one; None where there are not both.

    Raises:
        ConfigError: a plug-in whose file this call does not name.
    """
    by_kind = {scorer_kind(name): name for name in names}
    sees = {kind: sees_images(by_kind.get(kind, kind)) for kind in kinds}
    text_only, image_aware = ([kind for kind in kinds if sees[kind] is wanted] for wanted in (False, True))
    return scorer_disagreement(candidates, text_only[0], image_aware[0]) if text_only and image_aware else None
