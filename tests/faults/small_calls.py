"""A small paid build, run as a program: `small_calls.py FOLDER URL [POINT]` dies at a crash point if one is given.

Prints "points N" when it ends well.
"""

import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from crash_points import NUMBER_OF, crash_at

from pairsight.engine.calls.calls import Caller
from pairsight.engine.calls.options import CallOptions
from pairsight.engine.runner import Runner
from pairsight.models.endpoint.model import EndpointModel
from pairsight.models.protocols import Sampling
from pairsight.models.stages import GenerateCompletions
from pairsight.records import Completion, CompletionRequest, Message, Prompt
from pairsight.store.ledger import Ledger
from pairsight.store.run_folder import RunFolder

QUESTIONS = tuple(f"question {i}" for i in range(9))
MAX_CONCURRENCY = 3


def build(folder: Path, url: str, questions: Sequence[str] = QUESTIONS, **more: object) -> list[str]:
    """The texts that the endpoint answers, in order of the questions; `more` are call options."""
    run = RunFolder.create(folder, {"questions": len(questions)})
    price = {"prompt": 1e6, "completion": 1e6}
    fixed = {"max_concurrency": MAX_CONCURRENCY, "max_attempts": 8, "timeout_s": 1.0, "prices": {"m": price}}
    options = CallOptions.parse({**fixed, **more})
    model = EndpointModel(f"endpoint:m@{url}", run.blobs)
    stage = GenerateCompletions(generator=model, sampling=Sampling(max_new_tokens=10))
    requests = [CompletionRequest(Prompt(q, (Message("user", q),))) for q in questions]
    with run.lock("build"), Ledger(run.path / "ledger.sqlite") as ledger:
        results = Runner(ledger, caller=Caller(options))(stage, requests)
        return [r.text if isinstance(r, Completion) else r.reason for r in results]


def main() -> None:
    """See above."""
    folder, url = Path(sys.argv[1]), sys.argv[2]
    point = int(sys.argv[3]) if len(sys.argv) > 3 else None
    with crash_at(point):
        texts = build(folder, url)
    assert texts == [f"you asked: {question}" for question in QUESTIONS], texts
    assert threading.active_count() < 50
    print("points", NUMBER_OF["points"])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started without it
    main()
