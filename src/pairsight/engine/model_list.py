"""Which models an OpenAI-compatible endpoint says that it has: asked when all its first calls fail."""

import asyncio
from collections.abc import Callable, Mapping

import httpx

from pairsight.engine.outside_text import one_line, read_json
from pairsight.engine.receive import ACCEPTED, UnusableAnswerError, receive

PATIENCE_S = 15.0
TIMES = 5
MOST_BYTES = 1 << 22


async def model_names(
    client: httpx.AsyncClient, url: str, headers: Mapping[str, str], hide: Callable[[str], str]
) -> list[str] | None:
    """The names in the models list of the endpoint that chat completions are posted to; None where it has no list.

    Args:
        client: what sends the request.
        url: where chat completions are posted to.
        headers: with the endpoint's key, if it gets one.
        hide: masks keys.
    """
    request = client.build_request(
        "GET", f"{url.removesuffix('/chat/completions')}/models", headers={**headers, **ACCEPTED}
    )
    for _ in range(TIMES):  # a server that failed may close the connection that is then used again
        try:
            async with asyncio.timeout(PATIENCE_S):
                received = await receive(client, request, MOST_BYTES, hide)
            listed, _ = read_json(hide(received.text))
            return [one_line(str(one["id"])) for one in listed["data"]] if received.status == 200 else None
        except httpx.TransportError:
            continue
        except (TimeoutError, httpx.HTTPError, UnusableAnswerError, ValueError, LookupError, TypeError, RecursionError):
            return None
    return None


def is_listed(model: str, names: list[str]) -> bool:
    """Whether a list names a model, as it is or under a path (Gemini's "models/NAME")."""
    return any(name == model or name.endswith(f"/{model}") for name in names)
