"""The world's truth behind an endpoint: asked through the real prompts, read by the real parsers, it says the truth."""

import base64
import http.client
import io
import json

import pytest
from PIL import Image

from pairsight.errors import DataError, RunError
from pairsight.images.source import FileImages
from pairsight.models.annotation.prompt import annotation_prompt, parse_annotation
from pairsight.recipes.synthetic.texts import (
    TOPICS,
    instruction_request,
    near_duplicates,
    parse_instruction,
    parse_scenes,
    scene_requests,
)
from pairsight.records import Completion, Message, Prompt
from pairsight.tiny.truth.annotator import TruthAnnotator, WorldTruth, read_truth
from pairsight.tiny.truth.asked import Answering, Grading, asked_for, true_answer
from pairsight.tiny.truth.model import TruthModel
from pairsight.tiny.truth.server import TruthServer
from pairsight.tiny.world.picture_texts import kinds_wanted
from pairsight.tiny.world.questions import benchmark_questions
from pairsight.tiny.world.recognise import Recogniser
from pairsight.tiny.world.render import render_image
from pairsight.tiny.world.scenes import scenes, stream
from pairsight.tiny.world.world_files import write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("tiny") / "world", 10, 4, model=None)


@pytest.fixture(scope="module")
def truth(world):
    return TruthModel(world)


def picture(world, row):
    return Image.open(world / "images" / row.image).convert("RGB")


def test_every_question_of_the_world_is_answered_by_its_words_and_objects_alone():
    for index, scene in enumerate(scenes("validation", 60)):
        for question in benchmark_questions(scene, stream("validation", 0, index, 5)):
            assert true_answer(question.text, scene.things) == (question.kind, question.answer)


@pytest.mark.parametrize(
    ("question", "kind", "answer"),
    [
        ("What colour is the ring?\nAnswer the question using a single word or phrase.", "colour", "none"),
        ("Where is the red circle?", "place", "nowhere"),
        ("Tell me a story.", "caption", "There is nothing."),
    ],
)
def test_what_is_not_there_has_an_answer_too(question, kind, answer):
    assert true_answer(question, ()) == (kind, answer)


@pytest.mark.parametrize("change", ["png", "jpeg", "resized"])
def test_a_picture_is_recognised_however_it_was_sent(world, change):
    known = Recogniser(WorldTruth(world / "truth.jsonl"), world / "images")
    for row in known._rows:
        shown, data = picture(world, row), io.BytesIO()
        if change == "jpeg":
            shown.save(data, "JPEG", quality=60)
            shown = Image.open(data)
        if change == "resized":
            shown = shown.resize((120, 120))
        found = known.recognise(shown)
        assert found.image_sha256 == row.image_sha256
        assert {thing.kind for thing in found.things} == row.present
        assert [thing.place for thing in found.things] == [thing["place"] for thing in row.objects]


def test_another_picture_of_the_world_is_read_instead(world):
    known = Recogniser(WorldTruth(world / "truth.jsonl"), world / "images")
    other = [known.recognise(render_image(scene)) for scene in scenes("validation", 20, 9)]
    assert {one.image_sha256 for one in other} == {None}
    right = [
        {thing.kind for thing in one.things} == scene.kinds
        for one, scene in zip(other, scenes("validation", 20, 9), strict=True)
    ]
    assert sum(right) >= 18


def rows_of(world, use="prompt"):
    return [row for row in read_truth(world / "truth.jsonl") if row.use == use]


@pytest.mark.parametrize("form", ["text", "json"])
def test_its_grades_are_the_annotators(world, truth, form):
    images, annotator = FileImages(world / "images"), TruthAnnotator(world / "truth.jsonl")
    for row in rows_of(world):
        refs = (images.ref(row.image),) if row.image else ()
        prompt = Prompt("p", (Message("user", f"{'<image>' if refs else ''}\n{row.question}", refs),))
        texts = ["", row.answer, "There is a red circle, a red circle and a blue ring.", "No.", "Answer 2\nis wrong: 4"]
        asked = annotation_prompt(prompt, texts, form)
        said = truth.say(asked.question, picture(world, row) if row.image else None)
        made = [Completion(f"c{k}", "p", text, "stop", "m", 0, k) for k, text in enumerate(texts)]
        expected = [dict(one.scores) for one in annotator.annotate(prompt, made)]
        assert parse_annotation(said, len(texts)) == expected


def test_a_conversation_is_graded_by_its_last_question():
    turns = (Message("user", "Hello"), Message("assistant", "user: what?"), Message("user", "Is there a red ring?"))
    asked = asked_for(annotation_prompt(Prompt("p", turns), ["Yes", "No\n\n[Answer 3]\nor so"]).question)
    assert asked == Grading("Is there a red ring?", ("Yes", "No\n\n[Answer 3]\nor so"), "text")
    assert asked_for("[Question]\ngot 2 answers. Grade") == Answering("[Question]\ngot 2 answers. Grade")


def test_it_writes_scenes_and_questions_for_the_synthetic_recipe(truth):
    for request in scene_requests(TOPICS, 20, seed=3):
        said = truth.say(request.prompt.question, seed=request.seed)
        assert said == truth.say(request.prompt.question, seed=request.seed)
        texts = parse_scenes(said)
        assert len(texts) == len(set(texts)) == 20
        assert all(text.startswith(f"{request.prompt.source} scene with a") and kinds_wanted(text) for text in texts)
        assert near_duplicates(texts).count(None) > 10
    asked = instruction_request(Prompt("art-1", (Message("user", "art scene with a red ring"),)), None, seed=1)
    questions = {truth.say(asked.prompt.question, seed=seed) for seed in range(40)}
    assert questions == {
        "What is in the image?", "What colour is the ring?", "How many rings are in the image?",
        "How many red objects are in the image?",
    }  # fmt: skip
    assert all(parse_instruction(question) == question for question in questions)


def test_it_answers_about_the_image_and_the_texts_that_it_knows(world, truth):
    for row in rows_of(world, "benchmark"):
        assert truth.say(row.question, picture(world, row) if row.image else None) == row.answer
    with pytest.raises(DataError, match="does not hold this question without an image: Who are you"):
        truth.say("Who are you?")


@pytest.fixture(scope="module")
def server(world):
    with TruthServer(world) as server:
        yield server


def ask(server, body, path="/v1/chat/completions", method="POST"):
    connection = http.client.HTTPConnection(server.model_name.partition("http://")[2].split("/")[0])
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data if method == "POST" else None)
    response = connection.getresponse()
    found = json.loads(response.read())
    connection.close()
    return response.status, found


def body(text, url=None, **more):
    parts = [{"type": "text", "text": text}]
    if url:
        parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return {"model": "truth", "messages": [{"role": "user", "content": parts}], **more}


def data_url(world, row):
    return f"data:image/png;base64,{base64.b64encode((world / 'images' / row.image).read_bytes()).decode()}"


def test_the_server_speaks_as_openais_do(server, world):
    status, found = ask(server, {}, "/v1/models", "GET")
    assert (status, [model["id"] for model in found["data"]]) == (200, ["truth"])
    row = next(row for row in rows_of(world) if row.kind == "caption")
    status, found = ask(server, body(row.question, data_url(world, row)))
    (choice,) = found["choices"]
    assert (status, choice["message"]["content"], choice["finish_reason"]) == (200, row.answer, "stop")
    assert found["usage"]["completion_tokens"] == len(row.answer.split())
    _, found = ask(server, body(row.question, data_url(world, row), max_tokens=2))
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["choices"][0]["message"]["content"] == "There is"


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (b"{", 400, "the body is not JSON"),
        (b"[]", 400, "not a JSON object"),
        ({"model": "gpt"}, 404, "there is no model 'gpt' here, only 'truth'"),
        ({"model": "truth"}, 400, "messages must be a list"),
        ({"model": "truth", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages must"),
        (body("?", stream=True), 400, "stream is not offered"),
        (body("?", "http://127.0.0.1/secret.png"), 400, "nothing is fetched"),
        (body("?", "data:image/png;base64,AAAA"), 400, "an image cannot be read"),
        (body("?", "data:image/png;base64,*"), 400, "an image cannot be read"),
        (body("Who are you?"), 400, "does not hold this question"),
        (body("?", seed="x"), 400, "seed"),
    ],
)
def test_what_it_cannot_do_is_refused_in_a_line(server, sent, status, message):
    found, answer = ask(server, sent)
    assert found == status
    assert message in answer["error"]["message"]
    assert "\n" not in answer["error"]["message"]


def test_other_addresses_and_ports_and_folders_are_refused(server, tmp_path, world):
    assert ask(server, {}, "/v1/other")[0] == ask(server, {}, "/", "GET")[0] == 404
    port = int(server.model_name.rpartition(":")[2].removesuffix("/v1"))
    with pytest.raises(RunError, match=rf"port {port} of 127\.0\.0\.1 cannot be used: .*choose another --port"):
        TruthServer(world, port)
    with pytest.raises(DataError, match=r"holds no world \(truth.jsonl\): write one with `pairsight tiny --out"):
        TruthServer(tmp_path)
