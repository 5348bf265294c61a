"""A model behind an OpenAI-compatible endpoint, `endpoint:NAME@URL`: builds requests and reads answers, sends nothing.

Whatever a model is asked to do (generate, annotate, judge) becomes an `EndpointCall`; the runner sends it, with all
limits and the budget, and keeps the raw answer before it is read.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from pairsight.engine.calls.options import CHAT
from pairsight.engine.stage import Call, Json, Request
from pairsight.errors import ConfigError
from pairsight.images.source import ImageSource
from pairsight.models.endpoint.messages import EndpointOptions, chat_messages, completion_of
from pairsight.models.profiles.profile import Profile
from pairsight.models.protocols import COMPLETION, Generator, Question, Sampling, request_key, seen_prompt
from pairsight.records import Completion, CompletionRequest, ItemError
from pairsight.store.encoding import shared_part

In = TypeVar("In")
Out = TypeVar("Out")
PREFIX = "endpoint:"
PARSER_VERSION = 1
"""Raised with `completion_of`: kept answers are then read again, for free."""
STRUCTURED_HOSTS = ("api.openai.com", "generativelanguage.googleapis.com")
_ENDPOINT = re.compile(r"endpoint:(?P<name>.+)@(?P<url>https?://.+)", re.DOTALL)


def is_endpoint(model_name: object) -> bool:
    """Whether a model's name is that of an endpoint."""
    return isinstance(model_name, str) and model_name.startswith(PREFIX)


def parse_endpoint(model_name: str) -> tuple[str, str]:
    """The model's name and the URL that chat completions are posted to.

    Raises:
        ConfigError: not of the form `endpoint:NAME@URL`, or a URL with a password in it.
    """
    found = _ENDPOINT.fullmatch(model_name.strip())
    if found is not None and not found[0].isprintable():
        raise ConfigError(f"{found[0]!r} must be one line of printable characters")
    if found is None:
        raise ConfigError(f"'{model_name}' must be endpoint:NAME@URL, e.g. endpoint:gpt-4o@https://api.openai.com/v1")
    if re.search(r",\s*https?://", found["url"]):
        raise ConfigError(
            f"'{model_name}' names several servers: name one, which the model keeps as its name, and all of them in "
            f"--set 'calls.servers=[URL, URL]'"
        )
    url = found["url"].rstrip("/")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or re.search(r"\s", url):
        raise ConfigError(f"'{model_name}': '{found['url']}' is not the URL of a server")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(f"the URL of endpoint '{found['name']}' must hold no key, query or '#'; keys are read from "
                          f"the environment only")  # fmt: skip
    return found["name"], url if url.endswith(CHAT) else f"{url}{CHAT}"


def endpoint_fingerprint(model_name: str, options: EndpointOptions | None = None) -> str:
    """Name and address, and a hash of the options where they are not the defaults. Revisions are not seen."""
    name, url = parse_endpoint(model_name)
    plain = f"{PREFIX}{name}@{url.removesuffix(CHAT)}"
    if options is None or options == EndpointOptions():
        return plain
    said = json.dumps(options.to_plain(), sort_keys=True)
    return f"{plain}#{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def _refuse_for_a_server(model_name: str, profile: Profile) -> None:
    """ConfigError for a profile that says what only a server does: write prompts as tokens, know a mean colour."""
    if profile.turns is not None:
        raise ConfigError(
            f"{model_name}: profile '{profile.name}' says how prompts are written and tokenised, which a server does "
            f"itself: start it with the chat template of `pairsight profile {profile.name} --template`, and use a "
            "profile here that pads images alone, such as llava-1.5-images"
        )
    if profile.pad != "none" and profile.pad_colour == "mean":
        raise ConfigError(
            f"{model_name}: profile '{profile.name}' pads with the mean colour of an image processor, which is the "
            "server's: write pad_colour as [red, green, blue]"
        )


class EndpointModel(Generator):
    """A model behind an endpoint: a `Generator` whose stages become paid calls.

    Args:
        model_name: `endpoint:NAME@URL`.
        images: where the prompts' images are.
        options: what differs between servers.
        profile: how images are shown; how the prompt is written is the server's.

    Raises:
        ConfigError: a profile that says more than can be done here.
    """

    takes_normalised = False

    def __init__(
        self,
        model_name: str,
        images: ImageSource,
        options: EndpointOptions | None = None,
        profile: Profile | None = None,
    ) -> None:
        self.name, self.url = parse_endpoint(model_name)
        self.images = images
        self.options = options or EndpointOptions()
        self.profile = profile
        if profile is not None:
            _refuse_for_a_server(model_name, profile)

    @property
    def fingerprint(self) -> str:
        """What identifies the model: see `endpoint_fingerprint`, and the profile."""
        found = endpoint_fingerprint(f"{PREFIX}{self.name}@{self.url}", self.options)
        return found if self.profile is None else f"{found}+{self.profile.applied_to(found)[7:19]}"

    @property
    def is_structured(self) -> bool:
        """Whether JSON of a schema is asked for: as the options say, else where the service is known to offer it."""
        if self.options.structured_output is not None:
            return self.options.structured_output
        return urlsplit(self.url).hostname in STRUCTURED_HOSTS

    def request(
        self, asked: CompletionRequest, sampling: Sampling, schema: Mapping[str, object] | None = None
    ) -> Request:
        """The request for one completion.

        Args:
            asked: the prompt, its images and the seed.
            sampling: how it is drawn.
            schema: the JSON schema that the answer should follow, where the service offers that.

        Raises:
            DataError: an image that is missing or cannot be shown.
        """
        options, profile = self.options, self.profile
        prompt = seen_prompt(asked) if profile is None else profile.asked(seen_prompt(asked))
        messages, prompt_tokens = chat_messages(prompt, self.images, options, profile)
        body: dict[str, object] = {
            "model": self.name,
            "messages": messages,
            "temperature": sampling.temperature,
            options.max_tokens_name: sampling.max_new_tokens,
        }
        if sampling.top_p < 1:
            body["top_p"] = sampling.top_p
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if options.send_seed and sampling.temperature > 0:
            body["seed"] = asked.seed
        if schema is not None and self.is_structured:
            wanted = {"name": "answer", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": wanted}
        if profile is not None and profile.stop:
            body["stop"] = list(profile.stop)
        body |= options.extra_body
        body = {name: value for name, value in body.items() if value is not None}
        return Request(self.url, body, prompt_tokens, sampling.max_new_tokens)

    def as_call(self, name: str, sampling: Sampling, question: Question[In, Out]) -> "EndpointCall[In, Out]":
        """The paid call that asks it a question about each item.

        Raises:
            ConfigError: a search over beams, which OpenAI's interface does not have.
        """
        if sampling.num_beams > 1:
            raise ConfigError(
                f"{self.fingerprint} has no search over {sampling.num_beams} beams; use a model folder, or one beam"
            )
        return EndpointCall(name, self, sampling, question)

    def generate(self, requests: Sequence[CompletionRequest], sampling: Sampling) -> list[Completion | ItemError]:
        """One completion or error per request, outside of any run: nothing is kept, no budget holds."""
        from pairsight.engine.runner import Runner
        from pairsight.store.ledger import Ledger

        with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
            call = self.as_call("generate", sampling, COMPLETION)
            return list(Runner(ledger)(call, requests))


class EndpointCall(Call[In, Out]):
    """A question that an endpoint's model is asked about each item.

    Args:
        name: the stage's name.
        model: who is asked.
        sampling: how it answers.
        question: what it is asked, and how its answer is read.
    """

    version = 1

    def __init__(self, name: str, model: EndpointModel, sampling: Sampling, question: Question[In, Out]) -> None:
        self.name = name
        self.model = model
        self.sampling = sampling
        self.question = question
        self.output = question.output
        reader = question.parser_version
        self.parser_version = PARSER_VERSION * 1000 + reader if reader else PARSER_VERSION

    def key(self, item: In) -> Mapping[str, Json]:
        """All that determines the request; not the parser, so that a better one costs nothing."""
        asked = request_key(self.question.ask(item))
        return {**self._same_for_all, "ids": self.question.ids(item), **asked}

    @cached_property
    def _same_for_all(self) -> Mapping[str, Json]:
        return shared_part({"model": self.model.fingerprint, "sampling": self.sampling.to_plain()})

    def item_id(self, item: In) -> str:
        """The item's name."""
        return self.question.item_name(item)

    def request(self, item: In) -> Request:
        """The request as it is sent."""
        return self.model.request(self.question.ask(item), self.sampling, self.question.schema(item))

    def parse(self, item: In, raw: str) -> Out | ItemError:
        """The result in a raw answer."""
        completion = completion_of(raw, self.question.ask(item), self.model.fingerprint)
        return completion if isinstance(completion, ItemError) else self.question.read(item, completion)
