"""Preference training from pairs to an adapter: the one trainer for every loss and every kind of example."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.engine.progress import Progress
from pairsight.errors import ConfigError, DataError, TrainingError, one_line
from pairsight.images.source import FileImages, ImageSource, WithImages
from pairsight.models.profiles.profile import Profile
from pairsight.records import Demonstration, PreferencePair
from pairsight.registry import ALLOWED_IN_A_NAME, BASE, is_adapter_name, plugins
from pairsight.store.durable import write_file, written_by_a_library
from pairsight.store.lock import exclusive_lock
from pairsight.store.run_folder import RunFolder
from pairsight.training.adapter import Origin, claim, model_card, write_adapter
from pairsight.training.config import SUMMARY, TrainingConfig, TrainingSummary, need_bitsandbytes, refuse_unused
from pairsight.training.ranks.launch import launched
from pairsight.training.start import Start

if TYPE_CHECKING:
    from torch import Tensor

    from pairsight.training.data.table import TokenTable
    from pairsight.training.objective import Objective
    from pairsight.training.precision import Precision
    from pairsight.training.preference_step import PreferenceStep
    from pairsight.training.ranks.world import World
    from pairsight.training.scorer import SequenceScorer

    Outcome = tuple[TrainingSummary, int | None, dict[str, Tensor] | None]

_LOG = logging.getLogger("pairsight.training")
_TOO_LITTLE_MEMORY = (
    "the device has too little memory for this training ({}): set bf16=true, a smaller lora_r or max_length, leave "
    "projector and vision tower frozen, or use a smaller model or a larger device"
)


class PreferenceTrainer:
    """Trains an adapter, or a full model, on preference pairs or demonstrations.

    Args:
        model: a model folder or hub name.
        loss: a loss by name, or several that are summed; None: the preset's or recipe's, else `dpo`.
        run: a run's folder; the adapter goes to `RUN/align/<name>` and reference log-probs to `RUN/references`.
        out: the adapter's folder, if it is not in a run.
        images: where the examples' images are, if the examples do not say: a source, or a folder.
        name: the training's name inside the run; default: its losses.
        profile: how images are shown and prompts written; the adapter's folder notes it.
        defaults: a recipe's `default_training`, or options by name; the model's preset and `options` come before it.
        config: all options, used as they are, instead of `loss`, `defaults` and `options`.
        adapter: an adapter's folder: the training goes on from it, with its rank, scale and layers.
        progress: where to show progress.
        options: fields of `TrainingConfig`.

    Raises:
        ConfigError: an unknown option or loss, an option that changes nothing given the others, neither `run` nor
            `out`, or options together with a config.
    """

    def __init__(
        self,
        model: str | Path,
        loss: str | Sequence[str] | None = None,
        *,
        run: str | Path | None = None,
        out: str | Path | None = None,
        images: ImageSource | str | Path | None = None,
        name: str | None = None,
        profile: Profile | None = None,
        defaults: TrainingConfig | Mapping[str, object] | None = None,
        config: TrainingConfig | None = None,
        adapter: str | Path | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        self._launch = launched()
        if run is None and out is None:
            raise ConfigError("say where the adapter goes: run=RUN, or out=DIR")
        if loss is not None:
            options["loss"] = loss if isinstance(loss, str) else tuple(loss)
        self.model = str(model)
        self._start = None if adapter is None else Start.read(adapter, model)
        self._held = () if self._start is None else self._start.parts
        if config is None:
            from pairsight.training.objective import training_config

            if isinstance(defaults, Mapping):
                defaults = TrainingConfig.parse(defaults, "defaults")
            config = training_config(options, model, defaults, self._start)
            refuse_unused(options.keys(), config, adapter is not None)
        elif options or defaults is not None:
            given = ", ".join(options) or "defaults"
            raise ConfigError(f"config is used as it is; found {given} beside it: put them into the config")
        elif self._start is not None:
            config = self._start.settled(config, TrainingConfig.model_fields)
        self.config, self._way = config, self._launch.way(config)
        for package in self.config.report_to:
            if find_spec(package) is None:
                raise ConfigError(f"report_to '{package}' needs its package: pip install {package}")
        need_bitsandbytes(self.config)
        self._run = None if run is None else RunFolder.open(run)
        self._name = name or self.config.training_name
        if not is_adapter_name(self._name):
            raise ConfigError(f"a training cannot be named {self._name!r:.80}: {ALLOWED_IN_A_NAME}, and not '{BASE}'")
        self.out = self._run.align(self._name) if self._run is not None and out is None else Path(out or "")
        self._images, self._profile = images, profile
        self._progress = progress or Progress("auto")

    def train(
        self,
        examples: "Sequence[PreferencePair | Demonstration]",
        extra_files: Mapping[str, bytes] | None = None,
    ) -> Path:
        """Train, or resume where an earlier call stopped.

        Args:
            examples: pairs or demonstrations, e.g. with their images as `WithImages`.
            extra_files: further files of the adapter's folder by name, written before it counts as finished.

        Returns:
            The adapter's folder.

        Raises:
            DataError: nothing to train on, or data that cannot be used.
            RunError: the folder holds another training, or it cannot be written.
            TrainingError: a loss that is not finite, packed log-probs that differ from a separate computation, or too
                little memory.
        """
        import torch

        from pairsight.formats.record_tables import record_texts
        from pairsight.models.folders import fingerprint
        from pairsight.models.load import release_memory
        from pairsight.training.objective import Objective

        images = self.image_source(examples)
        if not examples:
            raise DataError("there are no examples to train on")
        with plugins(self.config.loss):
            objective = Objective(self.config)
        digest = hashlib.sha256()
        for text in record_texts(examples):
            digest.update(text.encode())
        started = {} if self._start is None else self._start.named()
        base, size, profile = fingerprint(self.model), self._launch.size, self._profile
        origin = Origin(self.model, base, digest.hexdigest(), len(examples), self.config, size, profile, **started)
        extra_files = dict(extra_files or {})
        with ExitStack() as stack:
            self._world = stack.enter_context(self._ranks())
            stack.enter_context(written_by_a_library(self.out))
            if self._world.first:
                self._hold_folder(stack)
            self._world.same("base model, data or options", origin)
            if self._world.told(lambda: self._is_finished(origin, extra_files)):
                return self.out
            stack.enter_context(self._launch.hidden())
            shortage = ""
            try:
                self._train(examples, images, objective, origin, extra_files)
            except torch.OutOfMemoryError as error:
                shortage = one_line(error, 80)
                if self._world.size > 1:
                    raise TrainingError(f"{_TOO_LITTLE_MEMORY.format(shortage)}, or set max_tokens_per_pass") from None
        release_memory()  # outside, because the error holds what was on the device
        if shortage:
            raise TrainingError(_TOO_LITTLE_MEMORY.format(shortage))
        return self.out

    def _ranks(self) -> "AbstractContextManager[World]":
        """The processes that train together, this one or several; an error of one ends all."""
        from pairsight.training.ranks.world import World

        if self._launch.size == 1:
            return nullcontext(World())
        from pairsight.training.ranks.joined import joined

        return joined(self._launch)

    def _is_finished(self, origin: Origin, extra_files: Mapping[str, bytes]) -> bool:
        """Claim the folder; whether the training in it is finished."""
        if not claim(self.out, origin):
            return False
        _LOG.info("%s is finished already", self.out)
        for name in extra_files.keys() - {path.name for path in self.out.iterdir()}:
            write_file(self.out / name, extra_files[name])  # an earlier version wrote them after its mark
        return True

    def _hold_folder(self, stack: ExitStack) -> None:
        """Keep other processes out of the folder, and log and show progress, until the stack is left."""
        stack.enter_context(exclusive_lock(self.out / ".lock", f"training in {self.out}"))
        if self._run is not None:
            stack.enter_context(self._run.lock(f"align-{self._name}"))
            stack.enter_context(self._run.log())
        stack.enter_context(self._progress)

    def _train(
        self,
        examples: "Sequence[PreferencePair | Demonstration]",
        images: ImageSource,
        objective: "Objective",
        origin: Origin,
        extra_files: Mapping[str, bytes],
    ) -> None:
        import torch

        from pairsight.formats.record_tables import Part
        from pairsight.models.folders import fingerprint
        from pairsight.models.load import pick_device
        from pairsight.training.kernels.layers import fuse_lora
        from pairsight.training.policy import load_base, make_policy, num_trained
        from pairsight.training.precision import Precision
        from pairsight.training.preference_step import PreferenceStep
        from pairsight.training.reference import kept_reference
        from pairsight.training.scorer import pass_limits

        config, start = self.config, self._start
        device = pick_device()
        if self._world.size > 1:
            batch = config.per_device_train_batch_size
            _LOG.info("%s over %d processes: a batch of %d prompts each", self._way, self._world.size, batch)
        elif device.type == "cuda" and (count := torch.cuda.device_count()) > 1:
            _LOG.warning("%d GPUs are visible; training runs on the first; --devices %d uses all", count, count)
        precision = Precision.choose(config, device)
        model = load_base(self.model, config, precision, device, self._held)
        table, scorer = self.prepare(model, images, examples, origin, objective, precision, self._world)
        keep = partial(
            kept_reference, self._reference_folder(), scorer, config, self._held, self._progress, self._world
        )
        reference, asked = None, objective.needs_reference
        if asked and (start is None or config.reference == "base"):
            reference = keep(model, origin.as_used(origin.base_fingerprint))
        policy = make_policy(model, config, start)
        fuse_lora(policy)
        if asked and reference is None:
            reference = keep(policy, origin.as_used(fingerprint(self.model, origin.adapter)))
        scorer.limits = pass_limits(
            policy,
            config.max_tokens_per_pass,
            precision,
            num_trained=num_trained(policy),
            checkpointing=config.gradient_checkpointing,
        )
        if config.check_first_batch:
            scorer.check(policy)
        kept = Part(examples, table.records_E)
        outcome = self._run_loop(policy, PreferenceStep(scorer, objective, reference), kept)
        if self._world.first:
            self._write(policy, origin, table, outcome, extra_files)
        self._world.wait()

    def _write(
        self, policy: Any, origin: Origin, table: "TokenTable", outcome: "Outcome", extra_files: Mapping[str, bytes]
    ) -> None:
        """Write the finished training."""
        from pairsight.training.metrics import MetricsFile

        summary, best, state = outcome
        for sentence in summary.sentences():
            _LOG.info("%s: %s", self.out, sentence)
        counts = {"examples": len(table), "cut completions": table.cut}
        counts |= {"times an example comes in an epoch": summary.repeat} if summary.repeat > 1 else {}
        counts |= {"optimizer steps": summary.num_steps, "global batch": summary.global_batch}
        counts |= {f"skipped, {reason}": n for reason, n in sorted(table.skipped.items())}
        counts |= {} if best is None else {"weights of step (best held-out margin)": best}
        card = model_card(origin, self.config, counts, MetricsFile(self.out).last(), summary.sentences())
        extra_files = {**extra_files, SUMMARY: summary.to_json(), "README.md": card.encode()}
        write_adapter(policy, self.out, origin, extra_files, state)

    def _run_loop(
        self, policy: Any, step: "PreferenceStep", examples: "Sequence[PreferencePair | Demonstration]"
    ) -> "Outcome":
        """Train; returns a summary, the step whose weights were restored as the best, if not the last, and the weights
        where the policy does not have them complete.

        `examples` are the records that the scorer's examples were made from, in the same order.
        """
        from pairsight.models.load import quiet
        from pairsight.training.checkpoints import WEIGHTS, load_weights, newest_complete
        from pairsight.training.data.held_out import HeldOut, split_held_out
        from pairsight.training.loop import Loop
        from pairsight.training.loop_base import training_arguments
        from pairsight.training.metrics import MetricsFile
        from pairsight.training.policy import unchanged_parts, weight_sums

        train, held = split_held_out(examples, self.config.eval_fraction, self.config.seed)
        asked = self.config.on_devices(self._world.size)
        shown = train * self.config.repeat
        config, checkpoints = asked.for_examples(len(shown)), self.out / "checkpoints"
        replica = self._world.replica(step.scorer.packed(policy), self._way, config.max_grad_norm)
        before = weight_sums(replica.trained())
        patience = config.early_stopping_patience
        resume = self._world.told(lambda: newest_complete(checkpoints))
        with self._progress.task("train") as task:

            def on_step(number: int, metrics: Mapping[str, float]) -> None:
                task.total = loop.state.max_steps
                task.advance(number - task.counted)
                margin = f", margin {metrics['rewards/margins']:.3f}" if "rewards/margins" in metrics else ""
                task.describe(f"loss {metrics['loss']:.3f}{margin}")

            with quiet():
                arguments = training_arguments(config, checkpoints, use_cpu=policy.device.type == "cpu")
            loop = Loop(
                replica,
                arguments,
                config=config,
                step=step,
                metrics_file=MetricsFile(self.out),
                train_numbers=shown,
                held_out=HeldOut(held, step, patience=patience, folder=checkpoints) if held else None,
                on_step=on_step,
            )
            loop.resume(resume)
            if resume is not None and resume.ended:
                load_weights(policy, resume.folder / WEIGHTS, replica.assign)
                loop.state.global_step = resume.step
            else:
                with quiet():
                    loop.train(resume_from_checkpoint=None if resume is None else str(resume.folder))
        best = None if loop.held_out is None else loop.held_out.restore_best(replica)
        unchanged = unchanged_parts(before, weight_sums(replica.trained()))
        steps, batch = loop.state.global_step, config.global_batch
        summary = TrainingSummary(len(train), steps, batch, asked.global_batch, unchanged, config.repeat)
        return summary, best, replica.state()

    def prepare(  # noqa: PLR0917
        self,
        model: Any,
        images: ImageSource,
        examples: "Sequence[PreferencePair | Demonstration]",
        origin: Origin,
        objective: "Objective",
        precision: "Precision",
        world: "World",
    ) -> "tuple[TokenTable, SequenceScorer]":
        """Tokenise examples, and say how they are scored: the same for a training and for what it will take."""
        from pairsight.models.load import quiet
        from pairsight.models.local.processor import load_processor
        from pairsight.training.data.parts import InParts
        from pairsight.training.examples import Ingredients, Rules, Tokeniser, prepared
        from pairsight.training.families import describe
        from pairsight.training.policy import open_parts
        from pairsight.training.scorer import Scoring, SequenceScorer, pass_limits
        from pairsight.training.tokens import times_the_tokens_alone

        config, family, processor = self.config, describe(model), load_processor(self.model, profile=self._profile)
        fail = config.overlong == "fail"
        rules = Rules(config.max_length, fail, objective.min_completions, objective.num_images, objective.contrast)
        made_from = Ingredients(self.model, family, getattr(model, "generation_config", None), images, rules)
        tokeniser = Tokeniser(processor, model, family, images, config.image_cache_mb)
        folder = self._run.path if self._run is not None else self.out
        base = origin.as_used(origin.base_fingerprint)
        file = folder / "tokens" / rules.file_name(family, base, origin.data_sha256)
        with quiet(), self._progress.task("tokenise", len(examples)) as task:
            if not world.first:
                world.wait()  # the first rank makes the file
            table = prepared(
                file, examples, tokeniser, made_from, in_parts=InParts(config.dataset_num_proc),
                advance=lambda done, known: task.advance(done, reused=known),
            )  # fmt: skip
            if world.first:
                world.wait()
        reader = tokeniser.into(table.catalogue)
        if not reader.ends_completions:
            _LOG.warning("the model names no end-of-sequence token: completions are trained without an end")
        table.report(len(examples), config.max_length)
        if family.obstacle:
            _LOG.warning(
                "prefixes are not shared: %s; each completion is computed by itself with its prompt and images, which "
                "takes %.1f times the tokens",
                family.obstacle,
                times_the_tokens_alone(table),
            )
        shares = config.share_prefixes and not family.obstacle
        opened = open_parts(model, config, self._held)
        projectors = () if "vision" in opened else tuple(opened.get("projector", ()))
        scoring = Scoring(family, reader, not opened, projectors, precision)
        limits = pass_limits(model, config.max_tokens_per_pass, precision)
        return table, SequenceScorer(table, scoring, limits, shares)

    def _reference_folder(self) -> Path:
        return self._run.references if self._run is not None else self.out / "references"

    def image_source(self, examples: "Sequence[PreferencePair | Demonstration]") -> ImageSource:
        """Where the examples' images are."""
        if self._images is not None:
            return FileImages(self._images) if isinstance(self._images, str | Path) else self._images
        if isinstance(examples, WithImages):
            return examples.images
        if self._run is not None:
            return self._run.blobs
        raise ConfigError("say where the images are: images=DIR")
