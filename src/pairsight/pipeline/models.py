"""Models' names -> the objects that recipes and evaluations use. A model loads when it is first used."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from pairsight.engine.calls.options import CallOptions
from pairsight.errors import ConfigError, MissingExtraError, ModelError, PairsightError
from pairsight.images.source import ImageSource
from pairsight.models.annotation.options import OURS, AnnotationOptions
from pairsight.models.endpoint.messages import EndpointOptions
from pairsight.models.endpoint.model import PREFIX, EndpointModel, is_endpoint, parse_endpoint
from pairsight.models.folders import (
    PROMPT_SUFFIX_FILE,
    base_of_adapter,
    check_model,
    check_template,
    fingerprint,
    has_template,
    is_full_model,
    local_folder,
    read_model_json,
    read_prompt_suffix,
    trained_from,
)
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.profiles.profile import Profile
from pairsight.models.protocols import Annotator, Generator
from pairsight.recipes.recipe import RecipeModels
from pairsight.store.blobs import BlobStore

ModelName = str | Path

_LOG = logging.getLogger("pairsight.models")


def check_model_name(model_name: ModelName, adapter: ModelName | None = None, *, template: bool = True) -> None:
    """Refuse a model that cannot work, without loading or calling anything.

    Args:
        model_name: the model.
        adapter: what is compared with it: an adapter's folder, or that of a full model trained from it.
        template: whether it must have a chat template; without, `find_profile` checks that it has one or is given one.

    Raises:
        ModelError: a folder that is not a model, an aligned model of another base, or an adapter on top of another.
        ConfigError: a malformed endpoint, or an adapter for an endpoint.
    """
    if not is_endpoint(model_name):
        if adapter is not None and is_full_model(adapter):
            _check_full(model_name, adapter, template)
            return
        base, layers = _with_base(model_name, adapter)
        check_model(base, layers, template=template)
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


def _check_full(base: ModelName, model: ModelName, template: bool) -> None:
    check_model_name(base, template=template)
    check_model(model, template=template)
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
    profile: Profile | None = None,
    load_in_4bit: bool = False,
) -> Generator:
    """The model of a name: a folder (also an adapter's, which names its base), a hub name, or
    `endpoint:NAME@URL`.

    The line that the adapter's folder (without an adapter, the model's) asks for is added below every question.

    Raises:
        ConfigError: a profile that an endpoint cannot be used with, or an endpoint in 4 bits.
        MissingExtraError: 4 bits, without bitsandbytes.
    """
    if is_endpoint(model_name):
        if load_in_4bit:
            raise ConfigError(f"load_in_4bit is for models on this machine, and {model_name} is an endpoint")
        return EndpointModel(str(model_name), images, endpoint, profile)
    if load_in_4bit and find_spec("bitsandbytes") is None:
        raise MissingExtraError("load_in_4bit", "quant")
    base, layers = _with_base(model_name, adapter)
    return LocalVLM(
        base,
        images,
        layers,
        batch_size,
        trust_remote_code=trust_remote_code,
        prompt_suffix=read_prompt_suffix(model_name if adapter is None else adapter),
        profile=profile,
        load_in_4bit=load_in_4bit,
    )


def find_profile(
    asked: str | Profile | None, models: Sequence[ModelName], adapters: Sequence[ModelName] = ()
) -> Profile | None:
    """The profile that models are used with: as asked, else as they were trained.

    Where nothing says it and a model is LLaVA-1.5, a warning tells that its authors use it with one.

    Args:
        asked: a name, a YAML file or "none", as `--profile` takes it, or a profile; None: nothing.
        models: the models' names.
        adapters: of the models that are compared.

    Raises:
        ConfigError: an unknown or malformed profile.
        ModelError: one of them was trained with another profile.
    """
    notes = _profile_notes([*models, *adapters])
    if asked is not None or any(note for _, note in notes):
        from pairsight.models.profiles.choice import choose_profile

        profile = choose_profile(asked, notes)
    else:
        profile = None
        _warn_without_profile(models)
    _check_templates(models, profile, given=asked is not None)
    return profile


def asked_profile(profile: str | None, chat_template: str | None) -> str | Profile | None:
    """What `--profile` and `--chat-template` ask for together; either may be None.

    Raises:
        ConfigError: as `read_profile` and `with_chat_template`.
    """
    if profile is None and chat_template is None:
        return None
    from pairsight.models.profiles.choice import read_profile, with_chat_template

    if chat_template is not None:
        return with_chat_template(profile, chat_template)
    read_profile(str(profile))  # an unknown one is found before anything is read
    return profile


def _check_templates(models: Sequence[ModelName], profile: Profile | None, given: bool) -> None:
    """Check that each model has a chat template or is given one, and that one is not given in vain."""
    folders = [local_folder(base_of_adapter(name) or name) for name in models if not is_endpoint(name)]
    lacking = [folder for folder in folders if folder is not None and not has_template(folder)]
    if profile is None or not profile.writes_prompts:
        for folder in lacking:
            check_template(folder)
    elif given and profile.chat_template and models and not lacking and None not in folders:
        raise ConfigError(f"--chat-template changes nothing, {models[0]} has a chat template of its own; leave it out")


def _profile_notes(model_names: Iterable[ModelName]) -> list[tuple[Path, object]]:
    """The folders among some models' names that say what profile they were trained with, and what they say.

    A folder that one of our trainings wrote says it: None where it was none. Other folders say nothing, unless
    `inference.json` does.

    Raises:
        ModelError: a note that is damaged.
    """
    found: list[tuple[Path, object]] = []
    for name in model_names:
        folder = None if str(name).startswith(PREFIX) else local_folder(name)
        if folder is None:
            continue
        said, mark = folder / PROMPT_SUFFIX_FILE, folder / "pairsight.json"
        if said.is_file() and (note := read_model_json(said).get("profile")) is not None:
            found.append((folder, note))
        elif mark.is_file() and "kind" in read_model_json(mark):
            found.append((folder, None))
    return found


def _warn_without_profile(model_names: Iterable[ModelName]) -> None:
    """Say of the first LLaVA-1.5 among some models that its authors use it with a profile."""
    for name in model_names:
        if not str(name).startswith(PREFIX) and is_llava_1_5(base_of_adapter(name) or name):
            _LOG.warning(
                "%s is LLaVA-1.5, whose authors pad images to a square and ask below a system sentence: without "
                "--profile llava-1.5 it sees other pixels and tokens (--profile none: so it stays, unwarned)",
                name,
            )
            return


def is_llava_1_5(model_name: ModelName) -> bool:
    """Whether a model is LLaVA-1.5: a folder by its config, a CLIP tower and a LLaMA with the words of LLaMA 1 and 2; a
    hub name by itself.

    Later models of the same classes, such as LLaVA-Llama-3, have other words and were trained with other prompts.
    """
    folder = local_folder(model_name)
    if folder is None:
        return re.search(r"llava-v?1\.5", str(model_name), re.I) is not None
    if not (folder / "config.json").is_file():
        return False
    config = read_model_json(folder / "config.json")
    text, vision = config.get("text_config"), config.get("vision_config")
    text, vision = (part if isinstance(part, dict) else {} for part in (text, vision))
    words = text.get("vocab_size", 32000)
    return (
        config.get("model_type") == "llava"
        and text.get("model_type", "llama") == "llama"
        and vision.get("model_type", "clip_vision_model") == "clip_vision_model"
        and isinstance(words, int)
        and 32000 <= words < 32256
    )


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
    profile: Profile | None = None,
    load_in_4bit: bool = False,
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
        profile: that the completions are made with; annotator and writer are used as their folders have it.
        load_in_4bit: whether what makes the completions is kept in 4 bits.

    Raises:
        ConfigError: an annotator that is neither.
    """

    def generator(model_name: ModelName, used: Profile | None = None, in_4_bits: bool = False) -> Generator:
        code = trust_remote_code
        return open_generator(
            model_name, blobs, endpoint=endpoint, trust_remote_code=code, profile=used, load_in_4bit=in_4_bits
        )

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
        generators=tuple(generator(model_name, profile, load_in_4bit) for model_name in generators),
        annotator=annotator,
        writer=None if writer is None else generator(writer),
        answerer=answerer,
        blobs=blobs,
        endpoint=endpoint,
        annotation=annotation,
    )


def model_opener(  # noqa: PLR0917 - as the options say it
    model: ModelName,
    batch_size: int,
    trust_remote_code: bool = False,
    endpoint: EndpointOptions | None = None,
    profile: Profile | None = None,
    load_in_4bit: bool = False,
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
            profile=profile,
            load_in_4bit=load_in_4bit,
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
