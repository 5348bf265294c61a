"""What a launcher says: which process this is, of how many, and how `accelerate launch` wants the policy kept."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pairsight.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from pairsight.training.config import TrainingConfig

_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_OTHER_WAYS = ("ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG")
_FSDP, _DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
_STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"
_NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_READ_BY_ACCELERATE = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", _FSDP, _DEEPSPEED)
"""From these accelerate concludes that it must wrap the policy, which is wrapped here."""
_MIXED, _DEVICE = "ACCELERATE_MIXED_PRECISION", "ACCELERATE_TORCH_DEVICE"

HOW_TO_START = "start several with --devices N, torchrun or `accelerate launch`"
SECONDS_TO_END = 15.0
"""How long ranks may take to end by themselves after one failed."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One process of those that a launcher started; by default the only one.

    Args:
        rank, size: this process's number among all, and how many there are.
        local_rank, local_size: the same on this machine.
        asked: how accelerate's configuration wants the policy kept, "fsdp2", "zero2" or "zero3"; "": it does not say.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    asked: str = ""

    def way(self, config: "TrainingConfig") -> str:
        """How the ranks hold the policy.

        Raises:
            ConfigError: the config and accelerate's configuration contradict each other, or there is one process.
        """
        given = "parallel" in config.given()
        if given and self.asked and config.parallel != self.asked:
            raise ConfigError(
                f"parallel is {config.parallel}, and accelerate's configuration asks for {self.asked}; make them the "
                "same, or leave parallel out"
            )
        if self.size == 1 and config.parallel != "ddp":
            raise ConfigError(
                f"parallel={config.parallel} is for several processes, and this is the only one; {HOW_TO_START}"
            )
        mixed = os.environ.get(_MIXED, "no").lower() if self.size > 1 else "no"
        if mixed not in ("no", "bf16") or (mixed == "bf16" and config.bf16 is False):
            raise ConfigError(
                f"{_MIXED} is {mixed}, and bf16 is {str(config.bf16).lower()}: set the precision by bf16, and "
                "mixed_precision to 'no' in accelerate's configuration"
            )
        way = self.asked or config.parallel
        in_bits = {"load_in_4bit=true": config.load_in_4bit, f"optim={config.optim}": "8bit" in config.optim}
        if way != "ddp" and (alone := [option for option, is_set in in_bits.items() if is_set]):
            raise ConfigError(f"parallel={way} divides what {alone[0]} keeps in fewer bits; use parallel=ddp")
        return way

    def refuse_other_count(self, devices: int) -> None:
        """Refuse a number of devices that is not that of the processes.

        Raises:
            ConfigError: with both.
        """
        if devices not in (1, self.local_size):
            started = (
                f"a launcher started {self.local_size} on this machine" if self.size > 1 else "this is the only process"
            )
            raise ConfigError(
                f"devices is {devices}, and {started}: `pairsight align --devices N` starts N by itself; under "
                "torchrun, `accelerate launch`, `pairsight run` or from Python leave devices out"
            )

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Keep a launcher's variables from accelerate, which would wrap the policy a second time."""
        before = {name: os.environ.pop(name) for name in (*_READ_BY_ACCELERATE, _MIXED) if name in os.environ}
        device = os.environ.get(_DEVICE)
        if self.size > 1 and device is None:
            import torch

            if torch.cuda.is_available():
                os.environ[_DEVICE] = f"cuda:{torch.cuda.current_device()}"
        try:
            yield
        finally:
            os.environ |= before
            if device is None:
                os.environ.pop(_DEVICE, None)


def launched() -> Launch:
    """What the environment says of this process.

    Raises:
        ConfigError: processes that cannot train together, with the variable that says so.
    """
    for name in _MPI:
        if _number(name, 1) > 1:
            raise ConfigError(f"{name} is {os.environ[name]}: processes of MPI do not train together; {HOW_TO_START}")
    for name in _OTHER_WAYS:
        if _is_set(name):
            raise ConfigError(
                f"{name} is {os.environ[name]}: a policy is kept by ddp, fsdp2, zero2 or zero3 (parallel=); change "
                "accelerate's configuration"
            )
    size, local_rank = _number("WORLD_SIZE", 1), _number("LOCAL_RANK", 0)
    if size <= 1:
        alone = next((name for name in (_FSDP, _DEEPSPEED) if _is_set(name)), "") or (
            "LOCAL_RANK" if local_rank > 0 else ""
        )
        if alone:
            raise ConfigError(
                f"{alone} is {os.environ[alone]}, and WORLD_SIZE says that there is one process; {HOW_TO_START}"
            )
        if "WORLD_SIZE" not in os.environ and _MIXED in os.environ and "MASTER_PORT" in os.environ:
            raise ConfigError(
                "`accelerate launch` was asked for several processes and started this one alone, as it does on a CPU: "
                "use --devices N or torchrun, or ask it for one (num_processes: 1)"
            )
        return Launch()
    if missing := [name for name in _NEEDED if not os.environ.get(name)]:
        raise ConfigError(
            f"WORLD_SIZE is {size}, and {missing[0]} is not set: no launcher started this process; unset WORLD_SIZE, "
            f"or {HOW_TO_START}"
        )
    return Launch(_number("RANK", 0), size, local_rank, _number("LOCAL_WORLD_SIZE", size), _asked())


def _asked() -> str:
    """How accelerate's variables want the policy kept."""
    if _is_set(_FSDP):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise ConfigError("accelerate's configuration asks for FSDP 1: set fsdp_version: 2 (parallel=fsdp2)")
        return "fsdp2"
    if _is_set(_DEEPSPEED):
        stage = os.environ.get(_STAGE, "")
        if stage not in ("2", "3"):
            raise ConfigError(
                f"accelerate's configuration asks for DeepSpeed with {_STAGE} {stage or 'not set'}: set zero_stage to "
                "2 or 3, without a deepspeed_config_file"
            )
        return f"zero{stage}"
    return ""


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if text in ("", "-1"):
        return default
    if not text.isdecimal():
        raise ConfigError(f"{name} is {text!r:.40}, and must be a number; unset it, or {HOW_TO_START}")
    return int(text)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() not in ("", "0", "false")


def start(count: int, arguments: Sequence[str]) -> int:
    """Run a command of this program in `count` processes of this machine, a GPU each where there are any.

    If one fails, the others are ended.

    Args:
        count: processes.
        arguments: the command line of each, without the program's name.

    Returns:
        The exit status: 0 if all ended well, else the first failure's.

    Raises:
        TrainingError: a process was killed.
    """
    from torch._C._distributed_c10d import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
    shared["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # by which PyTorch's ranks know that the store is here
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": max(1, (os.cpu_count() or 1) // count)}
    ranks = []
    for rank in range(count):
        own = {**shared, **threads, "RANK": rank, "LOCAL_RANK": rank}
        environment = os.environ | {name: str(value) for name, value in own.items()}
        ranks.append(subprocess.Popen([sys.executable, "-m", "pairsight", *arguments], env=environment))
    before = signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal interrupts the ranks too, and the first one says so
    try:
        statuses = _wait(ranks)
    finally:
        for process in ranks:
            process.kill()
        signal.signal(signal.SIGINT, before)
        del store
    failed = [(rank, status) for rank, status in enumerate(statuses) if status]
    if failed and all(status < 0 for _, status in failed):
        rank, status = failed[0]
        raise TrainingError(
            f"rank {rank} of {count} was ended by signal {-status}, maybe for too little memory; the same command "
            "resumes from the newest checkpoint"
        )
    return next((status for _, status in failed if status > 0), 0)


def _wait(ranks: Sequence["subprocess.Popen[bytes]"]) -> list[int]:
    """The exit status of each, once all ended; when one failed, the others have some seconds to end by themselves."""
    until = float("inf")
    while any(process.poll() is None for process in ranks):
        if until == float("inf") and any(process.returncode for process in ranks):
            until = time.monotonic() + SECONDS_TO_END
        if time.monotonic() > until:
            for process in ranks:
                process.kill()
        time.sleep(0.05)
    return [process.returncode for process in ranks]
