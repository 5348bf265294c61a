"""The endpoint client against a real server: `transformers serve` with the tiny model, on loopback."""

import importlib.util
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image, ImageDraw

import pairsight.tiny
from pairsight.engine.calls.calls import Caller
from pairsight.engine.runner import Runner
from pairsight.errors import EndpointError
from pairsight.models.endpoint.model import EndpointModel
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.protocols import Sampling
from pairsight.models.stages import GenerateCompletions
from pairsight.records import Completion, CompletionRequest, Message, Prompt
from pairsight.store.attempts import Attempts
from pairsight.store.blobs import BlobStore
from pairsight.store.ledger import Ledger

MODEL = Path(pairsight.tiny.__file__).parent / "weights" / "base"
QUESTIONS = ("Describe the image.", "Is there a red circle?", "What color is the square?")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("uvicorn") is None or importlib.util.find_spec("fastapi") is None,
    reason="pip install 'transformers[serving]'",
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "hub").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "hub"), "OMP_NUM_THREADS": "1"}
    command = [
        str(Path(sys.executable).parent / "transformers"), "serve", "--device", "cpu", "--dtype", "float32",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except httpx.HTTPError:
                assert server.poll() is None, (folder / "log").read_text()[-2000:]
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


def requests(blobs: BlobStore) -> list[CompletionRequest]:
    picture = Image.new("RGB", (48, 48), "white")
    ImageDraw.Draw(picture).ellipse((8, 8, 24, 24), fill="red")
    data = io.BytesIO()
    picture.save(data, "PNG")
    ref = blobs.add_bytes(data.getvalue(), ".png")
    return [CompletionRequest(Prompt(f"p{n}", (Message("user", q, (ref,)),))) for n, q in enumerate(QUESTIONS)]


def test_the_server_says_what_the_model_says_here(url: str, blobs: BlobStore, tmp_path: Path) -> None:
    model = EndpointModel(f"endpoint:{MODEL}@{url}", blobs)
    sampling = Sampling(max_new_tokens=16)
    stage = GenerateCompletions(generator=model, sampling=sampling)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        served = list(Runner(ledger)(stage, requests(blobs)))
        spent = Attempts(ledger).spent()
    here = LocalVLM(MODEL, blobs, dtype="float32").generate(requests(blobs), sampling)
    assert [c.text for c in served if isinstance(c, Completion)] == [c.text for c in here if isinstance(c, Completion)]
    assert (spent.calls, spent.unknown_outcomes) == (3, 0)
    assert spent.completion_tokens > 0


def test_a_model_that_the_server_does_not_have_is_one_clear_error(url: str, blobs: BlobStore, tmp_path: Path) -> None:
    stage = GenerateCompletions(generator=EndpointModel(f"endpoint:nothing@{url}", blobs), sampling=Sampling())
    with (
        Ledger(tmp_path / "ledger.sqlite") as ledger,
        pytest.raises(EndpointError, match="its models list does not name 'nothing'") as error,
    ):
        Runner(ledger, caller=Caller())(stage, requests(blobs))
    assert "\n" not in str(error.value)
