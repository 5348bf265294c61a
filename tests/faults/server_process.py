"""A server that is killed, run as a program: `server_process.py FILE COUNT` prints its URL, notes in FILE what it is
asked, and dies while it works on the COUNT-th call."""

import os
import signal
import sys
import threading
from itertools import count

from fault_server import Fault, FaultServer


def main() -> None:
    """See above."""
    descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    calls = count(1)

    def noted(question: str, time_asked: int) -> Fault:
        os.write(descriptor, f"{question}\n".encode())
        if next(calls) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return ""

    with FaultServer(noted, delay_s=0.01) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
