"""SeVa in its default form through an OpenAI-compatible server on loopback: the bytes that it receives."""

import base64
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fault_server import FaultServer, answer
from pairsight.cli.main import main
from pairsight.images.distort import CLIP_MEAN, CLIP_STD, signal_and_noise
from pairsight.seeds import derived_seed

SIDE = 336


@pytest.fixture
def files(tmp_path):
    values = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(values).resize((400, 300)).save(tmp_path / "a.png")
    rows = [{"id": "q", "image": "a.png", "question": "What is it?"}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def build(files, server, out, *more):
    return main(
        ["build", "seva", "--model", f"endpoint:m@{server.url}", "--prompts", str(files / "prompts.jsonl"),
         "--out", str(files / out), "--quiet", *more]
    )  # fmt: skip


def received(bodies):
    """The pictures of the clean and of the distorted request, with their formats."""
    found = []
    for body in bodies:
        url = body["messages"][0]["content"][0]["image_url"]["url"]
        picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        found.append((picture.format, np.asarray(picture.convert("RGB"))))
    return sorted(found, key=lambda one: one[1].shape[0] == SIDE)


def unclipped(files):
    """x_t of the paper at LLaVA-1.5's square: shortest side to 336, the middle, CLIP's mean and std."""
    picture = Image.open(files / "a.png").resize((448, 336), Image.Resampling.BICUBIC).crop((56, 0, 392, 336))
    x = (np.asarray(picture) / 255 - CLIP_MEAN) / CLIP_STD
    generator = torch.Generator().manual_seed(derived_seed("distortion", 0, "q", 1))
    epsilon = torch.randn((3, SIDE, SIDE), generator=generator).numpy().transpose(1, 2, 0)
    signal, noise = signal_and_noise(800)
    return signal * x + noise * epsilon


def test_the_server_receives_the_noise_that_the_paper_defines(files, capsys):
    bodies = []

    def respond(body):
        bodies.append(body)
        return answer(f"answer {len(bodies)}")

    with FaultServer(respond=respond) as server:
        assert build(files, server, "run") == 0
        assert build(files, server, "run") == 0, "the same command goes on"
    assert len(bodies) == 2, "and buys nothing twice"
    (clean_kind, clean), (noisy_kind, noisy) = received(bodies)
    assert (clean_kind, clean.shape) == ("JPEG", (300, 400, 3))
    wanted = unclipped(files)
    by_hand = ((wanted * CLIP_STD + CLIP_MEAN).clip(0, 1) * 255).round()
    assert noisy_kind == "PNG"
    assert np.abs(noisy - by_hand).max() <= 1
    assert np.mean(noisy == by_hand) > 0.999
    seen = (noisy / 255 - CLIP_MEAN) / CLIP_STD
    (shift,) = json.loads((files / "run/measured.json").read_text()).values()
    assert shift["max"] == pytest.approx(np.abs(seen - wanted).max(), rel=1e-3)
    assert shift["mean"] == pytest.approx(np.abs(seen - wanted).mean(), rel=1e-3)
    assert f"rendering shift: max {shift['max']:.4g}, mean {shift['mean']:.4g}, num_images 1" in capsys.readouterr().out
    rows = pq.read_table(files / "run/data/completions-00000.parquet").to_pylist()
    assert [row["distortion"] for row in rows] == [None, "rendered diffusion step=800 size=336"]
    assert json.loads(rows[1]["record"])["images"][0]["distortion"]["space"] == "rendered"


def test_lossless_unresized_images_on_request(files):
    Image.open(files / "a.png").resize((1100, 300)).save(files / "a.png")
    bodies = []
    with FaultServer(respond=lambda body: bodies.append(body) or answer(f"{len(bodies)}")) as server:
        options = ["--set", "endpoint.image_format=png", "--set", "endpoint.max_image_side=null"]
        assert build(files, server, "exact", *options, "--set", "render={size: 64, fit: stretch}") == 0
    clean, noisy = sorted(received(bodies), key=lambda one: -one[1].size)
    assert clean[0] == "PNG"
    assert np.array_equal(clean[1], np.asarray(Image.open(files / "a.png")))
    assert (noisy[0], noisy[1].shape) == ("PNG", (64, 64, 3))


def test_render_is_for_endpoints(files, capsys):
    arguments = ["build", "seva", "--model", str(files), "--prompts", str(files / "prompts.jsonl")]
    assert main([*arguments, "--out", str(files / "x"), "--set", "render=llava-1.5"]) == 1
    (files / "config.json").write_text("{}")
    assert not (files / "x").exists()


SHORT = "Answer the question using a single word or phrase."
CAPTION = "Provide a one-sentence caption for the provided image.\nReference OCR token: "


def turns(*questions):
    roles = (("human", question) for question in questions)
    return [turn for role, text in roles for turn in ({"from": role, "value": text}, {"from": "gpt", "value": "A"})]


def test_rows_like_llava_665k_ask_what_seva_asks(tmp_path):
    """Two questions a dialogue of two sources, each with its folder; what the server is asked is worked by hand."""
    rows = [
        {
            "id": "a",
            "image": "ocr_vqa/images/1.png",
            "conversations": turns(f"<image>\nWho wrote it?\n{SHORT}", "Why?"),
        },
        {"id": "b", "image": "textvqa/train_images/2.png", "conversations": turns(f"<image>\n{CAPTION}NOIR, 2013")},
        {"id": "c", "image": "coco/3.png", "conversations": turns(f"<image>\nIs it red?\n{SHORT}")},
    ]
    for folder, name in (("books", "images/1.png"), ("signs", "train_images/2.png")):
        file = tmp_path / folder / name
        file.parent.mkdir(parents=True)
        Image.new("RGB", (30, 20), (90, 10, 200)).save(file)
    (tmp_path / "mix.json").write_text(json.dumps(rows))
    asked = []

    def respond(body):
        asked.append(body["messages"][-1]["content"][-1]["text"])
        return answer(f"answer {len(asked)}")

    with FaultServer(respond=respond) as server:
        options = ["--sources", "ocr_vqa/", "--sources", "textvqa/",
                   "--questions-per-dialogue", "2", "--per-source", "8000",
                   "--images", f"ocr_vqa={tmp_path / 'books'}", "--images", f"textvqa={tmp_path / 'signs'}",
                   "--set", "strip_short_answer=ocr_vqa/", "--set", "complete_dialogues=true",
                   "--set", "render={size: 32}"]  # fmt: skip
        status = main(
            ["build", "seva", "--model", f"endpoint:m@{server.url}", "--prompts", str(tmp_path / "mix.json"),
             "--out", str(tmp_path / "run"), "--quiet", *options]
        )  # fmt: skip
    assert status == 0
    by_hand = ["Who wrote it?", "Why?", f"{CAPTION}NOIR, 2013"]
    assert sorted(asked) == sorted(2 * by_hand), "each of a clean and of a distorted image"
