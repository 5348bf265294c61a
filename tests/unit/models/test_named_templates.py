"""Chat templates by name, as FastChat and Meta publish the formats, rendered by transformers itself."""

import pytest

from family_parts import tokenizer
from pairsight.errors import ConfigError
from pairsight.models.local.named_templates import TEMPLATES, named_template

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TURNS = [("user", "Hello!"), ("assistant", "Hi!"), ("user", "How are you?")]


def written(name, turns=TURNS, **options):
    messages = [{"role": role, "content": content} for role, content in turns]
    options = {"add_generation_prompt": True, **options}
    return tokenizer().apply_chat_template(messages, chat_template=TEMPLATES[name], tokenize=False, **options)


def test_vicuna_is_written_as_fastchat_publishes_it():
    assert written("vicuna_v1") == f"<s>{SYSTEM} USER: Hello! ASSISTANT: Hi!</s>USER: How are you? ASSISTANT:"
    own = written("vicuna_v1", [("system", "Be kind."), *TURNS[:1]])
    assert own == "<s>Be kind. USER: Hello! ASSISTANT:"
    assert written("vicuna_v1", [("system", ""), *TURNS[:1]]) == "<s>USER: Hello! ASSISTANT:"
    done = written("vicuna_v1", TURNS[:2], add_generation_prompt=False)
    assert done == f"<s>{SYSTEM} USER: Hello! ASSISTANT: Hi!</s>"


def test_llama_2_is_written_as_meta_publishes_it():
    assert written("llama-2") == "<s>[INST] Hello! [/INST] Hi! </s><s>[INST] How are you? [/INST]"
    own = written("llama-2", [("system", "Be kind."), *TURNS])
    first = "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHello! [/INST] Hi! </s>"
    assert own == f"{first}<s>[INST] How are you? [/INST]"


def test_plain_text_has_no_names():
    assert written("plain") == "<s>Hello!\nHi!</s>How are you?\n"


@pytest.mark.parametrize(("name", "before"), [("vicuna_v1", "USER: "), ("llama-2", "[INST] "), ("plain", "<s>")])
def test_images_come_first_in_their_message(name, before):
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image"}]
    assert f"{before}<image>\nWhat is it?" in written(name, [("user", parts)])


def test_an_unknown_role_is_refused_by_the_template():
    with pytest.raises(Exception, match="it writes turns of user and assistant, found tool"):
        written("vicuna_v1", [("user", "a"), ("tool", "b")])


def test_a_template_may_be_a_file(tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    assert named_template(str(file)) == file.read_text()
    assert named_template("vicuna_v1") == TEMPLATES["vicuna_v1"]
    for content, message in [("{% for %}", "line 1 is not Jinja"), (" \n", "is empty"), ("x" * 200_000, "longer than")]:
        file.write_text(content)
        with pytest.raises(ConfigError, match=message):
            named_template(str(file))
    with pytest.raises(ConfigError, match="No such file"):
        named_template(str(tmp_path / "none.jinja"))
    with pytest.raises(ConfigError, match="'vicuna' is unknown; did you mean 'vicuna_v1'"):
        named_template("vicuna")
