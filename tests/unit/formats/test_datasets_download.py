"""Images at web addresses: fetched from a server on this machine where the user allows it, never otherwise."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from test_datasets import RED

from pairsight.errors import DataError
from pairsight.formats.datasets.reading import Reading, read_records

ASKED: list[str] = []


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ASKED.append(self.path)
        self.send_response(404 if "gone" in self.path else 200)
        self.end_headers()
        self.wfile.write(b"<html>" if "page" in self.path else RED)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    ASKED.clear()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def test_addresses_are_fetched_only_where_that_is_allowed(server: str, tmp_path: Path):
    names = ("red.png", "gone.png", "page.png")
    rows = [
        {"id": name, "image": f"{server}/{name}", "question": "?", "chosen": "a", "rejected": "b"} for name in names
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"line 1 id .red.png.: .*web address: --allow-download"):
        read_records(file)
    assert ASKED == [], "nothing was asked"
    found = read_records(file, Reading(allow_download=True, on_error="skip"))
    assert [one.id for one in found] == ["red.png"]
    assert found.images.open(found[0].prompt.images[0]).getpixel((0, 0)) == (255, 0, 0)
    assert [(one.item_id, one.reason) for one in found.dropped] == [
        ("gone.png", "missing_image"), ("page.png", "not_an_image")
    ]  # fmt: skip
    assert "404" in found.dropped[0].detail and "\n" not in found.dropped[0].detail
