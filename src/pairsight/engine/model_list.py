"""Which models an OpenAI-compatible endpoint says that it has: asked when all its first calls fail."""

import asyncio

import httpx

PATIENCE_S = 15.0
TIMES = 5


async def model_names(client: httpx.AsyncClient, url: str, key: str | None) -> list[str] | None:
    """The names in the models list of the endpoint that chat completions are posted to; None where it has no list."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for _ in range(TIMES):  # a server that failed may close the connection that is then used again
        try:
            async with asyncio.timeout(PATIENCE_S):
                response = await client.get(f"{url.removesuffix('/chat/completions')}/models", headers=headers)
            return [str(one["id"]) for one in response.raise_for_status().json()["data"]]
        except httpx.TransportError:
            continue
        except (TimeoutError, httpx.HTTPError, ValueError, LookupError, TypeError):
            return None
    return None


def is_listed(model: str, names: list[str]) -> bool:
    """Whether a list names a model, as it is or under a path (Gemini's "models/NAME")."""
    return any(name == model or name.endswith(f"/{model}") for name in names)
