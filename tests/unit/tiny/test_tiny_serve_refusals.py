"""`tiny serve` answers requests to its own address only, and every bad body with 400."""

import http.client
import json

import pytest

from pairsight.tiny.truth.server import TruthServer
from pairsight.tiny.world.world_files import write_world


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    world = tmp_path_factory.mktemp("world") / "w"
    write_world(world, scenes=2)
    with TruthServer(world) as server:
        yield server.model_name.rpartition("//")[2].removesuffix("/v1")


def ask(address: str, body: bytes | None = None, host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=10)
    headers = {"Host": host} if host is not None else {}
    if body is None:
        connection.request("GET", "/v1/models", headers=headers)
    else:
        connection.request("POST", "/v1/chat/completions", body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_only_its_own_host_is_answered(address: str) -> None:
    port = address.partition(":")[2]
    assert ask(address)[0] == 200
    assert ask(address, host=f"localhost:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""):
        status, said = ask(address, host=host)
        assert (status, b"only" in said) == (403, True), host
        assert ask(address, b"{}", host=host)[0] == 403


def message(content: object, **more: object) -> bytes:
    return json.dumps({"model": "truth", "messages": [{"role": "user", "content": content}], **more}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"\xff", b"[" * 100_000, json.dumps({"model": "truth"}).encode(), message(3), message(None),
        message([{"type": "text", "text": 3}]), message([3]), message([{"type": "image_url", "image_url": {"url": 3}}]),
        message([{"type": "image_url", "image_url": 3}]), message("Hm?", seed="x"), message("Hm?", seed=[1]),
        message([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]),
        json.dumps({"model": "truth", "messages": {"a": 1}}).encode(),
    ],
)  # fmt: skip
def test_a_bad_body_is_400(address: str, body: bytes) -> None:
    status, said = ask(address, body)
    assert status == 400, said
    assert json.loads(said)["error"]["message"]
