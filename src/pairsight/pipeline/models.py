"""Model references -> the objects that recipes and evaluations work with. Nothing loads until it is first used."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pairsight.errors import ConfigError, ModelError
from pairsight.images.source import ImageSource
from pairsight.models.endpoint.messages import EndpointOptions
from pairsight.models.endpoint.model import EndpointModel, is_endpoint, parse_endpoint
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.protocols import Annotator, Generator
from pairsight.models.references import (
    base_of_adapter,
    check_model,
    fingerprint,
    is_full_model,
    local_folder,
    read_prompt_suffix,
    trained_from,
)
from pairsight.recipes.recipe import RecipeModels
from pairsight.store.blobs import BlobStore

Reference = str | Path


def check_reference(reference: Reference, adapter: Reference | None = None) -> None:
    """Refuse a reference that cannot work, without loading or calling anything.

    Args:
        reference: the model.
        adapter: what is compared with it: an adapter's folder, or that of a full model trained from it.

    Raises:
        ModelError: a folder that is no model, or an aligned model of another base, or an adapter on top of another.
        ConfigError: a malformed endpoint, or an adapter for one.
    """
    if not is_endpoint(reference):
        if adapter is not None and is_full_model(adapter):
            _check_full(reference, adapter)
            return
        base, layers = _with_base(reference, adapter)
        check_model(base, layers)
        return
    parse_endpoint(str(reference))
    if adapter is not None:
        raise ConfigError(f"{reference} is an endpoint: adapter {adapter} needs its base model's folder as --model")


def _check_full(reference: Reference, model: Reference) -> None:
    check_reference(reference)
    check_model(model)
    base = trained_from(model)
    if base and local_folder(reference) is not None and fingerprint(reference) != base:
        raise ModelError(f"model {model} was trained from another model than {reference}: give that as --model")


def open_generator(
    reference: Reference,
    images: ImageSource,
    *,
    adapter: str | None = None,
    batch_size: int = 32,
    endpoint: EndpointOptions | None = None,
    trust_remote_code: bool = False,
) -> Generator:
    """The model behind a reference: a folder (also an adapter's, which names its base), a hub name, or
    `endpoint:NAME@URL`.

    A line that the adapter's folder (or, without one, the model's) wants below every question is put there.
    """
    if is_endpoint(reference):
        return EndpointModel(str(reference), images, endpoint)
    base, layers = _with_base(reference, adapter)
    line = read_prompt_suffix(reference if adapter is None else adapter)
    return LocalVLM(base, images, layers, batch_size, trust_remote_code=trust_remote_code, prompt_suffix=line)


def _with_base(reference: Reference, adapter: Reference | None) -> tuple[Reference, Reference | None]:
    """The base and the adapter that are meant."""
    base = base_of_adapter(reference)
    if base is None:
        return reference, adapter
    if adapter is not None:
        raise ModelError(f"model {reference} is an adapter itself: give its base as --model to evaluate {adapter}")
    return base, reference


def open_models(
    generators: Sequence[Reference],
    blobs: BlobStore,
    *,
    annotator: Annotator | Reference | None = None,
    writer: Reference | None = None,
    endpoint: EndpointOptions | None = None,
    trust_remote_code: bool = False,
) -> RecipeModels:
    """The models of a recipe by role, each shown the run's own images.

    Args:
        generators: who makes the completions.
        blobs: the run's images.
        annotator: who rates: an object, or a reference that is asked through the annotation prompt.
        writer: who writes texts.
        endpoint: how endpoints are asked.
        trust_remote_code: for all of them.

    Raises:
        ConfigError: an annotator that is neither.
    """

    def generator(reference: Reference) -> Generator:
        return open_generator(reference, blobs, endpoint=endpoint, trust_remote_code=trust_remote_code)

    answerer = None
    if isinstance(annotator, (str, Path)):
        from pairsight.models.annotation.vlm_annotator import VlmAnnotator

        answerer = generator(annotator)
        structured = isinstance(answerer, EndpointModel) and answerer.is_structured
        annotator = VlmAnnotator(answerer, form="json" if structured else "text")
    elif annotator is not None and not isinstance(annotator, Annotator):
        raise ConfigError(
            f"annotator: found a {type(annotator).__name__}; give a model reference, or an object of a class derived "
            "from pairsight.models.protocols.Annotator"
        )
    return RecipeModels(
        generators=tuple(generator(reference) for reference in generators),
        annotator=annotator,
        writer=None if writer is None else generator(writer),
        answerer=answerer,
        blobs=blobs,
        endpoint=endpoint,
    )


def model_opener(
    model: Reference, batch_size: int, trust_remote_code: bool = False, endpoint: EndpointOptions | None = None
) -> Callable[[str | None, ImageSource], Generator]:
    """What opens the model that answers benchmarks: the base (no adapter), an adapter on it, or a full model."""

    def open_one(adapter: str | None, images: ImageSource) -> Generator:
        full = adapter is not None and is_full_model(adapter)
        return open_generator(
            adapter if adapter is not None and full else model,
            images,
            adapter=None if full else adapter,
            batch_size=batch_size,
            endpoint=endpoint,
            trust_remote_code=trust_remote_code,
        )

    return open_one
