"""Synthetic: generated images, several models' completions, and reward models as the proxy of people.

Paper: Wijaya et al., "Multimodal preference data synthetic alignment with reward model" (PDS-DPO, 2412.17417), and the
    authors' public code.
Inputs: text-to-image prompts, from a file or written by a language model on ten topics; a text-to-image pipeline;
    scorers of images and of completions; several models that answer, none of which need be the one to align.
What it does: K images of each text at K guidance scales; the image that the first image scorer likes best; a How, What
    or Why question about it; one completion of each model; scores of the completions; pairs by `best_over_worst`.
Deviations: the authors change the seed with the guidance scale; here it is shared, so that the scale alone differs
    (`seed_mode`). Refusals, echoes and images used before are left out. An image-aware scorer may be used beside the
    text-only one.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from pairsight.errors import ConfigError
from pairsight.recipes.recipe import RecipeModels, StageRunner
from pairsight.recipes.synthetic.options import SyntheticOptions
from pairsight.recipes.synthetic.steps import Steps
from pairsight.recipes.synthetic.texts import SCENES_A_REQUEST
from pairsight.recipes.workload import Assumed, Roles, Work, annotation_tokens
from pairsight.records import Candidates, Dropped, Prompt
from pairsight.training.config import TrainingConfig


class Synthetic(SyntheticOptions):
    """Pairs on generated images, ranked by reward models."""

    name: ClassVar[str] = "synthetic"
    default_strategy: ClassVar[str] = "best_over_worst"
    roles: ClassVar[tuple[str, ...]] = ("writer",)
    default_training: ClassVar[TrainingConfig] = TrainingConfig(
        loss="dpo",
        beta=0.1,
        learning_rate=1e-5,
        lora_r=128,
        lora_alpha=256.0,
        lora_dropout=0.05,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8,
        num_train_epochs=2.0,
        warmup_ratio=0.03,
        weight_decay=0.0,
    )
    """§4.1 of the paper: 1e-5, two epochs, batch 1 × accumulation 4 × 2 GPUs; LoRA, β and warm-up from the code."""

    def check(self) -> None:
        """Refuse scorers and a pipeline that are not there, before anything is loaded.

        Raises:
            PairsightError: an unknown kind of scorer, or a local folder that is missing or pickled.
        """
        from pairsight.models.folders import local_folder
        from pairsight.models.images.diffusion import pipeline_folder
        from pairsight.models.scorers.base import ImageTextScorer
        from pairsight.models.scorers.names import parse_scorer

        for name in (*self.image_scorers, *self.completion_scorers):
            found, _ = parse_scorer(name)
            if name in self.image_scorers and not issubclass(found, ImageTextScorer):
                raise ConfigError(f"image scorer '{name}' reads text only; clip, blip_match or image_reward look")
        if local_folder(self.image_generator) is not None:
            pipeline_folder(self.image_generator)

    def unused(self, *, prompts: bool, completions: bool) -> Mapping[str, tuple[str, ...]]:
        """Texts that are given are not written."""
        found: dict[str, tuple[str, ...]] = {}
        if prompts:
            found["the text-to-image prompts are given"] = ("topics", "scenes_per_topic", "scene_prompt")
        if self.instruction is not None:
            found["`instruction` is asked of every image"] = ("instruction_input", "instruction_prompt")
        if prompts and self.instruction is not None:
            found["prompts and instruction are given, and nothing is left to write"] = (
                "writer_temperature",
                "writer_max_new_tokens",
                "writer",
            )
        return found

    def work(self, roles: Roles, assumed: Assumed, num_prompts: int) -> tuple[Work, ...]:
        """Written scenes, images and their scores, questions, a completion of each model, and their scores."""
        from pairsight.models.scorers.names import asks, scorer_kind

        texts, found = num_prompts or len(self.topics) * self.scenes_per_topic, []
        if not num_prompts:
            lists = len(self.topics) * -(-self.scenes_per_topic // SCENES_A_REQUEST)
            scene = SCENES_A_REQUEST * assumed.question_tokens
            found.append(Work("generate", roles.writer, "lists of scenes", lists, 0, 80, scene))
        images = texts * len(self.guidance_scales)
        found.append(Work("generate_images", self.image_generator, "images", images))
        found += [Work(f"score_images/{scorer_kind(one)}", one, "scores", images, 1) for one in self.image_scorers]
        if self.instruction is None:
            seen = 1 if self.instruction_input == "image_and_prompt" else 0
            read = 80 + assumed.question_tokens
            found.append(Work("generate", roles.writer, "questions", texts, seen, read, assumed.question_tokens))
        question, longest = assumed.question_tokens, min(assumed.completion_tokens, self.max_new_tokens)
        found += [Work("generate", name, "completions", texts, 1, question, longest) for name in roles.models]
        for one in self.completion_scorers:
            read = annotation_tokens(assumed, 1, roles.annotation) if asks(one) else question + longest
            said = min(assumed.annotation_tokens, roles.annotation.max_new_tokens) if asks(one) else 0
            stage, count = f"score_completions/{scorer_kind(one)}", texts * len(roles.models)
            found.append(Work(stage, one, "scores", count, int(asks(one)), read, said))
        return tuple(found)

    @property
    def annotates(self) -> bool:
        """Whether a scorer is a judge."""
        from pairsight.models.scorers.names import asks

        return any(asks(name) for name in self.completion_scorers)

    def fingerprints(self) -> Mapping[str, str | list[str]]:
        """What identifies the pipeline and the scorers wherever they lie, by the option that names them."""
        from pairsight.models.images.diffusion import pipeline_fingerprint, pipeline_folder
        from pairsight.models.scorers.names import scorer_identity, scorer_kind

        def named(scorers: Sequence[str]) -> list[str]:
            return [f"{scorer_kind(name)} {scorer_identity(name)}" for name in scorers]

        return {
            "image_generator": pipeline_fingerprint(pipeline_folder(self.image_generator)),
            "image_scorers": named(self.image_scorers),
            "completion_scorers": named(self.completion_scorers),
        }

    def candidates(
        self, prompts: Sequence[Prompt], models: RecipeModels, run: StageRunner
    ) -> Iterator[Candidates | Dropped]:
        """Each text's question, completions and scores, or why it has none; then single completions left out.

        Args:
            prompts: text-to-image prompts (a text, its topic as source); none: `models.writer` writes them.
            models: what answers, what writes, and the blobs for the images.
            run: keeps every result.
        """
        if len(models.generators) < 2:
            raise ConfigError(
                f"recipe '{self.name}' compares the completions of two models or more, found {len(models.generators)}"
            )
        if models.writer is None and (not prompts or self.instruction is None):
            missing = "text-to-image prompts (--prompts FILE)" if not prompts else "an `instruction` for every image"
            raise ConfigError(f"recipe '{self.name}' needs {missing}, or a model that writes them: writer MODEL")
        self.check()
        yield from Steps(self, models, run).candidates(prompts)
