"""Images from text by any text-to-image pipeline of `diffusers`, by path or name."""

import hashlib
import inspect
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairsight.engine.stage import Json, Resources
from pairsight.errors import MissingExtraError, ModelError, one_line
from pairsight.models.folders import fingerprint, local_folder, read_model_json
from pairsight.models.load import load_or_reuse, pick_device, quiet, release_memory
from pairsight.models.pickled import PICKLES, convert_command
from pairsight.models.protocols import ImageGenerator
from pairsight.records import ImageCandidate, ItemError
from pairsight.store.blobs import BlobStore

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class DiffusersGenerator(ImageGenerator):
    """An `ImageGenerator` on a pipeline that takes `prompt` and `guidance_scale`.

    Every image has its own generator of random numbers, on the CPU, so that a seed means the same image in any batch
    and on any device, up to rounding.

    Args:
        model_name: a folder with `model_index.json`, or a hub name.
        num_inference_steps: denoising steps.
        height, width: in pixels; None leaves them to the pipeline.
        device: default: the GPU where there is one.
        dtype: default: float16 on a GPU, as the paper runs SD3, and float32 on a CPU.

    Raises:
        MissingExtraError: `diffusers` is not installed.
        ModelError: no such pipeline, pickled weights, or one that does not turn text into images with guidance.
    """

    def __init__(
        self,
        model_name: str | Path,
        *,
        num_inference_steps: int = 28,
        height: int | None = None,
        width: int | None = None,
        device: "torch.device | str | None" = None,
        dtype: "torch.dtype | None" = None,
    ) -> None:
        import torch

        folder = pipeline_folder(model_name)
        self.fingerprint = pipeline_fingerprint(folder)
        self.device = pick_device(device)
        on_gpu = self.device.type == "cuda"
        self.pipeline = _load(folder, dtype or (torch.float16 if on_gpu else torch.float32)).to(self.device)
        sizes = {name: size for name, size in (("height", height), ("width", width)) if size is not None}
        self._options = {**call_options(folder), **sizes, "num_inference_steps": num_inference_steps}

    def generate(self, texts: Sequence[str], guidance_scale: float, seeds: Sequence[int]) -> "list[Image | ItemError]":
        """One RGB image or error per text, in order.

        Errors: `prompt_too_long` (longer than what every text encoder reads), `filtered` (the safety checker's
        verdict) and `black` (a picture without a single lit pixel: filtered, or overflown in half precision).
        """
        with quiet():
            problems = [self._too_long(text) for text in texts]
        wanted = [index for index, problem in enumerate(problems) if problem is None]
        made = iter(self._run([texts[i] for i in wanted], guidance_scale, [seeds[i] for i in wanted]))
        return [next(made) if problem is None else problem for problem in problems]

    def _run(self, texts: list[str], guidance_scale: float, seeds: list[int]) -> "list[Image | ItemError]":
        import torch

        if not texts:
            return []
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with quiet(), torch.inference_mode():
            out = self.pipeline(
                prompt=texts,
                guidance_scale=guidance_scale,
                generator=generators,
                **self._options,
            )
        flags = getattr(out, "nsfw_content_detected", None) or [False] * len(texts)
        return [_checked(picture.convert("RGB"), bool(flag)) for picture, flag in zip(out.images, flags, strict=True)]

    def _too_long(self, text: str) -> ItemError | None:
        """An error when no text encoder reads the complete text (Stable Diffusion 3's T5 reads what its CLIPs cut)."""
        lengths = [(len(tokenizer(text)["input_ids"]), limit) for tokenizer, limit in self._tokenizers()]
        if not lengths or any(length <= limit for length, limit in lengths):
            return None
        length, limit = max(lengths, key=lambda pair: pair[1])
        return ItemError("prompt_too_long", f"{length} tokens; the text encoder reads {limit}", retryable=False)

    def _tokenizers(self) -> list[tuple[Any, int]]:
        """The pipeline's tokenizers and how many tokens of each are read."""
        parameter = inspect.signature(self.pipeline.__call__).parameters.get("max_sequence_length")
        default = parameter.default if parameter is not None and isinstance(parameter.default, int) else None
        longest = self._options.get("max_sequence_length", default)
        found = []
        for number in ("", "_2", "_3"):
            tokenizer = getattr(self.pipeline, f"tokenizer{number}", None)
            encoder = getattr(self.pipeline, f"text_encoder{number}", None)
            if tokenizer is not None and encoder is not None:
                limit = tokenizer.model_max_length
                # max_sequence_length is T5's and its likes'; CLIP reads what its positions allow.
                reads_all = longest is None or type(encoder).__name__.startswith("CLIP")
                found.append((tokenizer, limit if reads_all else min(limit, longest)))
        return found


def pipeline_folder(model_name: str | Path) -> Path:
    """The local folder of a pipeline, every part of which is safetensors; a hub name is downloaded so.

    Raises:
        MissingExtraError: `diffusers` is not installed.
        ModelError: no such pipeline, or pickled parts (the message has the command that converts one).
    """
    folder = local_folder(model_name) or _download(str(model_name))
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{folder} has no model_index.json: it is not a diffusers pipeline")
    for name in _parts(folder):
        part = folder / name
        files = list(part.iterdir()) if part.is_dir() else []
        pickles = sorted(file for file in files if file.suffix in PICKLES)
        if pickles and not any(file.suffix == ".safetensors" for file in files):
            raise ModelError(
                f"pipeline {folder}: its part '{name}' has only the pickle {pickles[0].name}, which is not read as it "
                f"is; convert the pipeline, which runs none of its code: {convert_command(folder)}"
            )
    return folder


def call_options(folder: Path) -> dict[str, object]:
    """What the pipeline is called with besides text, guidance and seed: `pipeline_options` in `pairsight.json`."""
    note = folder / "pairsight.json"
    options = read_model_json(note).get("pipeline_options", {}) if note.is_file() else {}
    if not isinstance(options, dict):
        raise ModelError(f"{note}: pipeline_options must be an object, found {type(options).__name__}")
    return options


def pipeline_fingerprint(folder: Path) -> str:
    """`sha256:…` of a pipeline's index, of what it is called with, and of the contents of its parts."""
    contents: dict[str, object] = {"model_index.json": read_model_json(folder / "model_index.json")}
    contents["pipeline_options"] = call_options(folder)
    contents |= {name: fingerprint(folder / name) for name in _parts(folder) if (folder / name).is_dir()}
    canonical = json.dumps(contents, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _parts(folder: Path) -> list[str]:
    return sorted(
        name for name, value in read_model_json(folder / "model_index.json").items() if isinstance(value, list)
    )


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError:
        raise MissingExtraError("text-to-image generation", "synthetic") from None
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    return diffusers


def _download(name: str) -> Path:
    diffusers = _diffusers()
    try:
        return Path(diffusers.DiffusionPipeline.download(name, use_safetensors=True))
    except Exception as error:  # noqa: BLE001 - the hub client raises a dozen unrelated classes
        raise ModelError(f"pipeline {name} is not a folder here and the hub gives none: {one_line(error)}") from None


def _load(folder: Path, dtype: "torch.dtype") -> Any:
    diffusers = _diffusers()
    index = read_model_json(folder / "model_index.json")
    # Saved without an optional part (Stable Diffusion 3 without T5), it must be told so to be loaded.
    left_out = {name: None for name, value in index.items() if value == [None, None]}
    with quiet():
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                str(folder), use_safetensors=True, torch_dtype=dtype, **left_out
            )
        except Exception as error:  # noqa: BLE001 - a damaged folder fails in as many ways as there are pipelines
            raise ModelError(f"pipeline {folder} cannot be loaded: {one_line(error)}") from None
    takes = inspect.signature(pipeline.__call__).parameters
    lacking = [name for name in ("prompt", "guidance_scale", "generator") if name not in takes]
    if lacking:
        raise ModelError(
            f"pipeline {folder} ({type(pipeline).__name__}) takes no {' and no '.join(lacking)}; "
            "give a text-to-image pipeline with classifier-free guidance"
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _checked(picture: "Image", flagged: bool) -> "Image | ItemError":
    if flagged:
        return ItemError("filtered", "the pipeline's safety checker withheld the image", retryable=False)
    if picture.getextrema() == ((0, 0), (0, 0), (0, 0)):
        return ItemError("black", "the pipeline returned a black image", retryable=False)
    return picture


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image to be made."""

    prompt_id: str
    text: str
    guidance_scale: float
    seed: int


@dataclass
class GenerateImages:
    """A `Stage` of `ImageRequest -> ImageCandidate`; images stream to the blobs as PNG, batch by batch.

    Args:
        model_name: a diffusers pipeline, a folder or a hub name.
        blobs: where the images go.
        num_inference_steps: denoising steps.
        size: width and height in pixels; None leaves them to the pipeline.
        keep_loaded: leave the pipeline in memory after the stage.
    """

    model_name: str
    blobs: BlobStore
    num_inference_steps: int = 28
    size: int | None = None
    keep_loaded: bool = False
    batch_size: int = 8
    name: str = "generate_images"
    version: int = 1
    output: type[ImageCandidate] = ImageCandidate
    resources: Resources = field(default_factory=lambda: Resources(num_gpus=1.0))
    _fingerprint: str = field(default="", repr=False)
    _generator: DiffusersGenerator | None = field(default=None, init=False, repr=False)

    def key(self, item: ImageRequest) -> Mapping[str, Json]:
        """The pipeline's contents, the text, scale, seed, steps and size; not the prompt's id."""
        if not self._fingerprint:
            self._fingerprint = pipeline_fingerprint(pipeline_folder(self.model_name))
        return {
            "pipeline": self._fingerprint,
            "text": item.text,
            "guidance_scale": item.guidance_scale,
            "seed": item.seed,
            "num_inference_steps": self.num_inference_steps,
            "size": self.size,
        }

    def item_id(self, item: ImageRequest) -> str:
        """E.g. "art-3 at guidance 7"."""
        return f"{item.prompt_id} at guidance {item.guidance_scale:g}"

    def setup(self) -> None:
        """Load the pipeline."""
        self._generator = load_or_reuse(
            (DiffusersGenerator, self.model_name, self.num_inference_steps, self.size),
            lambda: DiffusersGenerator(
                self.model_name, num_inference_steps=self.num_inference_steps, height=self.size, width=self.size
            ),
            self.keep_loaded,
        )

    def process(self, items: Sequence[ImageRequest]) -> Iterator[ImageCandidate | ItemError]:
        """The images of neighbours with the same guidance scale are made together."""
        assert self._generator is not None, "setup comes first"
        for scale, group in groupby(items, key=lambda item: item.guidance_scale):
            requests = list(group)
            texts, seeds = [one.text for one in requests], [one.seed for one in requests]
            made = self._generator.generate(texts, scale, seeds)
            for request, image in zip(requests, made, strict=True):
                if isinstance(image, ItemError):
                    yield image
                    continue
                file = io.BytesIO()
                image.save(file, format="PNG")
                ref = self.blobs.add_bytes(file.getvalue(), ".png")
                yield ImageCandidate(ref, request.text, scale, request.seed, {}, selected=False)

    def close(self) -> None:
        """Free the pipeline, unless it is kept."""
        self._generator = None
        release_memory()
