"""The model that lmms-eval finds by its entry point, with a stand-in for lmms-eval's base class and registry."""

import importlib
import sys
import tomllib
import types
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from PIL import Image

from pairsight.errors import ConfigError, DataError, ModelError
from pairsight.images.source import FileImages
from pairsight.models.protocols import Generator, Sampling
from pairsight.pipeline.models import open_generator
from pairsight.records import CompletionRequest, Message, Prompt
from pairsight.tiny.models.shipped import shipped_model

QUESTION = "What is in the picture?"


@pytest.fixture
def lmms(monkeypatch):
    """`lmms_eval` as far as our module touches it, in the shape of release 0.7.3."""

    class Base:
        is_simple = True

        def __init__(self):
            self.task_dict = {}

    @dataclass(frozen=True)
    class ModelManifest:
        model_id: str
        simple_class_path: str | None = None

    for name, members in {"lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.models": {},
                          "lmms_eval.api.model": {"lmms": Base},
                          "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest}}.items():  # fmt: skip
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    torch.set_num_threads(1)
    module = importlib.import_module("pairsight.pipeline.lmms_eval")
    module._model_class.cache_clear()
    yield module
    module._model_class.cache_clear()


class Request:
    """What lmms-eval hands over: `args` of one document."""

    def __init__(self, context, settings, pictures, doc_id=0):
        self.args = (context, settings, lambda document: document and pictures, doc_id, "task", "test")


def model_with_documents(lmms, **arguments):
    module_name, class_name = lmms.manifest().simple_class_path.rsplit(".", 1)
    model = getattr(importlib.import_module(module_name), class_name)(**arguments)
    model.task_dict = {"task": {"test": [{"n": n} for n in range(1, 9)]}}
    return model


def test_the_entry_point_names_a_model_that_is_there(lmms):
    assert lmms.manifest().model_id == "pairsight"
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (declared,) = project["entry-points"]["lmms_eval.models"].items()
    assert EntryPoint(*declared, "lmms_eval.models").load() is lmms.manifest
    with pytest.raises(AttributeError):
        _ = lmms.Another


def test_answers_are_those_of_our_own_generator(lmms, tmp_path):
    pictures = [Image.new("RGB", (32, 32), color) for color in ("red", "blue", "green")]
    base = shipped_model("base")
    model = model_with_documents(lmms, pretrained=str(base), batch_size="2")
    settings = {"max_new_tokens": 12, "temperature": 0, "do_sample": False, "until": ["\n\n"], "num_beams": 1}
    requests = [Request(QUESTION, settings, [picture], n) for n, picture in enumerate(pictures)]
    requests.insert(1, Request(f"<image>\n{QUESTION}", {"max_new_tokens": 3}, [pictures[0]], 3))
    requests.append(Request("Say hello.", settings, None, 4))
    found = model.generate_until(requests)
    for n, picture in enumerate(pictures):
        picture.save(tmp_path / f"{n}.png")
    images = FileImages(tmp_path)
    refs = images.refs([f"{n}.png" for n in range(3)])
    generator = open_generator(base, images)

    def ours(text, seen, length):
        request = CompletionRequest(Prompt("x", (Message("user", text, seen),)))
        return generator.generate([request], Sampling(max_new_tokens=length))[0].text

    expected = [ours(QUESTION, (refs[f"{n}.png"],), 12) for n in range(3)]
    expected.insert(1, ours(f"<image>\n{QUESTION}", (refs["0.png"],), 3))
    expected.append(ours("Say hello.", (), 12))
    assert found == expected


def test_stop_strings_end_an_answer_and_settings_are_read(lmms):
    sampling, stops = lmms.read_settings({"until": "b", "temperature": 0.7, "top_p": None})
    assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens, stops) == (0.7, 1.0, 1024, ["b"])
    assert lmms.read_settings({"temperature": 0.7, "do_sample": False})[0].temperature == 0.0
    with pytest.raises(ConfigError, match="num_beams 5"):
        lmms.read_settings({"num_beams": 5})

    class Says(Generator):
        fingerprint = "says"

        def generate(self, requests, sampling):
            return [types.SimpleNamespace(text="one\n\ntwo ASSISTANT: x") for _ in requests]

    request = Request("?", {"until": ["ASSISTANT:", "\n\n", ""]}, [])
    assert lmms.answers([request], {"task": {"test": [1]}}, Says(), lmms.HeldImages(), 0) == ["one"]


def test_what_it_cannot_do_is_said(lmms):
    with pytest.raises(ModelError):
        model_with_documents(lmms, pretrained="/no/such/model")
    model = model_with_documents(lmms, pretrained=str(shipped_model("base")))
    with pytest.raises(DataError, match="shows a str"):
        model.generate_until([Request("?", {}, ["video.mp4"])])
    with pytest.raises(ConfigError, match="seed_bench_likelihood"):
        model.loglikelihood([])
    with pytest.raises(ConfigError, match="several rounds"):
        model.generate_until_multi_round([])
