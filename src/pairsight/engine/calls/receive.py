"""What comes from an endpoint, checked once where it enters: bounded while it is read, decompressed and decoded."""

import codecs
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx

from pairsight.errors import one_line
from pairsight.store.attempts import as_unicode

ACCEPTED = {"Accept-Encoding": "gzip, deflate"}
"""What can be decompressed piece by piece up to a bound."""
CONNECT_TIMEOUT_S = 10.0
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
_SLOW_CODECS = ("idna", "punycode")
"""Their time grows with the square of the length."""


TOO_LONG, NOT_READABLE = NOT_HELD = ("too_long", "not_readable")
"""Why an answer that came is not held; words to count by."""


class UnusableAnswerError(Exception):
    """An answer whose body cannot be taken in: `reason` is one of `NOT_HELD`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Received:
    """A complete answer: its body in bytes, decompressed, as UTF-8 where its encoding is known, and as text.

    `text` has U+FFFD for bytes that are not UTF-8; `headers` have names in lower case and one line each.
    """

    status: int
    headers: Mapping[str, str]
    raw: bytes
    text: str


def open_client(transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """The client that carries calls: waits as long as the caller does, and asks servers on this machine directly.

    These may get a key over http, so no proxy of the environment is used.
    """
    return httpx.AsyncClient(
        transport=transport, limits=httpx.Limits(max_connections=None),
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S), follow_redirects=False,
        mounts={f"all://[{host}]" if ":" in host else f"all://{host}": None for host in LOOPBACK_HOSTS},
    )  # fmt: skip


async def receive(
    client: httpx.AsyncClient, request: httpx.Request, most_bytes: int, hide: Callable[[str], str]
) -> Received:
    """Send a request and read its answer. Redirects are not followed.

    Args:
        client: what sends it.
        request: made with `ACCEPTED` among its headers.
        most_bytes: of the body, compressed and after decompression. The body of an error that is longer is left out.
        hide: masks keys in what headers say.

    Raises:
        UnusableAnswerError: a success with a longer body ("too_long"), or one in an encoding that was not accepted
            ("not_readable").
        httpx.HTTPError: the connection, or the compressed body, is broken.
    """
    response = await client.send(request, stream=True)
    try:
        raw = await _body(response, most_bytes)
    except UnusableAnswerError:
        if response.is_success:
            raise
        raw = b""
    finally:
        await response.aclose()
    headers = {name.lower(): one_line(hide(value)) for name, value in response.headers.items()}
    raw = _as_utf8(raw, response.charset_encoding)
    return Received(response.status_code, headers, raw, as_unicode(raw))


async def _body(response: httpx.Response, most_bytes: int) -> bytes:
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise UnusableAnswerError(NOT_READABLE, f"the answer is compressed in a way not asked for ({encoding:.40})")
    inflate = None
    body, num_received = bytearray(), 0
    async for piece in response.aiter_raw():
        num_received += len(piece)
        if encoding in ("", "identity"):
            body += piece
        else:
            inflate = inflate or _decompressor(encoding, piece)
            try:
                body += inflate.decompress(piece, most_bytes + 1 - len(body))
            except zlib.error as error:
                raise httpx.DecodingError(f"the compressed answer is damaged: {error}") from None
        if max(num_received, len(body)) > most_bytes:
            raise UnusableAnswerError(TOO_LONG, f"the answer is longer than max_answer_bytes ({most_bytes})")
    if inflate is not None and not inflate.eof:
        raise httpx.DecodingError("the compressed answer is cut short")
    return bytes(body)


def _decompressor(encoding: str, first: bytes) -> "zlib._Decompress":
    if encoding != "deflate":
        return zlib.decompressobj(wbits=31)
    has_header = first[0] & 15 == 8 and (len(first) == 1 or int.from_bytes(first[:2], "big") % 31 == 0)
    return zlib.decompressobj(wbits=15 if has_header else -15)  # "deflate" is sent with zlib's header, or without


def _as_utf8(raw: bytes, charset: str | None) -> bytes:
    """The body in UTF-8 where that loses nothing: JSON should be UTF-8, whatever the header says of it."""
    try:
        raw.decode("utf-8")
        if b"\0" not in raw:  # else it is UTF-16 or UTF-32
            return raw
    except UnicodeDecodeError:
        pass
    try:
        if charset is None or codecs.lookup(charset).name in _SLOW_CODECS:
            return raw
        return raw.decode(charset).encode("utf-8")
    except (LookupError, ValueError):
        return raw
