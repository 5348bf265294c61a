"""What a run may ask of paid endpoints: rates, patience, money; and their keys, hidden wherever text is kept."""

import base64
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.entities import html5

import httpx
from pydantic import Field, field_validator

from pairsight.config import BaseConfig
from pairsight.engine.calls.receive import LOOPBACK_HOSTS
from pairsight.errors import ConfigError, one_line

HIDDEN = "***"
CHAT = "/chat/completions"
"""What calls are posted to, below a server's base URL."""
_NAMES: dict[str, list[str]] = {}
for _name, _value in html5.items():
    _NAMES.setdefault(_value, []).append(re.escape(_name.removesuffix(";")))


class Mask:
    """Finds secrets as they are, and as JSON, URLs, HTML, Python or C escape them (some characters or all, also twice),
    as base64 (at any offset in a longer text) and as hexadecimal. Source: ours.

    Args:
        secrets: printable ASCII texts of at least 8 characters.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # longest first: of two secrets that begin alike, none of the longer one may be left
        renderings = [one for secret in sorted(secrets, key=len, reverse=True) for one in _renderings(secret)]
        self._pattern = re.compile("|".join(renderings)) if renderings else None

    def hide(self, text: str) -> str:
        """The text with `***` for every secret."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def is_needed(self, text: str) -> bool:
        """Whether a secret is in the text."""
        return self._pattern is not None and self._pattern.search(text) is not None


def _renderings(secret: str) -> Sequence[str]:
    """Patterns of the secret's renderings."""
    escaped = "".join(_escaped(character) for character in secret)
    data = secret.encode()
    return [escaped, *(_base64(data, offset) for offset in range(3)), f"(?i:{data.hex()})"]


def _escaped(character: str) -> str:
    """A pattern of one character as it is or escaped; a backslash, `%` or `&` may itself be escaped up to three times.

    All repetitions are bounded, so that no text takes more than linear time.
    """
    code = ord(character)
    two = f"(?i:{code:02x})"
    names = "".join(f"|{name}" for name in _NAMES.get(character, ()))
    return (
        rf"(?:\\{{0,8}}{re.escape(character)}"
        rf"|\\{{1,8}}(?:u00{two}|u\{{0{{0,6}}{two}\}}|x{two}|U000000{two}|0{{0,2}}{code:o})"
        rf"|%(?:25){{0,3}}{two}|&(?:amp;){{0,3}}(?:#0{{0,6}}{code}|#[xX]0{{0,6}}{two}{names});?)"
    )


def _base64(data: bytes, offset: int) -> str:
    """A pattern of what base64 shows of `data` when `offset` bytes, modulo 3, come before it.

    Characters that are made of a neighbour's bits as well are left out: at most two of the secret's bytes stay hidden
    in them.
    """
    encoded = base64.b64encode(bytes(offset) + data).decode()
    start = -(-offset * 8 // 6)
    stop = (offset + len(data)) * 8 // 6
    inner = encoded[start:stop]
    return re.escape(inner).replace(r"\+", "+").replace("+", r"[+\-]").replace("/", "[/_]")


class Price(BaseConfig):
    """What a model's tokens cost, in any one currency."""

    prompt: float = Field(ge=0, description="cost of a million prompt tokens")
    completion: float = Field(ge=0, description="cost of a million completion tokens")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The cost of one call."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class CallOptions(BaseConfig):
    """Limits of calls to endpoints. Rates hold for each server and model; money and calls for the run."""

    servers: list[str] | dict[str, list[str]] = Field(
        {},
        description="URL in an endpoint's name -> URLs of the servers that answer for it; a list where one is called",
    )
    max_concurrency: int = Field(16, ge=1, description="calls under way at once at a server; fewer after refusals")
    requests_per_minute: float | None = Field(None, gt=0, description="limit of a server")
    tokens_per_minute: float | None = Field(None, gt=0, description="limit of a server, prompt and completion")
    timeout_s: float = Field(180.0, gt=0, description="longest wait for one answer, to its last byte")
    max_answer_bytes: int = Field(1 << 22, ge=1 << 10, description="of one answer, after decompression")
    max_answer_nesting: int = Field(100, ge=10, description="of lists and objects in one answer's JSON")
    max_attempts: int = Field(6, ge=1, description="times that one call is sent before it counts as failed")
    budget: float | None = Field(None, ge=0, description="money for this run, in the price table's currency")
    max_calls: int | None = Field(None, ge=0, description="calls for this run, repeated ones included")
    prices: dict[str, Price] = Field({}, description="model name -> price; needed for a budget and for costs")
    key_env: str | dict[str, str] | None = Field(
        None, description="host -> environment variable that holds its key; a single variable where one host is called"
    )

    @field_validator("servers")
    @classmethod
    def _urls(cls, value: list[str] | dict[str, list[str]]) -> list[str] | dict[str, list[str]]:
        """URLs written one way; a list without any, or with one twice, is refused."""
        if isinstance(value, list):
            return _distinct(value)
        return dict(zip(_distinct(value), map(_distinct, value.values()), strict=True)) if value else {}

    @field_validator("key_env")
    @classmethod
    def _names(cls, value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        """Host names in lower case; what is not a host name or a variable's name (a key, say) is refused."""
        of_host = value if isinstance(value, dict) else {}
        for host in of_host:
            if not host or set(host) & set("/@ "):
                raise ValueError(f"'{host}' must be a host's name alone, such as api.example.com")
        variables = of_host.values() if value is of_host else [value] if isinstance(value, str) else []
        if not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable) for variable in variables):
            raise ValueError("must name environment variables, such as MY_API_KEY, not hold the key itself")
        return {host.lower(): variable for host, variable in of_host.items()} if value is of_host else value

    def servers_of(self, url: str) -> tuple[str, ...]:
        """Where the calls of an endpoint are posted to: at the servers that `servers` names for it, else at its own.

        Args:
            url: where chat completions of the endpoint that the model's name says are posted to.
        """
        if not self.servers:
            return (url,)
        listed = self.servers if isinstance(self.servers, list) else self.servers.get(server_url(url), [])
        return tuple(f"{server}{CHAT}" for server in listed) or (url,)

    def check_servers(self, urls: Iterable[str]) -> None:
        """Refuse `servers` of an endpoint that is not called.

        Args:
            urls: those of all endpoints that are.

        Raises:
            ConfigError: an endpoint that none of these is, or a list alone where not one endpoint is called.
        """
        called = {server_url(url): None for url in urls}
        known = f"endpoints of this call: {', '.join(called) or 'none'}"
        if isinstance(self.servers, list):
            if len(called) != 1:
                raise ConfigError(
                    f"calls.servers is a list, which is for one endpoint; name each one's servers, "
                    f"calls: {{servers: {{URL: [URL, URL]}}}}; {known}"
                )
            return
        for url in self.servers:
            if url not in called:
                raise ConfigError(f"calls.servers names servers for {url}, which is not called; {known}")

    def price_of(self, model: str) -> Price | None:
        """The price of a model; None when the table does not name it.

        Raises:
            ConfigError: there is a budget and no price.
        """
        if self.budget is not None and model not in self.prices:
            raise ConfigError(
                f"a budget needs the price of '{model}': prices: {{{model}: {{prompt: 2.5, completion: 10}}}} per "
                f"million tokens (0 for a server of your own); prices names: {', '.join(self.prices) or 'none'}"
            )
        return self.prices.get(model)


KEY_OF_HOST = {
    "api.openai.com": "OPENAI_API_KEY",
    "generativelanguage.googleapis.com": "GEMINI_API_KEY",
    "openrouter.ai": "OPENROUTER_API_KEY",
    "api.mistral.ai": "MISTRAL_API_KEY",
    "api.anthropic.com": "ANTHROPIC_API_KEY",
}
"""Each service's own convention."""
LOCAL_KEY = "PAIRSIGHT_API_KEY"
"""For servers on this machine, which may need none; other hosts get it only if `key_env` says so."""
SHORTEST_SECRET = 8
"""Characters. Local servers accept any word as a key, such as EMPTY, which then occurs in many answers (ours)."""
_CLIENT_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy")
_LOG = logging.getLogger("pairsight.engine")


@dataclass(frozen=True, slots=True)
class Key:
    """A key and the environment variable it came from."""

    variable: str
    value: str = field(repr=False)

    @property
    def is_secret(self) -> bool:
        """Whether it is masked: it is long enough not to occur in texts by chance."""
        return len(self.value) >= SHORTEST_SECRET


class ApiKeys:
    """The keys of a run: one a host, read and checked when the host is first called, and hidden in what is written.

    Args:
        options: `key_env` names variables.
    """

    def __init__(self, options: CallOptions) -> None:
        self._options = options
        self._of_host: dict[str, Key | None] = {}
        self._mask = Mask()

    def headers(self, url: str) -> dict[str, str]:
        """The header that carries the key for this URL; empty for a host that gets none.

        Raises:
            ConfigError: see `key_for`; or `key_env` names one variable for all hosts, and this is the second host.
        """
        key = self._for(url)
        return {} if key is None else {"Authorization": f"Bearer {key.value}"}

    def hint(self, url: str) -> str:
        """What to do where a call was refused for its key, or for having none."""
        host = host_of(url)
        key = self._for(url)
        if key is not None:
            return f"check the environment variable {key.variable}"
        if host in LOOPBACK_HOSTS:
            return f"no key was sent: set the environment variable {LOCAL_KEY}"
        return f"no key was sent: name the variable that holds it, calls: {{key_env: {{{host}: VARIABLE}}}}, over https"

    def hide(self, text: str) -> str:
        """The text with `***` for every secret key, in whatever rendering."""
        return self._mask.hide(text)

    def are_in(self, text: str) -> bool:
        """Whether a secret key is in the text, in whatever rendering; as UTF-16 too."""
        return self._mask.is_needed(text) or ("\0" in text and self._mask.is_needed(text.replace("\0", "")))

    @contextmanager
    def hidden_in_logs(self) -> Iterator[None]:
        """Mask what the HTTP client logs of requests and responses while inside."""
        loggers = [logging.getLogger(name) for name in _CLIENT_LOGGERS]
        for logger in loggers:
            logger.addFilter(self._hide_in_record)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(self._hide_in_record)

    def _hide_in_record(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.hide(record.getMessage()), None
        return True

    def _for(self, url: str) -> Key | None:
        host = host_of(url)
        if host not in self._of_host:
            if isinstance(self._options.key_env, str) and self._of_host:
                (other, *_) = self._of_host
                raise ConfigError(
                    f"key_env names {self._options.key_env} for all hosts, but this run calls {other} and {host}; "
                    f"name each host's own: calls: {{key_env: {{{other}: {self._options.key_env}, {host}: VARIABLE}}}}"
                )
            key = key_for(url, self._options)
            self._of_host[host] = key
            self._mask = Mask({one.value for one in self._of_host.values() if one is not None and one.is_secret})
            self._say(host, key)
        return self._of_host[host]

    def _say(self, host: str, key: Key | None) -> None:
        if key is not None and not key.is_secret:
            _LOG.warning(
                "the key in %s has fewer than %d characters and is not secret: it is sent to %s and never masked",
                key.variable, SHORTEST_SECRET, host,
            )  # fmt: skip
        elif key is not None:
            _LOG.info("%s gets the key in %s", host, key.variable)
        elif os.environ.get(LOCAL_KEY, "").strip():
            _LOG.warning(
                "%s gets no key: %s goes to this machine only, or to https hosts that calls.key_env names",
                host, LOCAL_KEY,
            )  # fmt: skip


def key_for(url: str, options: CallOptions) -> Key | None:
    """The key for this URL; None for a host that gets none.

    Args:
        url: where the call goes. Its host's variable is the one that `key_env` names, else the service's own, else
            `PAIRSIGHT_API_KEY` for this machine.
        options: `key_env` names variables.

    Raises:
        ConfigError: the host needs a key and its variable is not set or another service's own, the key would travel
            in clear text, or no HTTP header can carry it.
    """
    host = host_of(url)
    is_local = host in LOOPBACK_HOSTS
    named = options.key_env if isinstance(options.key_env, str) else (options.key_env or {}).get(host)
    variable = named or KEY_OF_HOST.get(host)
    if variable is None:
        return _read(LOCAL_KEY) if is_local else None
    owners = [owner for owner, own in KEY_OF_HOST.items() if own == variable]
    if owners and not is_local and not any(host == owner or host.endswith(f".{owner}") for owner in owners):
        raise ConfigError(
            f"{variable} is the key of {owners[0]} and goes to no other host; set {host}'s key under a name of its own "
            f"and name that in key_env"
        )
    if not is_local and _parsed(url).scheme != "https":
        raise ConfigError(
            f"the key in {variable} would travel to {host} in clear text: name it as https://…, or, if it needs no "
            f"key, take it out of key_env"
        )
    key = _read(variable)
    if key is None:
        raise ConfigError(f"{host} needs a key: set the environment variable {variable}")
    return key


def server_url(url: str) -> str:
    """A base URL written one way: host in lower case, without the scheme's own port, `/` or `CHAT` at its end.

    Raises:
        ConfigError: not the http(s) URL of a server, or a password, query or fragment in it.
    """
    scheme, colon, rest = url.strip().partition(":")
    parsed = _parsed(f"{scheme.lower()}{colon}{rest}")
    if parsed.scheme not in ("http", "https") or not parsed.host or re.search(r"[\s,]", url.strip()):
        raise ConfigError(f"{one_line(url)!r} is not the URL of a server, such as http://127.0.0.1:8000/v1")
    if parsed.userinfo or set(str(parsed)) & set("?#"):
        raise ConfigError(
            f"the URL of server {parsed.host} must hold no key, query or '#'; keys are read from the environment only"
        )
    return str(parsed).rstrip("/").removesuffix(CHAT).rstrip("/")


def host_of(url: str) -> str:
    """The host of a URL, as the client reads it."""
    return _parsed(url).host


def _distinct(urls: Iterable[str]) -> list[str]:
    """Base URLs of servers, written one way."""
    found = [server_url(url) for url in urls]
    for number, url in enumerate(found):
        if url in found[:number]:
            raise ConfigError(f"{url} is named twice")
    if not found:
        raise ConfigError("a list of servers is empty; leave it out, or name their URLs")
    return found


def _parsed(url: str) -> httpx.URL:
    """The URL as the client reads it, so that the host that gets a key is the host that is called."""
    try:
        parsed = httpx.URL(url)
        _ = parsed.host  # which decodes international names
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ConfigError(f"'{url}' is not the URL of a server: {error}") from None
    return parsed


def _read(variable: str) -> Key | None:
    """The key in a variable, without space around it; None when it is empty or not set."""
    value = os.environ.get(variable, "").strip()
    for position, character in enumerate(value, start=1):
        if not "!" <= character <= "~":
            what = "space or line break" if character.isspace() else "character that is not printable ASCII"
            raise ConfigError(
                f"the key in {variable} has a {what} (character {position} of {len(value)}), which no HTTP header can "
                f"carry; set it to the key alone"
            )
    return Key(variable, value) if value else None
