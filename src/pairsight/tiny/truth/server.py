"""The world's truth behind an OpenAI-compatible endpoint on the loopback address: chat completions and models list."""

import base64
import binascii
import json
import re
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pairsight.errors import DataError, RunError
from pairsight.tiny.truth.model import TruthModel

if TYPE_CHECKING:
    from PIL.Image import Image

MODEL_NAME = "truth"
HOST = "127.0.0.1"
MAX_BODY_BYTES = 64 << 20
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
_WORD = re.compile(r"\s*\S+")


class RefusedRequestError(Exception):
    """A request that is answered with an error: its HTTP status and why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class TruthServer:
    """Serves a world's truth until it is closed. Use it as a context, or `serve_forever`.

    Args:
        world: the folder that `pairsight tiny --out` wrote.
        port: of the loopback address; 0 takes a free one.

    Raises:
        DataError: no world there.
        RunError: the port is taken.
    """

    def __init__(self, world: str | Path, port: int = 0) -> None:
        self._model = TruthModel(world)
        try:
            self._server = ThreadingHTTPServer((HOST, port), _handler(self._model))
        except OSError as error:
            raise RunError(f"port {port} of {HOST} cannot be used: {error.strerror}; choose another --port") from None
        self._server.daemon_threads = True

    @property
    def model_name(self) -> str:
        """What to name as a model: `endpoint:truth@http://127.0.0.1:PORT/v1`."""
        return f"endpoint:{MODEL_NAME}@http://{HOST}:{self._server.server_address[1]}/v1"

    def serve_forever(self) -> None:
        """Answer until the process is interrupted."""
        self._server.serve_forever()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def chat_completion(model: TruthModel, body: Mapping[str, object]) -> dict[str, object]:
    """The answer to the body of a chat-completions request; words count as its tokens.

    Raises:
        RefusedRequestError: an unknown model, no request, no image, or a question that is not known.
    """
    if body.get("model") != MODEL_NAME:
        raise RefusedRequestError(404, f"there is no model {body.get('model')!r} here, only '{MODEL_NAME}'")
    if body.get("stream"):
        raise RefusedRequestError(400, "stream is not offered")
    seed = body.get("seed") or 0
    if not isinstance(seed, int):
        raise RefusedRequestError(400, f"seed must be a whole number, found {seed!r}")
    text, pictures = _last_question(body.get("messages"))
    try:
        said = model.say(text, pictures[0] if pictures else None, seed)
    except DataError as error:
        raise RefusedRequestError(400, str(error)) from None
    most = body.get("max_tokens") or body.get("max_completion_tokens")
    words = _WORD.findall(said)
    limit = most if isinstance(most, int) and len(words) > most else None
    ending = "stop" if limit is None else "length"
    kept = said if limit is None else "".join(words[:limit])
    choice = {"index": 0, "message": {"role": "assistant", "content": kept}, "finish_reason": ending}
    num_asked, num_said = len(text.split()), len(_WORD.findall(kept))
    usage = {"prompt_tokens": num_asked, "completion_tokens": num_said, "total_tokens": num_asked + num_said}
    created = int(time.time())
    return {
        "id": "truth", "object": "chat.completion", "created": created, "model": MODEL_NAME, "choices": [choice],
        "usage": usage,
    }  # fmt: skip


def _last_question(messages: object) -> tuple[str, "list[Image]"]:
    """The text of the last message, and the images of all."""
    try:
        parts = [_parts(message["content"]) for message in messages]  # type: ignore[attr-defined]
        urls = [part["image_url"]["url"] for content in parts for part in content if part["type"] == "image_url"]
        text = "".join(part["text"] for part in parts[-1] if part["type"] == "text")
    except (KeyError, TypeError, IndexError):
        raise RefusedRequestError(
            400, "messages must be a list of {role, content}; content a text or a list of parts"
        ) from None
    return text, [_picture(url) for url in urls]


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _picture(url: str) -> "Image":
    from pairsight.images.load import open_image

    head = _DATA_URL.match(url)
    if head is None:
        raise RefusedRequestError(400, "images must be data URLs (data:image/png;base64,…): nothing is fetched")
    try:
        return open_image(base64.b64decode(url[head.end() :], validate=True), "in the request")
    except (binascii.Error, ValueError) as error:
        raise RefusedRequestError(400, f"an image cannot be read: {error}") from None


class _OwnHost(BaseHTTPRequestHandler):
    """Answers as JSON what is asked of this host by its own name."""

    protocol_version = "HTTP/1.1"

    def parse_request(self) -> bool:
        """Refuse a request to another host: a page in a browser that had its name point here."""
        if not super().parse_request():
            return False
        port = self.server.server_address[1]  # type: ignore[index]
        if self.headers.get("Host", "").lower() in (f"{HOST}:{port}", f"localhost:{port}"):
            return True
        self.close_connection = True
        self._refuse(RefusedRequestError(403, f"this server answers as {HOST}:{port} only"))
        return False

    def _refuse(self, refusal: RefusedRequestError) -> None:
        self._send(refusal.status, {"error": {"message": str(refusal), "type": "invalid_request_error"}})

    def _send(self, status: int, content: Mapping[str, object]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Log nothing: the client keeps every answer."""


def _handler(model: TruthModel) -> type[BaseHTTPRequestHandler]:
    class Handler(_OwnHost):
        def do_GET(self) -> None:
            if self.path.rstrip("/") == "/v1/models":
                entry = {"id": MODEL_NAME, "object": "model", "created": 0, "owned_by": "pairsight"}
                self._send(200, {"object": "list", "data": [entry]})
            else:
                self._refuse(
                    RefusedRequestError(404, f"there is nothing at {self.path}; ask POST /v1/chat/completions")
                )

        def do_POST(self) -> None:
            try:
                body = self._body()
                if self.path.rstrip("/") != "/v1/chat/completions":
                    raise RefusedRequestError(404, f"there is nothing at {self.path}; ask /v1/chat/completions")
                self._send(200, chat_completion(model, body))
            except RefusedRequestError as refusal:
                self._refuse(refusal)
            except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
                self._refuse(RefusedRequestError(400, f"the body is not a request: {type(error).__name__}: {error}"))

        def _body(self) -> dict[str, object]:
            length = self.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > MAX_BODY_BYTES:
                self.close_connection = True
                raise RefusedRequestError(413, f"a request needs a Content-Length of at most {MAX_BODY_BYTES} bytes")
            try:
                body = json.loads(self.rfile.read(int(length)))
            except (ValueError, RecursionError):
                raise RefusedRequestError(400, "the body is not JSON") from None
            if not isinstance(body, dict):
                raise RefusedRequestError(400, "the body is not a JSON object")
            return body

    return Handler
