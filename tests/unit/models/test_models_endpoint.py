"""Models behind endpoints: names, requests and answers; nothing is sent here."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fault_server import answer
from pairsight.engine.stage import Call
from pairsight.errors import ConfigError, DataError
from pairsight.models.annotation.vlm_annotator import VlmAnnotator
from pairsight.models.endpoint.messages import EndpointOptions, completion_of
from pairsight.models.endpoint.model import EndpointModel, is_endpoint, parse_endpoint
from pairsight.models.local.local_vlm import LocalVLM
from pairsight.models.protocols import Generator, Question, Sampling
from pairsight.models.scorers.names import scorer_identity
from pairsight.models.scorers.stages import ScoreCompletions
from pairsight.models.stages import AnnotateCandidates, GenerateCompletions
from pairsight.records import (
    Annotation,
    Candidates,
    Completion,
    CompletionRequest,
    Distortion,
    ImageRef,
    ItemError,
    Message,
    Prompt,
)
from pairsight.store.blobs import BlobStore

In = TypeVar("In")
Out = TypeVar("Out")
MODEL = "endpoint:org/model-7b@http://127.0.0.1:8000/v1"


def png(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


def ask(text: str, *images: ImageRef, seed: int = 7) -> CompletionRequest:
    return CompletionRequest(Prompt("p", (Message("user", text, images),)), 2, seed)


@pytest.mark.parametrize(
    ("model_name", "name", "url"),
    [
        (MODEL, "org/model-7b", "http://127.0.0.1:8000/v1/chat/completions"),
        ("endpoint:m@https://h/v1/", "m", "https://h/v1/chat/completions"),
        ("endpoint:m@https://h/v1/chat/completions", "m", "https://h/v1/chat/completions"),
        ("endpoint:/folder/of@odd/name@http://h:1/v1", "/folder/of@odd/name", "http://h:1/v1/chat/completions"),
    ],
)
def test_names_of_endpoints(model_name: str, name: str, url: str) -> None:
    assert is_endpoint(model_name)
    assert parse_endpoint(model_name) == (name, url)


@pytest.mark.parametrize(
    ("model_name", "says"),
    [
        ("endpoint:m", "must be endpoint:NAME@URL"),
        ("endpoint:@http://h", "must be endpoint:NAME@URL"),
        ("endpoint:m@ftp://h", "must be endpoint:NAME@URL"),
        ("endpoint:m@http://", "must be endpoint:NAME@URL"),
        ("endpoint:m@http:///v1", "is not the URL of a server"),
        ("endpoint:m@http://h:port/v1", "is not the URL of a server"),
        ("endpoint:m\udcff@https://h/v1", "one line of printable characters"),
        ("endpoint:m\n2@https://h/v1", "one line of printable characters"),
        ("endpoint:m@https://user:secret@h/v1", "must hold no key"),
        ("endpoint:m@https://h/v1?key=secret", "must hold no key"),
    ],
)
def test_bad_names_are_one_clear_error(model_name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        parse_endpoint(model_name)
    assert "secret" not in str(error.value)


def test_a_request_holds_text_and_images_in_their_places(blobs: BlobStore) -> None:
    ref = blobs.add_bytes(png(4, 3), ".png")
    model = EndpointModel(MODEL, blobs)
    request = model.request(ask("Compare <image> with <image>.", ref, ref), Sampling(temperature=0.7, top_p=0.9))
    assert request.url == "http://127.0.0.1:8000/v1/chat/completions"
    content = request.body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url", "text", "image_url", "text"]
    assert content[0]["text"] == "Compare "
    kind, _, data = content[1]["image_url"]["url"].partition(";base64,")
    assert kind == "data:image/png"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (4, 3)
    rest = {name: value for name, value in request.body.items() if name != "messages"}
    assert rest == {"model": "org/model-7b", "temperature": 0.7, "max_tokens": 512, "top_p": 0.9, "seed": 7}
    assert request.completion_tokens == 512
    assert request.prompt_tokens > 170
    json.dumps(request.body)


def test_images_come_first_where_the_text_has_no_marks_and_texts_stay_texts(blobs: BlobStore) -> None:
    ref = blobs.add_bytes(png(4, 3), ".png")
    model = EndpointModel(MODEL, blobs)
    with_image = model.request(ask("What?", ref), Sampling()).body["messages"][0]["content"]
    assert [part["type"] for part in with_image] == ["image_url", "text"]
    assert model.request(ask("What?"), Sampling()).body["messages"] == [{"role": "user", "content": "What?"}]


def test_greedy_requests_have_no_seed(blobs: BlobStore) -> None:
    assert "seed" not in EndpointModel(MODEL, blobs).request(ask("?"), Sampling()).body


@pytest.mark.parametrize(
    ("size", "kind", "sent"), [((2000, 500), "jpeg", (1024, 256)), ((200, 100), "png", (200, 100))]
)
def test_images_are_made_smaller_to_the_limit(
    blobs: BlobStore, size: tuple[int, int], kind: str, sent: tuple[int, int]
) -> None:
    ref = blobs.add_bytes(png(*size), ".png")
    body = EndpointModel(MODEL, blobs).request(ask("?", ref), Sampling()).body
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith(f"data:image/{kind};base64,")
    assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == sent


def test_distorted_pixels_that_are_no_picture_are_refused(blobs: BlobStore) -> None:
    ref = ImageRef(blobs.add_bytes(png(4, 3), ".png").sha256, Distortion("diffusion", {"step": 500.0}, 1, "normalised"))
    with pytest.raises(DataError, match="is not a picture") as error:
        EndpointModel(MODEL, blobs).request(ask("?", ref), Sampling())
    assert error.value.reason == "normalised_distortion"


def test_options_shape_the_request_and_the_fingerprint(blobs: BlobStore) -> None:
    options = EndpointOptions(
        max_tokens_name="max_completion_tokens", send_seed=False, structured_output=True,
        extra_body={"temperature": None, "service_tier": "flex"},
    )  # fmt: skip
    model = EndpointModel(MODEL, blobs, options)
    body = model.request(ask("?"), Sampling(temperature=1.0), {"type": "object"}).body
    assert "temperature" not in body
    assert "seed" not in body
    assert (body["max_completion_tokens"], body["service_tier"]) == (512, "flex")
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    plain = EndpointModel(MODEL, blobs)
    assert plain.fingerprint == "endpoint:org/model-7b@http://127.0.0.1:8000/v1"
    assert model.fingerprint.startswith(plain.fingerprint + "#")
    assert "response_format" not in plain.request(ask("?"), Sampling(), {"type": "object"}).body


def test_an_answer_is_a_completion() -> None:
    request = ask("?")
    assert completion_of(json.dumps(answer("a cat", "length")), request, "m") == Completion(
        "p:2", "p", "a cat", "length", "m", 7, 2
    )


@pytest.mark.parametrize(
    ("message", "ending", "text", "finish_reason"),
    [
        ({"content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]}, "stop", "a b", "stop"),
        ({"content": None, "refusal": "I will not"}, "stop", "I will not", "refusal"),
        ({"content": None}, "content_filter", "", "content_filter"),
        ({"content": None}, "length", "", "length"),
        ({"content": ""}, "stop", "", "stop"),
        ({"content": "a \ud83d"}, "stop", "a \ufffd", "stop"),
        ({"content": [{"text": "\ud83d\ude00\udfff"}]}, "stop\ud800", "\U0001f600\ufffd", "stop\ufffd"),
        ({"content": None, "refusal": "no \udc00"}, "stop", "no \ufffd", "refusal"),
        ({"content": "x"}, "y" * 1000, "x", "y" * 100),
        ({"content": "x"}, None, "x", "unknown"),
    ],
)
def test_odd_answers_are_kept(message: dict[str, object], ending: str, text: str, finish_reason: str) -> None:
    raw = json.dumps({"choices": [{"message": message, "finish_reason": ending}]})
    result = completion_of(raw, ask("?"), "m")
    assert isinstance(result, Completion)
    assert (result.text, result.finish_reason) == (text, finish_reason)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ('{"choices": [{"mess', "not_json"),
        ("", "not_json"),
        ("[]", "no_text"),
        ("null", "no_text"),
        ('{"choices": []}', "no_text"),
        ('{"choices": [{"message": null}]}', "no_text"),
        ('{"choices": [{"message": {"content": null, "tool_calls": []}, "finish_reason": "tool_calls"}]}', "no_text"),
    ],
)
def test_answers_without_a_completion_say_what_came_instead(raw: str, reason: str) -> None:
    result = completion_of(raw, ask("?"), "m")
    assert isinstance(result, ItemError)
    assert result.reason == reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["choices", "message", "content", "text", "finish_reason"]), inner)
    ),
)


@given(st.text() | json_values.map(json.dumps))
def test_no_answer_whatever_breaks_the_parser(raw: str) -> None:
    assert isinstance(completion_of(raw, ask("?"), "m"), Completion | ItemError)


def test_stages_become_calls_only_when_their_model_is_behind_an_endpoint(blobs: BlobStore) -> None:
    model = EndpointModel(MODEL, blobs)
    call = GenerateCompletions(generator=model, sampling=Sampling()).as_call()
    assert call is not None
    assert (call.name, call.item_id(ask("?"))) == ("generate", "p:2")
    assert AnnotateCandidates(annotator=VlmAnnotator(model)).as_call() is not None

    local = LocalVLM("folder", blobs)
    assert GenerateCompletions(generator=local, sampling=Sampling()).as_call() is None


class Relayed(Generator):
    """A generator of a user's own whose work is paid for: it asks an endpoint under another name."""

    def __init__(self, model: EndpointModel) -> None:
        self.model = model

    fingerprint = "relayed"
    is_structured = True

    def generate(self, requests: Sequence[CompletionRequest], sampling: Sampling) -> list[Completion | ItemError]:
        raise AssertionError("a call is asked instead")

    def as_call(self, name: str, sampling: Sampling, question: Question[In, Out]) -> Call[In, Out]:
        return self.model.as_call(name, sampling, question)


class Own(Generator):
    """A generator of a user's own on this machine, with nothing but what is asked of it."""

    fingerprint = "own"

    def generate(self, requests: Sequence[CompletionRequest], sampling: Sampling) -> list[Completion | ItemError]:
        return []


def test_a_generator_of_a_users_own_may_be_a_call(blobs: BlobStore) -> None:
    relayed = Relayed(EndpointModel(MODEL, blobs))
    calls = (
        GenerateCompletions(generator=relayed, sampling=Sampling()).as_call(),
        AnnotateCandidates(annotator=VlmAnnotator(relayed)).as_call(),
    )
    assert [call.name for call in calls if call is not None] == ["generate", "annotate"]


def test_a_generator_is_local_and_gives_no_logps_unless_it_says_so() -> None:
    own = Own()
    assert GenerateCompletions(generator=own, sampling=Sampling()).as_call() is None
    assert AnnotateCandidates(annotator=VlmAnnotator(own)).as_call() is None
    assert not own.is_structured
    with pytest.raises(ConfigError, match="model own gives no log-probs of given texts; use a model folder"):
        own.loaded_copy()


def test_an_annotation_is_asked_for_and_read_with_the_same_prompt_and_parser(blobs: BlobStore) -> None:
    completions = tuple(Completion(f"p:{i}", "p", f"text {i}", "stop", "m", 0, i) for i in range(2))
    item = Candidates(Prompt("p", (Message("user", "What?"),)), completions)
    model = EndpointModel(MODEL, blobs, EndpointOptions(structured_output=True))
    call = VlmAnnotator(model, form="json").as_call("annotate")
    assert call is not None
    body = call.request(item).body
    assert "text 0" in body["messages"][0]["content"]
    assert body["response_format"]["json_schema"]["schema"]["properties"]["answers"]["minItems"] == 2
    grades = "\n\n".join(
        f"Answer {n}\nHelpfulness: 4\nCorrectness: 3\nCoherence: 4\nComplexity: 1\nVerbosity: 1" for n in (1, 2)
    )
    result = call.parse(item, json.dumps(answer(grades)))
    assert isinstance(result, Candidates)
    assert {a.completion_id for a in result.annotations} == {"p:0", "p:1"}
    assert result.annotations[0].scores["correctness"] == 3.0
    other = Candidates(item.prompt, (completions[0], Completion("p:9", "p", "text 1", "stop", "m", 0, 1)))
    assert call.key(item) != call.key(other)


def test_a_judge_among_the_scorers_may_be_behind_an_endpoint(blobs: BlobStore) -> None:
    stage = ScoreCompletions(f"vlm:{MODEL}", blobs)
    call = stage.as_call()
    assert call is not None
    item = (Prompt("p", (Message("user", "What?"),)), Completion("p:1", "p", "a cat", "stop", "m", 0, 1))
    assert call.name == "score_completions/vlm"
    assert "[Answer 1]\na cat" in call.request(item).body["messages"][0]["content"]
    grades = "Answer 1: good\n\nAnswer 1\nHelpfulness: 4\nCorrectness: 3\nCoherence: 4\nComplexity: 1\nVerbosity: 2"
    result = call.parse(item, json.dumps(answer(grades)))
    assert isinstance(result, Annotation)
    assert (result.completion_id, result.annotator, result.scores["total"]) == ("p:1", "vlm", 11.0)
    cut = call.parse(item, json.dumps(answer("Answer 1: good", "length")))
    assert isinstance(cut, ItemError)
    assert cut.reason == "length"
    assert scorer_identity(f"vlm:{MODEL}") != scorer_identity("vlm:endpoint:other@http://127.0.0.1:8000/v1")
    assert ScoreCompletions("clip:org/model", blobs).as_call() is None
    with pytest.raises(ConfigError, match="'clip' needs weights; only 'vlm' asks a model behind an endpoint"):
        ScoreCompletions(f"clip:{MODEL}", blobs).as_call()


@pytest.mark.parametrize("ending", ["length", "content_filter"])
def test_an_annotation_that_was_cut_fails_by_the_name_of_its_ending(blobs: BlobStore, ending: str) -> None:
    completions = tuple(Completion(f"p:{i}", "p", f"text {i}", "stop", "m", 0, i) for i in range(2))
    item = Candidates(Prompt("p", (Message("user", "What?"),)), completions)
    model = EndpointModel(MODEL, blobs)
    call = VlmAnnotator(model).as_call("annotate")
    assert call is not None
    grades = "Answer {}\nHelpfulness: 4\nCorrectness: 3\nCoherence: 4\nComplexity: 1\nVerbosity: 1\n"
    half = call.parse(item, json.dumps(answer(grades.format(1), ending)))
    assert isinstance(half, ItemError)
    assert half.reason == ending
    assert half.detail.startswith(
        f"the answer ended by '{ending}', 1 of 2 completions were rated; no scores for answer"
    )
    whole = call.parse(item, json.dumps(answer(grades.format(1) + grades.format(2), ending)))
    assert isinstance(whole, Candidates)
