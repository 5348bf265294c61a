"""The line that ends every question: kept in a folder, put below prompts, part of the fingerprint."""

import pickle

import pytest

from pairsight.errors import ModelError
from pairsight.models.protocols import Sampling
from pairsight.models.wrappers import FILE, Suffixed, encode, read_prompt_suffix
from pairsight.records import Completion, CompletionRequest, ItemError, Message, Prompt


class Echo:
    """Says the last message again; fails for prompt "bad"."""

    fingerprint = "sha256:echo"

    def generate(self, requests, sampling):
        return [self._one(request) for request in requests]

    def _one(self, request):
        if request.prompt.id == "bad":
            return ItemError("refused", "no", retryable=False)
        text = request.prompt.messages[-1].text
        return Completion("x:0", request.prompt.id, text, "stop", self.fingerprint, 0, 0)


def _request(name, *texts):
    return CompletionRequest(Prompt(name, tuple(Message("user", text) for text in texts)))


def test_the_line_stands_below_the_last_message():
    made = Suffixed(Echo(), "Best, please.").generate([_request("a", "One", "Two"), _request("bad", "x")], Sampling())
    assert made[0].text == "Two\nBest, please."
    assert isinstance(made[1], ItemError)


def test_fingerprints_tell_lines_and_models_apart():
    first, second = Suffixed(Echo(), "a"), Suffixed(Echo(), "b")
    assert len({first.fingerprint, second.fingerprint, Echo.fingerprint}) == 3
    assert pickle.loads(pickle.dumps(first)).fingerprint == first.fingerprint
    assert first.generate([_request("a", "One")], Sampling())[0].model == first.fingerprint


def test_a_folder_keeps_its_line(tmp_path):
    assert read_prompt_suffix(tmp_path) == ""
    (tmp_path / FILE).write_bytes(encode("Größe: {x}"))
    assert read_prompt_suffix(tmp_path) == "Größe: {x}"
    assert read_prompt_suffix("owner/name") == ""
    (tmp_path / "inference.json").write_text('{"prompt_suffix": 3}')
    with pytest.raises(ModelError, match="'prompt_suffix' must be text, found int"):
        read_prompt_suffix(tmp_path)
