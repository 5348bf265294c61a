"""Models' names -> the objects that recipes and evaluations use. A model loads when it is first used."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pairsight.engine.calls.options import CallOptions
from pairsight.errors import ConfigError, ModelError, PairsightError
from pairsight.images.source import ImageSource
from pairsight.models.annotation.options import OURS, AnnotationOptions
from pairsight.models.endpoint.messages import EndpointOptions
from pairsight.models.endpoint.model import EndpointModel, is_endpoint, parse_endpoint
from pairsight.models.folders import (
    base_of_adapter,
    check_model,
    fingerprint,
    is_full_model,
    local_folder,
    read_prompt_suffix,
    trained_from,
)
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.protocols import Annotator, Generator
from pairsight.recipes.recipe import RecipeModels
from pairsight.store.blobs import BlobStore

ModelName = str | Path


def check_model_name(model_name: ModelName, adapter: ModelName | None = None) -> None:
    """Refuse a model that cannot work, without loading or calling anything.

    Args:
        model_name: the model.
        adapter: what is compared with it: an adapter's folder, or that of a full model trained from it.

    Raises:
        ModelError: a folder that is not a model, an aligned model of another base, or an adapter on top of another.
        ConfigError: a malformed endpoint, or an adapter for an endpoint.
    """
    if not is_endpoint(model_name):
        if adapter is not None and is_full_model(adapter):
            _check_full(model_name, adapter)
            return
        base, layers = _with_base(model_name, adapter)
        check_model(base, layers)
        return
    parse_endpoint(str(model_name))
    if adapter is not None:
        raise ConfigError(f"{model_name} is an endpoint: adapter {adapter} needs its base model's folder as --model")


def is_same_model(one: ModelName, other: ModelName) -> bool:
    """Whether two names are of one model: an endpoint's by the model's own name, a folder's by its contents."""
    if is_endpoint(one) and is_endpoint(other):
        return parse_endpoint(str(one))[0] == parse_endpoint(str(other))[0]
    if is_endpoint(one) or is_endpoint(other) or str(one) == str(other):
        return str(one) == str(other)
    try:
        return fingerprint(one) == fingerprint(other)
    except PairsightError:  # one of the two is not here any more
        return False


def _check_full(base: ModelName, model: ModelName) -> None:
    check_model_name(base)
    check_model(model)
    noted = trained_from(model)
    if noted and local_folder(base) is not None and fingerprint(base) != noted:
        raise ModelError(f"model {model} was trained from another model than {base}: give that as --model")


def open_generator(
    model_name: ModelName,
    images: ImageSource,
    *,
    adapter: str | None = None,
    batch_size: int = 32,
    endpoint: EndpointOptions | None = None,
    trust_remote_code: bool = False,
) -> Generator:
    """The model of a name: a folder (also an adapter's, which names its base), a hub name, or
    `endpoint:NAME@URL`.

    The line that the adapter's folder (without an adapter, the model's) asks for is added below every question.
    """
    if is_endpoint(model_name):
        return EndpointModel(str(model_name), images, endpoint)
    base, layers = _with_base(model_name, adapter)
    line = read_prompt_suffix(model_name if adapter is None else adapter)
    return LocalVLM(base, images, layers, batch_size, trust_remote_code=trust_remote_code, prompt_suffix=line)


def _with_base(model_name: ModelName, adapter: ModelName | None) -> tuple[ModelName, ModelName | None]:
    """The base and the adapter, also where the model is itself an adapter."""
    base = base_of_adapter(model_name)
    if base is None:
        return model_name, adapter
    if adapter is not None:
        raise ModelError(f"model {model_name} is itself an adapter: give its base as --model to evaluate {adapter}")
    return base, model_name


def open_models(
    generators: Sequence[ModelName],
    blobs: BlobStore,
    *,
    annotator: Annotator | ModelName | None = None,
    writer: ModelName | None = None,
    endpoint: EndpointOptions | None = None,
    annotation: AnnotationOptions = OURS,
    trust_remote_code: bool = False,
) -> RecipeModels:
    """The models of a recipe by role; all of them see the run's own images.

    Args:
        generators: what makes the completions.
        blobs: the run's images.
        annotator: what rates: an object, or the name of a model that is asked with the annotation prompt.
        writer: what writes texts.
        endpoint: how endpoints are asked.
        annotation: how an annotator that is named here, and judges, are asked and answer.
        trust_remote_code: whether code that comes with any of the models may run.

    Raises:
        ConfigError: an annotator that is neither.
    """

    def generator(model_name: ModelName) -> Generator:
        return open_generator(model_name, blobs, endpoint=endpoint, trust_remote_code=trust_remote_code)

    answerer = None
    if isinstance(annotator, (str, Path)):
        from pairsight.models.annotation.prompt import Form
        from pairsight.models.annotation.vlm_annotator import VlmAnnotator

        answerer = generator(annotator)
        form: Form = "json" if answerer.is_structured else "text"
        annotator = VlmAnnotator(answerer, options=annotation, form=form)
    elif annotator is not None and not isinstance(annotator, Annotator):
        raise ConfigError(
            f"annotator: found a {type(annotator).__name__}; give a model's name, or an object of a class derived "
            "from pairsight.models.protocols.Annotator"
        )
    return RecipeModels(
        generators=tuple(generator(model_name) for model_name in generators),
        annotator=annotator,
        writer=None if writer is None else generator(writer),
        answerer=answerer,
        blobs=blobs,
        endpoint=endpoint,
        annotation=annotation,
    )


def model_opener(
    model: ModelName, batch_size: int, trust_remote_code: bool = False, endpoint: EndpointOptions | None = None
) -> Callable[[str | None, ImageSource], Generator]:
    """A function that opens the model which answers benchmarks: the base (None), an adapter on it, or a full model."""

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


def check_servers(calls: CallOptions, *options: object) -> None:
    """Refuse servers (`calls.servers`) that would answer for no endpoint.

    Args:
        calls: the options of calls.
        options: all options, as plain values: an endpoint may be named anywhere in them.

    Raises:
        ConfigError: servers of an endpoint that is not named.
    """
    if calls.servers:
        calls.check_servers(endpoints_in(options))


def endpoints_in(value: object) -> Iterator[str]:
    """Where the calls of all endpoints are posted to that are named anywhere in plain values."""
    if isinstance(value, str) and (found := re.search(r"endpoint:.+@https?://.+", value)):
        yield parse_endpoint(found[0])[1]
    elif isinstance(value, Mapping):
        yield from endpoints_in(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from endpoints_in(one)
