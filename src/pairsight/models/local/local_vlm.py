"""A model folder as a `Generator`: loaded when first needed, freed by `close`."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pairsight.errors import DataError, ModelError
from pairsight.images.source import ImageSource
from pairsight.models.folders import fingerprint
from pairsight.models.load import quiet, release_memory
from pairsight.models.profiles.profile import Profile
from pairsight.models.protocols import Generator, Sampling, completion_id, prompt_key, seen_prompt
from pairsight.records import Completion, CompletionRequest, ItemError, Prompt

if TYPE_CHECKING:
    from pairsight.models.local.decoding import Drawn
    from pairsight.models.local.processor import EncodedPrompt


class LocalVLM(Generator):
    """Completions from a vision-language model (or a text-only one) on this machine. Picklable; weights do not travel.

    Args:
        model_name: a folder, or a hub name.
        images: where the prompts' images are.
        adapter: a PEFT adapter's folder.
        batch_size: completions written at once at most; halved for good where the GPU's memory is too small.
        dtype: default: bfloat16 on a GPU, float32 on a CPU.
        device: default: the GPU where there is one.
        prompt_suffix: a line that ends every prompt, on a line of its own; "" for none. See `read_prompt_suffix`.
        profile: how images are shown and prompts written; None: as the model's folder has it.
        load_in_4bit: keep the language model's linear layers in 4 bits (nf4).
    """

    gives_logps: ClassVar[bool] = True

    def __init__(
        self,
        model_name: str | Path,
        images: ImageSource,
        adapter: str | Path | None = None,
        batch_size: int = 64,
        *,
        dtype: str | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
        prompt_suffix: str = "",
        profile: Profile | None = None,
        load_in_4bit: bool = False,
    ) -> None:
        self.model_name = str(model_name)
        self.images = images
        self.adapter = None if adapter is None else str(adapter)
        self.batch_size = batch_size
        self.dtype = dtype
        self.device = device
        self.trust_remote_code = trust_remote_code
        self.prompt_suffix = prompt_suffix
        self.profile = profile
        self.load_in_4bit = load_in_4bit
        self._fingerprint: str | None = None
        self._model: Any = None
        self._processor: Any = None

    @property
    def fingerprint(self) -> str:
        """The hash of the folder's contents and the adapter's, of the prompts' last line, the profile and 4 bits."""
        if self._fingerprint is None:
            found = fingerprint(self.model_name, self.adapter)
            if self.prompt_suffix:
                found = _with(found, self.prompt_suffix)
            if self.profile is not None:
                found = self.profile.applied_to(found)
            self._fingerprint = _with(found, {"load_in_4bit": True}) if self.load_in_4bit else found
        return self._fingerprint

    def asked(self, prompt: Prompt) -> Prompt:
        """The prompt as the model is asked it: under its line, where it has one."""
        return prompt.with_line(self.prompt_suffix) if self.prompt_suffix else prompt

    def load(self) -> None:
        """Load the weights now; otherwise `generate` does when it is first called."""
        if self._model is None:
            self._processor, self._model = self.loaded_copy()

    def loaded_copy(self) -> tuple[Any, Any]:
        """A processor and a model of its own for whoever asks, beside those that `generate` uses."""
        from pairsight.models.four_bits import decoder
        from pairsight.models.load import load_model
        from pairsight.models.local.processor import load_processor

        processor = load_processor(self.model_name, self.trust_remote_code, self.profile)
        model = load_model(
            self.model_name,
            adapter=self.adapter,
            dtype=self.dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            in_4_bits=decoder if self.load_in_4bit else None,
        )
        return processor, model

    def close(self) -> None:
        """Free the weights; the next call loads them again."""
        if self._model is not None:
            self._model = self._processor = None
            release_memory()

    @quiet()
    def generate(self, requests: Sequence[CompletionRequest], sampling: Sampling) -> list[Completion | ItemError]:
        """One completion or error per request, in order. Requests of one prompt and images share their prefill.

        A request that cannot be served (a missing image, marks that do not fit, a prompt longer than the context) gets
        an `ItemError` of its own; the others are not touched by it.
        """
        self.load()
        requests = [replace(request, prompt=self.asked(request.prompt)) for request in requests]
        results: list[Completion | ItemError | None] = [None] * len(requests)
        groups: dict[str, list[int]] = {}
        prompts: dict[str, EncodedPrompt | ItemError] = {}
        for index, request in enumerate(requests):
            try:
                seen = seen_prompt(request)
            except DataError as error:
                results[index] = _failed(error)
                continue
            group = json.dumps(prompt_key(seen), sort_keys=True)
            groups.setdefault(group, []).append(index)
            if group not in prompts:
                prompts[group] = self._encode(request)
        drawn = self._draw(requests, groups, prompts, sampling)
        for group, indices in groups.items():
            found = drawn[group]
            for number, index in enumerate(indices):
                result = found if isinstance(found, ItemError) else found[number]
                results[index] = result if isinstance(result, ItemError) else self._completion(requests[index], result)
        return [result for result in results if result is not None]

    def _encode(self, request: CompletionRequest) -> "EncodedPrompt | ItemError":
        from pairsight.models.local.processor import encode

        try:
            return encode(self._processor, seen_prompt(request), self.images)
        except (DataError, ModelError) as error:
            return _failed(error)

    def _draw(
        self,
        requests: Sequence[CompletionRequest],
        groups: "dict[str, list[int]]",
        prompts: "dict[str, EncodedPrompt | ItemError]",
        sampling: Sampling,
    ) -> "dict[str, list[Drawn] | ItemError]":
        """Completions by group, in the order of its requests."""
        import torch

        from pairsight.models.local.decoding import Draws
        from pairsight.models.local.sampling import draw

        results: dict[str, list[Drawn] | ItemError] = {}
        wanted: dict[str, Draws] = {}
        for group, prompt in prompts.items():
            if isinstance(prompt, ItemError):
                results[group] = prompt
            else:
                wanted[group] = Draws(prompt, tuple(requests[index].seed for index in groups[group]))
        while True:
            try:
                drawn = draw(self._model, self._processor, list(wanted.values()), sampling, self.batch_size)
                break
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise ModelError(
                        f"the GPU's memory is too small for one completion of {self.model_name}; use a shorter "
                        "max_new_tokens, smaller images or a smaller model"
                    ) from None
                self.batch_size //= 2
                torch.cuda.empty_cache()
        return results | dict(zip(wanted, drawn, strict=True))

    def _completion(self, request: CompletionRequest, drawn: "Drawn") -> Completion:
        return Completion(
            id=completion_id(request),
            prompt_id=request.prompt.id,
            text=drawn.text,
            finish_reason=drawn.finish_reason,
            model=self.fingerprint,
            seed=request.seed,
            sample_index=request.sample_index,
            images=request.images,
        )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_model": None, "_processor": None}


def _with(found: str, more: object) -> str:
    return "sha256:" + hashlib.sha256(json.dumps([found, more]).encode()).hexdigest()


def _failed(error: DataError | ModelError) -> ItemError:
    reason = error.reason if isinstance(error, DataError) else "refused"
    return ItemError(reason, str(error), retryable=False)
