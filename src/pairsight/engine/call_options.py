"""What a run may ask of paid endpoints: rates, patience, money."""

import re

from pydantic import Field, field_validator

from pairsight.config import BaseConfig
from pairsight.errors import ConfigError


class Price(BaseConfig):
    """What a model's tokens cost, in any one currency."""

    prompt: float = Field(ge=0, description="cost of a million prompt tokens")
    completion: float = Field(ge=0, description="cost of a million completion tokens")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The cost of one call."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class CallOptions(BaseConfig):
    """Limits of calls to endpoints. Rates hold for each endpoint and model; money and calls for the whole run."""

    max_concurrency: int = Field(16, ge=1, description="calls under way at once; fewer after refusals")
    requests_per_minute: float | None = Field(None, gt=0, description="limit of an endpoint")
    tokens_per_minute: float | None = Field(None, gt=0, description="limit of an endpoint, prompt and completion")
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

    @field_validator("key_env")
    @classmethod
    def _names(cls, value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        """Host names in lower case; what is no host name or no variable's name (a key, say) is refused."""
        of_host = value if isinstance(value, dict) else {}
        for host in of_host:
            if not host or set(host) & set("/@ "):
                raise ValueError(f"'{host}' must be a host's name alone, such as api.example.com")
        variables = of_host.values() if value is of_host else [value] if isinstance(value, str) else []
        if not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable) for variable in variables):
            raise ValueError("must name environment variables, such as MY_API_KEY, not hold the key itself")
        return {host.lower(): variable for host, variable in of_host.items()} if value is of_host else value

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
