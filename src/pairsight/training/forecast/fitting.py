"""The first setting, or the first of them together, with which a training fits into its device: each is tried."""

from collections.abc import Callable, Iterator

from pairsight.training.config import TrainingConfig

Peak = Callable[[TrainingConfig], int]
"""The bytes that a training with a config holds at its peak."""
_LEAST_RANK = 8


def first_that_fits(
    config: TrainingConfig, usable: int, pass_tokens: tuple[int, int], peak: Peak
) -> tuple[str, int] | None:
    """The first setting that makes a training fit, else the first of them that do so together.

    Those come first that change no result, then those that cost time, then those that change what is trained.

    Args:
        config: with which it does not fit.
        usable: bytes of the device.
        pass_tokens: tokens of the largest example, and of the largest pass.
        peak: runs the training's largest passes.

    Returns:
        The settings as `name=value`, and the bytes that the training then holds at its peak; None: none does.
    """
    settings = list(_settings(config, *pass_tokens))
    for changes in settings:
        for name, value in changes:
            found = peak(config.model_copy(update={name: value}))
            if found <= usable:
                return _written(name, value), found
    names: list[str] = []
    for changes in settings:
        name, value = changes[-1]
        config = config.model_copy(update={name: value})
        names.append(_written(name, value))
        if len(names) > 1 and (found := peak(config)) <= usable:
            return " ".join(names), found
    return None


def _settings(config: TrainingConfig, largest_example: int, largest_pass: int) -> Iterator[list[tuple[str, object]]]:
    """Options with the values to try, the mildest first."""
    if sizes := list(_halves(largest_pass, largest_example)):
        yield [("max_tokens_per_pass", size) for size in sizes]
    if config.image_cache_mb > 64:
        yield [("image_cache_mb", 64)]
    if not config.gradient_checkpointing:
        yield [("gradient_checkpointing", True)]
    if config.bf16 is not True:
        yield [("bf16", True)]
    if config.tuning == "lora" and not config.load_in_4bit:
        yield [("load_in_4bit", True)]
    if config.tuning == "full":
        yield [("tuning", "lora")]
    elif ranks := list(_halves(config.lora_r, _LEAST_RANK)):
        yield [("lora_r", rank) for rank in ranks]


def _halves(number: int, least: int) -> Iterator[int]:
    """A number's half, quarter, ..., down to the least and with it."""
    while number > least:
        number = max(least, -(-number // 2))
        yield number


def _written(name: str, value: object) -> str:
    return f"{name}={str(value).lower()}"
