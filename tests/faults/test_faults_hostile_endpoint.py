"""A hostile server on loopback: no text of its bricks a run, and no answer is larger than allowed."""

import gzip
import json
import resource
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_calls import build

from fault_server import Asked, RawServer, answer, chat, response
from pairsight.engine.calls import limits as gate
from pairsight.errors import EndpointError
from pairsight.store.attempts import Attempts
from pairsight.store.ledger import Ledger
from pairsight.store.repair import retry_run, salvage_run
from pairsight.store.status import run_status
from pairsight.store.verify import verify_run

KEY = "sk-Abc/9_x.y+Z~loopback=42"
PROGRAM = Path(__file__).parent / "small_calls.py"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "OPEN_S", (0.02, 0.02, 0.02))
    monkeypatch.setattr(gate, "LONGEST_BACKOFF_S", 0.02)
    monkeypatch.setattr("pairsight.engine.calls.calls.LONGEST_BACKOFF_S", 0.02)


# texts ----------------------------------------------------------------------------------------------------------

BAD_TEXTS = {
    "a cut emoji": chat("a dog \ud83d"),
    "the other half": chat("\ude00 a dog"),
    "in a list of parts": json.dumps(
        {"choices": [{"message": {"content": [{"text": "x\ud83d"}, {"text": "y"}]}, "finish_reason": "stop"}]}
    ).encode(),
    "in the ending": chat("a dog", "sto\ud83dp"),
    "in an unread field": json.dumps({**answer("a dog"), "\udfff": ["\ud800"]}).encode(),
    "latin-1": chat("x").replace(b'"x"', b'"caf\xe9"'),
    "cut in a character": "a dog \U0001f600".encode()[:-2].join(chat("X").split(b"X")),
    "zero bytes": chat("x").replace(b'"x"', b'"x\x00"'),
    "half a pair that is no JSON": b'{"choices": [{"message": {"content": "\\ud83d',
    "no text at all": bytes(range(128, 256)),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_run_with_an_answer_that_is_not_unicode_finishes_resumes_retries_and_reports(
    tmp_path: Path, name: str
) -> None:
    body = BAD_TEXTS[name]
    with RawServer(lambda asked: response(body if asked.question == "question 4" else chat("well"))) as server:
        texts = build(tmp_path / "run", server.url)
        assert texts[:4] + texts[5:] == ["well"] * 8
        texts[4].encode()
        assert build(tmp_path / "run", server.url) == texts
        assert len(server.requests) == 9
        assert verify_run(tmp_path / "run").problems == ()
        salvage_run(tmp_path / "run")
        assert build(tmp_path / "run", server.url) == texts
        retried = retry_run(tmp_path / "run")
        assert build(tmp_path / "run", server.url) == texts
        assert len(server.requests) == 9 + retried
    with Ledger(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
        assert body in [raw for (raw,) in ledger.read("SELECT CAST(raw AS BLOB) FROM answers", ())]
    (stage,) = run_status(tmp_path / "run").stages
    assert stage.pending == 0
    assert stage.spent is not None
    assert stage.spent.replaced_texts >= (name not in ("zero bytes", "half a pair that is no JSON"))


BAD_ERRORS: list[tuple[bytes, tuple[str, ...]]] = [
    (b'{"error": {"message": "\\ud83d no"}}', ()),
    (b'{"detail": "\\udc00"}', ()),
    (b"\xff\xfe no", ("Content-Type: text/plain; charset=\xff",)),
    (b"\x1b]0;title\x07 no", ()),
    (b"[" * 100_000, ()),
    (b"no", ("Retry-After: \xe9\xff", "Location: \xff\xfe")),
]
STATUSES = ["400 Bad", "500 Oh", "429 Slow", "307 There", "401 No"]


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        pytest.param(status, *bad, marks=[] if status == "400 Bad" or number == 0 else [pytest.mark.long])
        for status in STATUSES
        for number, bad in enumerate(BAD_ERRORS)
    ],
)
def test_error_bodies_and_headers_that_are_not_unicode_are_ordinary_errors(
    tmp_path: Path, status: str, body: bytes, headers: tuple[str, ...]
) -> None:
    with RawServer(lambda asked: response(body, status, *headers)) as server:
        with pytest.raises(EndpointError) as error:
            build(tmp_path / "run", server.url)
        assert str(error.value).isprintable()
        server.respond = lambda asked: response(chat("well"))
        retry_run(tmp_path / "run")
        assert build(tmp_path / "run", server.url) == ["well"] * 9


def test_a_models_list_that_is_not_unicode_is_shown_as_text(tmp_path: Path) -> None:
    def respond(asked: Asked) -> bytes:
        if asked.line.startswith("GET"):
            return response(json.dumps({"data": [{"id": "m\ud83d\x1b[2J\n"}, {"id": "x" * 10_000}]}).encode())
        return response(b"", "500 Oh")

    with RawServer(respond) as server, pytest.raises(EndpointError, match="does not name 'm'; known: m") as error:
        build(tmp_path / "run", server.url)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


# size -----------------------------------------------------------------------------------------------------------

MOST = 1 << 16
BOMB = gzip.compress(bytes(1 << 28), 9)  # 256 MB in 260 kB


def pieces(head: str, piece: bytes, number: int) -> Iterator[bytes]:
    """An answer that goes on for long."""
    yield f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{head}\r\n\r\n".encode()
    for _ in range(number):
        yield piece


LONG: dict[str, Callable[[], bytes | Iterator[bytes]]] = {
    "at once": lambda: response(chat("x" * MOST)),
    "without end": lambda: pieces("Connection: close", b"x" * 65536, 10_000),
    "in chunks": lambda: pieces("Transfer-Encoding: chunked", b"10000\r\n" + b"x" * 65536 + b"\r\n", 10_000),
    "a gzip bomb": lambda: response(BOMB, "200 OK", "Content-Encoding: gzip"),
    "a deflate bomb": lambda: response(zlib.compress(bytes(1 << 26)), "200 OK", "Content-Encoding: deflate"),
    "nothing in much": lambda: response(
        b"".join(gzip.compress(b"")[:10] for _ in range(1)) + b"\x00\x00\x00\xff\xff" * 40_000,
        "200 OK",
        "Content-Encoding: gzip",
    ),
    "an encoding nobody asked for": lambda: response(BOMB, "200 OK", "Content-Encoding: br"),
    "two encodings": lambda: response(gzip.compress(BOMB), "200 OK", "Content-Encoding: gzip, gzip"),
}


@pytest.mark.parametrize("name", LONG)
def test_an_answer_over_the_bound_is_a_failed_attempt_and_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with RawServer(lambda asked: LONG[name]() if asked.question == "question 4" else response(chat("well"))) as server:
        texts = build(tmp_path / "run", server.url, max_answer_bytes=MOST)
        assert texts[:4] + texts[5:] == ["well"] * 8
        assert texts[4] in ("too_long", "not_readable")
        assert len(server.requests) == 9
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 128 << 10  # kilobytes
        with Ledger(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
            (lost,) = Attempts(ledger).unknown_outcomes()
        assert lost.estimated_cost is not None
        retry_run(tmp_path / "run")
        server.respond = lambda asked: response(chat("well"))
        assert build(tmp_path / "run", server.url, max_answer_bytes=MOST) == ["well"] * 9


@pytest.mark.parametrize("status", ["400 No", "500 No"])
def test_an_error_with_a_body_over_the_bound_is_that_error(tmp_path: Path, status: str) -> None:
    bomb = response(BOMB, status, "Content-Encoding: gzip")
    with RawServer(lambda asked: bomb if asked.question == "question 4" else response(chat("well"))) as server:
        texts = build(tmp_path / "run", server.url, max_attempts=2, max_answer_bytes=MOST)
    assert texts[4] == ("refused" if status[0] == "4" else "http_500")


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 40_000, chat("x").replace(b'"x"', b"[" * 90 + b"]" * 90)])
def test_an_answer_nested_deeper_than_the_bound_is_kept_and_fails(tmp_path: Path, body: bytes) -> None:
    with RawServer(lambda asked: response(body if asked.question == "question 4" else chat("well"))) as server:
        for _ in range(2):
            assert build(tmp_path / "run", server.url, max_answer_nesting=50)[4] == "too_nested"
        assert len(server.requests) == 9


def test_a_compressed_answer_within_the_bound_is_an_answer(tmp_path: Path) -> None:
    raw = zlib.compressobj(wbits=-15)
    ways = {
        "question 0": ("gzip", gzip.compress(chat("well"))),
        "question 1": ("deflate", zlib.compress(chat("well"))),
        "question 2": ("deflate", raw.compress(chat("well")) + raw.flush()),
        "question 3": ("identity", chat("well")),
    }

    def respond(asked: Asked) -> bytes:
        encoding, body = ways.get(asked.question, ("", chat("well")))
        return response(body, "200 OK", *([f"Content-Encoding: {encoding}"] if encoding else []))

    with RawServer(respond) as server:
        assert build(tmp_path / "run", server.url) == ["well"] * 9
    assert {asked.headers["accept-encoding"] for asked in server.requests} == {"gzip, deflate"}


def test_an_answer_that_drips_is_given_up_after_its_time(tmp_path: Path) -> None:
    def drip(asked: Asked) -> Iterator[bytes]:
        import time

        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        for _ in range(100):
            time.sleep(0.05)
            yield b" "

    with RawServer(lambda asked: drip(asked) if asked.question == "question 4" else response(chat("well"))) as server:
        texts = build(tmp_path / "run", server.url, max_attempts=1, timeout_s=0.3)
    assert texts[4] == "timeout"
