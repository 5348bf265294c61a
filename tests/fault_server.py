"""An OpenAI-compatible server on loopback that fails as it is told, and counts what it was asked.

A question is the text of the last user message; what happens to its n-th request is up to `faults(question, n)`.
"""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

Fault = Literal[
    "",
    "429",
    "429-minute",
    "404",
    "500",
    "hang",
    "torn",
    "disconnect",
    "disconnect-before",
    "html-502",
    "error-200",
    "not-json",
]


_REFUSALS: dict[str, tuple[int, str, dict[str, str]]] = {
    "429": (429, json.dumps({"error": {"message": "slow down"}}), {"Retry-After": "0.05"}),
    "429-minute": (429, json.dumps({"error": {"message": "slow down"}}), {"Retry-After": "60"}),
    "404": (404, json.dumps({"error": {"message": "no model m"}}), {}),
    "500": (500, "", {}),
    "html-502": (502, "<html>bad gateway</html>", {"Content-Type": "text/html"}),
    "error-200": (200, json.dumps({"error": {"message": "upstream is away", "code": 502}}), {}),
}


def always_well(question: str, time_asked: int) -> Fault:
    """No faults."""
    return ""


def echo(body: dict[str, Any]) -> dict[str, Any]:
    """A chat completion "you asked: QUESTION"."""
    return answer(f"you asked: {last_text(body)}")


class FaultServer:
    """Answers "QUESTION" with "you asked: QUESTION", unless told otherwise; lists `models`, where there are any."""

    def __init__(
        self,
        faults: Callable[[str, int], Fault] = always_well,
        delay_s: float = 0.0,
        respond: Callable[[dict[str, Any]], dict[str, Any]] = echo,
        models: list[dict[str, Any]] | None = None,
    ) -> None:
        self.respond = respond
        self.faults = faults
        self.delay_s = delay_s
        self.models = models
        self.keys: set[str] = set()
        self.num_lists = 0
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """The API's base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """One request."""
        length = int(handler.headers["Content-Length"])
        body = json.loads(handler.rfile.read(length))
        question = last_text(body)
        with self._lock:
            self.keys.add(handler.headers.get("Authorization", ""))
            fault = self.faults(question, self.asked[question])
            self.asked[question] += 1
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.delay_s:
                time.sleep(self.delay_s)
            self._respond(handler, fault, question, body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self._lock:
                self.under_way -= 1

    def _respond(self, handler: BaseHTTPRequestHandler, fault: Fault, question: str, body: dict[str, Any]) -> None:
        if fault in _REFUSALS:
            send(handler, *_REFUSALS[fault])
            return
        text = json.dumps(self.respond(body))
        if fault != "disconnect-before":
            self.answered[question] += 1  # the call was worked on, and would be charged
        if fault == "hang":
            time.sleep(3.0)
        if fault == "torn":
            send(handler, 200, text[:40], {"Content-Length": str(len(text))})
        if fault in ("disconnect", "disconnect-before", "torn"):
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            send(handler, 200, text[:40] if fault == "not-json" else text)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.handle(self)

            def do_GET(self) -> None:
                server.keys.add(self.headers.get("Authorization", ""))
                server.num_lists += 1
                listed = json.dumps({"object": "list", "data": server.models})
                send(self, 404 if server.models is None else 200, listed)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def key(self) -> str:
        """The key that was sent."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def question(self) -> str:
        """The text of the last message."""
        return last_text(json.loads(self.body))


class RawServer:
    """Answers each request with bytes of the test's choice, whatever HTTP says of them, and closes the connection.

    Args:
        respond: a request -> the bytes of the response, at once or piece by piece.
    """

    def __init__(self, respond: Callable[[Asked], bytes | Iterable[bytes]]) -> None:
        self.respond = respond
        self.requests: list[Asked] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)

    @property
    def url(self) -> str:
        """The API's base URL."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as file:
            line, *lines = iter(lambda: file.readline().decode("latin-1").strip(), "")
            headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
            asked = Asked(line, headers, file.read(int(headers.get("content-length", 0))))
            self.requests.append(asked)
            response = self.respond(asked)
            for piece in [response] if isinstance(response, bytes) else response:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """The bytes of an HTTP response with these header lines."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    if not any(line.lower().startswith("content-type") for line in headers):
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def answer(text: str, finish_reason: str = "stop") -> dict[str, Any]:
    """A chat completion."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


def chat(text: str, finish_reason: str = "stop") -> bytes:
    """The body of a chat completion that says `text`."""
    return json.dumps(answer(text, finish_reason)).encode()


def last_text(body: dict[str, Any]) -> str:
    """The text of the last message of a request."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def send(handler: BaseHTTPRequestHandler, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    """One response."""
    data = text.encode()
    handler.send_response(status)
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
        **(headers or {}),
    }.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)
    handler.wfile.flush()
