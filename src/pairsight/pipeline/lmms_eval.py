"""Our models and adapters as a model of lmms-eval, so that its tasks run on them.

    lmms-eval --model pairsight --model_args pretrained=MODEL,adapter=ADAPTER --tasks mmstar

lmms-eval finds `manifest` by the entry point group `lmms_eval.models`. Source of the interface: lmms-eval 0.7.3,
`lmms_eval/api/model.py` and `lmms_eval/models/registry_v2.py` (github.com/EvolvingLMMs-Lab/lmms-eval).
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.errors import ConfigError, DataError, ModelError
from pairsight.models.protocols import Generator, Sampling
from pairsight.pipeline.models import asked_profile, check_model_name, find_profile, open_generator
from pairsight.records import IMAGE_MARK, CompletionRequest, ImageRef, ItemError, Message, Prompt
from pairsight.seeds import derived_seed

if TYPE_CHECKING:
    from PIL.Image import Image

_MAX_NEW_TOKENS = 1024  # where a task names none, as lmms-eval's own LLaVA does


def manifest() -> Any:
    """What lmms-eval registers: the model `pairsight`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="pairsight", simple_class_path=f"{__name__}.PairsightModel")


def __getattr__(name: str) -> Any:
    """`PairsightModel`, made when lmms-eval asks for it: its base class is lmms-eval's."""
    if name == "PairsightModel":
        return _model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class HeldImages:
    """The images of the current requests, an `ImageSource` without files."""

    def __init__(self) -> None:
        self._pictures: dict[str, Image] = {}

    def add(self, picture: Any) -> ImageRef:
        """Hold an image; DataError for anything else (a video, audio)."""
        from PIL.Image import Image

        if not isinstance(picture, Image):
            raise DataError(f"lmms-eval shows a {type(picture).__name__}; this model takes images only")
        rgb = picture.convert("RGB")
        sha256 = hashlib.sha256(repr(rgb.size).encode() + rgb.tobytes()).hexdigest()
        self._pictures[sha256] = rgb
        return ImageRef(sha256)

    def clear(self) -> None:
        """Forget all images."""
        self._pictures.clear()

    def open(self, ref: ImageRef) -> "Image":
        """The image."""
        return self._pictures[ref.sha256].copy()

    def path(self, ref: ImageRef) -> Path:
        """Held images have no file: always a DataError."""
        raise DataError(f"image {ref.sha256[:12]}… is held in memory and has no file", reason="missing_image")


def answers(
    requests: Sequence[Any], documents: Mapping[str, Any], generator: Generator, images: HeldImages, seed: int
) -> list[str]:
    """The completion of each request of lmms-eval, cut at the strings it must stop at.

    Args:
        requests: with equal generation settings; `args` is (context, settings, doc to images, id, task, split).
        documents: task -> split -> documents.
        generator: what answers; it sees `images`.
        images: emptied at the end.
        seed: of sampled answers.

    Raises:
        ConfigError: a setting that is not supported.
        DataError: something to see that is not an image.
        ModelError: a request that could not be answered.
    """
    settings = requests[0].args[1]
    sampling, stops = read_settings(settings)
    asked = []
    for request in requests:
        context, _, to_pictures, doc_id, task, split = request.args
        seen = tuple(images.add(picture) for picture in to_pictures(documents[task][split][doc_id]) or ())
        text = context if context.count(IMAGE_MARK) == len(seen) else context.replace(IMAGE_MARK, "").strip()
        prompt = Prompt(f"{task}:{split}:{doc_id}", (Message("user", text, seen),), source="lmms-eval")
        drawn = 0 if sampling.temperature == 0 else derived_seed(seed, task, split, str(doc_id))
        asked.append(CompletionRequest(prompt, seed=drawn))
    found = []
    for request, made in zip(asked, generator.generate(asked, sampling), strict=True):
        if isinstance(made, ItemError):
            raise ModelError(f"lmms-eval document {request.prompt.id}: {made.reason}: {made.detail}")
        found.append(min((made.text.split(stop, 1)[0] for stop in stops), key=len, default=made.text))
    images.clear()
    return found


def read_settings(settings: Mapping[str, Any]) -> tuple[Sampling, list[str]]:
    """lmms-eval's generation settings as ours, and the strings that end an answer."""
    if int(settings.get("num_beams") or 1) != 1:
        raise ConfigError(f"num_beams {settings['num_beams']} is not supported: completions are greedy or sampled")
    temperature = float(settings.get("temperature") or 0) if settings.get("do_sample", True) else 0.0
    until = settings.get("until") or []
    sampling = Sampling(
        temperature=temperature,
        top_p=float(settings.get("top_p") or 1),
        max_new_tokens=int(settings.get("max_new_tokens") or _MAX_NEW_TOKENS),
    )
    return sampling, [stop for stop in ([until] if isinstance(until, str) else until) if stop]


@functools.cache
def _model_class() -> type:
    from lmms_eval.api.model import lmms

    class PairsightModel(lmms):  # type: ignore[misc]
        """A base model, with or without an adapter, in one process.

        Args:
            pretrained: the base: a folder, a hub name or `endpoint:NAME@URL`.
            adapter: an adapter's folder.
            batch_size: how many requests are answered together; 8 for anything that is not a number.
            seed: of sampled answers.
            profile, chat_template, load_in_4bit: as the options of `evaluate`.
        """

        is_simple = True

        def __init__(
            self,
            pretrained: str,
            adapter: str | None = None,
            batch_size: int | str = 1,
            seed: int = 0,
            *,
            profile: str | None = None,
            chat_template: str | None = None,
            load_in_4bit: bool = False,
        ) -> None:
            super().__init__()
            check_model_name(pretrained, adapter, template=False)
            self._size = max(1, int(batch_size)) if str(batch_size).isdigit() else 8
            self._seed, self._images = seed, HeldImages()
            found = find_profile(asked_profile(profile, chat_template), [pretrained], [adapter] if adapter else [])
            use: Any = {"profile": found, "batch_size": self._size, "load_in_4bit": load_in_4bit}
            self._generator = open_generator(pretrained, self._images, adapter=adapter, **use)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """One answer per request, in order."""
            groups: dict[str, list[int]] = {}
            for index, request in enumerate(requests):
                groups.setdefault(repr(sorted(request.args[1].items(), key=str)), []).append(index)
            found = [""] * len(requests)
            for indexes in groups.values():
                for start in range(0, len(indexes), self._size):
                    chunk = indexes[start : start + self._size]
                    texts = answers(
                        [requests[k] for k in chunk], self.task_dict, self._generator, self._images, self._seed
                    )
                    for index, text in zip(chunk, texts, strict=True):
                        found[index] = text
            return found

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """Not supported."""
            raise ConfigError("this model only generates; for choices by likelihood use our seed_bench_likelihood")

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            """Not supported."""
            raise ConfigError("tasks of several rounds are not supported by the model pairsight")

    return PairsightModel
