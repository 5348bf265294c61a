"""A hostile server on loopback that sends the key back: it is nowhere kept, said or logged."""

import base64
import html
import json
import logging
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest
from small_calls import build

from fault_server import Asked, RawServer, answer, chat, response
from pairsight.engine.calls import limits as gate
from pairsight.errors import ConfigError, EndpointError
from pairsight.store.attempts import Attempts
from pairsight.store.ledger import Ledger

KEY = "sk-Abc/9_x.y+Z~loopback=42"
PROGRAM = Path(__file__).parent / "small_calls.py"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "OPEN_S", (0.02, 0.02, 0.02))
    monkeypatch.setattr(gate, "LONGEST_BACKOFF_S", 0.02)
    monkeypatch.setattr("pairsight.engine.calls.calls.LONGEST_BACKOFF_S", 0.02)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PAIRSIGHT_API_KEY", KEY)
    return KEY


def as_json(text: str) -> str:
    return "".join(f"\\u{ord(c):04X}" for c in text)


RENDERINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in JSON": as_json,
    "half of it in JSON": lambda key: as_json(key[:9]) + key[9:],
    "in JSON in JSON": lambda key: as_json(key).replace("\\", "\\\\"),
    "with escaped slashes": lambda key: key.replace("/", "\\/"),
    "in a URL": lambda key: urllib.parse.quote(key, safe=""),
    "every character of it in a URL": lambda key: "".join(f"%{ord(c):02x}" for c in key),
    "twice in a URL": lambda key: urllib.parse.quote(urllib.parse.quote(key, safe=""), safe=""),
    "in HTML": lambda key: "".join(f"&#{ord(c)};" for c in key),
    "in HTML by hexadecimal numbers": lambda key: "".join(f"&#x{ord(c):04X};" for c in key),
    "in HTML by names": lambda key: (
        html.escape(key).replace("/", "&sol;").replace("+", "&plus;").replace("=", "&equals;")
    ),
    "as Python writes bytes": lambda key: "".join(f"\\x{ord(c):02x}" for c in key),
    "in base64": lambda key: base64.b64encode(f"Bearer {key}".encode()).decode(),
    "in base64 after one character": lambda key: base64.b64encode(f"x{key} ".encode()).decode(),
    "in base64 after two characters": lambda key: base64.urlsafe_b64encode(f"xy{key}".encode()).decode(),
    "in hexadecimal": lambda key: key.encode().hex(),
}


def leaks(text: str, key: str) -> list[str]:
    """In which renderings the key, or most of it, is in a text."""
    middle = key[2:-2]
    return [name for name, render in RENDERINGS.items() if render(key) in text or render(middle) in text]


def everything(folder: Path) -> str:
    """All bytes of a run's files."""
    return "\n".join(file.read_bytes().decode("latin-1") for file in sorted(folder.rglob("*")) if file.is_file())


def client(folder: Path, url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The paid build in a process of its own, with its log of everything on stderr, as a user may have it."""
    path = os.pathsep.join([str(PROGRAM.parent), str(PROGRAM.parents[1]), os.environ.get("PYTHONPATH", "")])
    lines = f"""if True:
        import logging, sys
        import small_calls
        from pairsight.engine.calls import limits as gate
        gate.OPEN_S = (0.02, 0.02, 0.02)
        logging.basicConfig(level=logging.DEBUG)
        sys.argv[1:] = {[str(folder), url]!r}
        small_calls.main()"""
    return subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )  # fmt: skip


HOSTILE: dict[str, Callable[[str], bytes]] = {
    "401": lambda shown: response(f'{{"error": {{"message": "no such key: {shown}"}}}}'.encode(), "401 No"),
    "400": lambda shown: response(f'{{"error": {{"message": "no such key: {shown}"}}}}'.encode(), "400 No"),
    "500": lambda shown: response(f"no such key: {shown}".encode(), "500 No"),
    "redirect": lambda shown: response(b"", "307 There", f"Location: https://x/?key={shown}"),
    "reason": lambda shown: response(b"{}", f"500 {shown}"),
    "header": lambda shown: response(b"{}", "500 No", f"X-Key: {shown}", f"Retry-After: {shown}"),
    "status line": lambda shown: f"HTTP/9 {shown} 200\r\n\r\n".encode(),
    "header line": lambda shown: f"HTTP/1.1 200 OK\r\n{shown} {shown}\r\n\r\n".encode(),
    "chunk": lambda shown: f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{shown}\r\n".encode(),
    "html": lambda shown: response(f"<html>{shown}</html>".encode(), "200 OK", "Content-Type: text/html"),
    "error 200": lambda shown: response(f'{{"error": "{shown}"}}'.encode()),
    "models": lambda shown: response(f'{{"data": [{{"id": "m{shown}"}}]}}'.encode()),
}


def is_short(where: str, rendering: str) -> bool:
    """Each case with one way to write the key, and each way in one case; all of both is long."""
    return rendering == "half of it in JSON" or where == "400"


CASES = [
    pytest.param(where, rendering, marks=[] if is_short(where, rendering) else [pytest.mark.long])
    for where in HOSTILE
    for rendering in RENDERINGS
]


@pytest.mark.parametrize(("where", "rendering"), CASES)
def test_a_key_that_comes_back_in_an_error_is_masked_before_it_is_kept_or_said(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture, where: str, rendering: str
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = RENDERINGS[rendering](key)

    def respond(asked: Asked) -> bytes:
        assert asked.key == key
        return HOSTILE[where](shown) if where != "models" or asked.line.startswith("GET") else response(b"", "500 No")

    with RawServer(respond) as server, pytest.raises(EndpointError) as error:
        build(tmp_path / "run", server.url, max_attempts=3)
    assert server.requests
    assert leaks(str(error.value), key) == []
    assert leaks(everything(tmp_path), key) == []
    assert leaks(caplog.text, key) == []


@pytest.mark.parametrize(
    "where", ["401", "status line", *(pytest.param(one, marks=pytest.mark.long) for one in ("redirect", "reason"))]
)
def test_a_process_says_no_key_on_stderr_not_even_with_every_log_on(tmp_path: Path, where: str) -> None:
    with RawServer(lambda asked: HOSTILE[where](asked.key)) as server:
        ended = client(tmp_path / "run", server.url, PAIRSIGHT_API_KEY=KEY)
    assert server.requests[0].key == KEY
    assert ended.returncode != 0
    assert "EndpointError" in ended.stderr
    assert leaks(ended.stdout + ended.stderr + everything(tmp_path), KEY) == []


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_an_answer_with_the_key_is_not_kept_its_usage_is_and_calls_stop(
    tmp_path: Path, key: str, rendering: str
) -> None:
    shown = RENDERINGS[rendering](key).replace("\\x", "\\\\x")  # which alone is no JSON
    body = chat("X").replace(b"X", f"your key is {shown}".encode())
    with RawServer(lambda asked: response(body)) as server:
        with pytest.raises(EndpointError, match="sent the key back in an answer, which is not kept"):
            build(tmp_path / "run", server.url)
        num_asked = len(server.requests)
        assert num_asked <= 3
        with Ledger(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
            assert ledger.read("SELECT DISTINCT outcome, prompt_tokens, completion_tokens, cost FROM attempts", ()) == [
                ("echoed_key", 10, 5, 15.0)
            ]
            assert ledger.read("SELECT * FROM answers", ()) == []
            assert Attempts(ledger).spent().echoed_keys == num_asked
        assert leaks(everything(tmp_path), key) == []
        server.respond = lambda asked: response(chat("well"))
        assert build(tmp_path / "run", server.url) == ["well"] * 9


@pytest.mark.parametrize(
    ("short", "said"), [("None", "None of the shapes"), ("4", "Helpfulness: 4"), ("EMPTY", "EMPTY")]
)
def test_a_key_too_short_to_be_a_secret_is_sent_never_masked_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, short: str, said: str
) -> None:
    monkeypatch.setenv("PAIRSIGHT_API_KEY", short)
    with RawServer(lambda asked: response(chat(said))) as server:
        assert build(tmp_path / "run", server.url) == [said] * 9
    assert {asked.key for asked in server.requests} == {short}
    (line,) = [record.message for record in caplog.records if "PAIRSIGHT_API_KEY" in record.message]
    assert "is not secret" in line


def test_a_body_is_kept_to_the_byte_beside_a_key(tmp_path: Path, key: str) -> None:
    body = json.dumps(answer("sk-Abc is no key, *** neither"), indent=1).encode()
    with RawServer(lambda asked: response(body)) as server:
        assert build(tmp_path / "run", server.url) == ["sk-Abc is no key, *** neither"] * 9
    with Ledger(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
        assert {raw for (raw,) in ledger.read("SELECT raw FROM answers", ())} == {body.decode()}


@pytest.mark.parametrize("bad", ["sk-line\nbreak", "sk-with space", "sk-ünïcode", "sk-\x7f-delete", "sk-\udcff-bytes"])
def test_a_key_that_no_header_can_carry_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    monkeypatch.setenv("PAIRSIGHT_API_KEY", bad)
    with RawServer(lambda asked: response(chat("well"))) as server:
        with pytest.raises(ConfigError, match="the key in PAIRSIGHT_API_KEY") as error:
            build(tmp_path / "run", server.url)
        assert server.requests == []
        assert bad not in str(error.value)
        assert "sk-" not in everything(tmp_path) + str(error.value)
        monkeypatch.setenv("PAIRSIGHT_API_KEY", f" {KEY}\n")
        assert build(tmp_path / "run", server.url) == ["well"] * 9
    assert {asked.key for asked in server.requests} == {KEY}


def test_a_redirect_is_not_followed_with_or_without_a_key(tmp_path: Path, key: str) -> None:
    with RawServer(lambda asked: response(chat("well"))) as other:
        there = f"Location: {other.url}/chat/completions"
        with (
            RawServer(lambda asked: response(b"", "307 There", there)) as server,
            pytest.raises(EndpointError, match="points elsewhere"),
        ):
            build(tmp_path / "run", server.url)
    assert other.requests == []


def test_no_proxy_gets_the_key_of_a_server_on_this_machine(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(lambda asked: response(chat("from the proxy"))) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        with RawServer(lambda asked: response(chat("well"))) as server:
            assert build(tmp_path / "run", server.url) == ["well"] * 9
            assert build(tmp_path / "other", server.url.replace("127.0.0.1", "localhost")) == ["well"] * 9
    assert proxy.requests == []
