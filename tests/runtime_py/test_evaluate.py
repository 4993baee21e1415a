"""Evaluation end to end: the demo bundle and the eager model on files in the benchmarks' forms, resumable, side by side."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from calibration.clips import ANNOTATIONS, write_clips
from export.build import DEMO_CHECKPOINT
from export.errors import VideoError
from export.model.prompt import LETTERS
from runtime_py.annotations import by_clip, read_annotations
from runtime_py.evaluate import TOKENS, Without, _name, main, read_pixels
from runtime_py.frame_folder import read_folder

CLIPS, QUESTIONS = 2, 4


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, "test", CLIPS, QUESTIONS)
    return folder


@pytest.fixture(scope="module")
def evaluated(demo_bundle, clips, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("results")
    assert run(demo_bundle, clips, out, "--checkpoint", str(DEMO_CHECKPOINT), "--json", str(out / "summary.json")) == 0
    return out


def run(bundle: Path, clips: Path, out: Path, *more: str, annotations: Path | None = None) -> int:
    questions = annotations or clips / ANNOTATIONS
    return main(["--bundle", str(bundle), "--annotations", str(questions), "--videos", str(clips), "--out", str(out), *more])


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_question_is_answered_once_by_each_model(evaluated, demo_bundle):
    summary = json.loads((evaluated / "summary.json").read_text())
    assert list(summary["models"]) == ["eager", demo_bundle.name] and summary["questions"] == CLIPS * QUESTIONS
    for name, figures in summary["models"].items():
        header, *results = lines(evaluated / f"{name}.jsonl")
        assert sorted(result["number"] for result in results) == list(range(CLIPS * QUESTIONS)) and header["model"]
        assert figures["accuracy"]["share"] == sum(result["right"] for result in results) / len(results)
        assert figures["accuracy"]["low"] <= figures["accuracy"]["share"] <= figures["accuracy"]["high"]
    difference = summary["models"][demo_bundle.name]["difference"]
    shares = [figures["accuracy"]["share"] for figures in summary["models"].values()]
    assert difference["share"] == pytest.approx(shares[1] - shares[0])


def test_answers_are_those_of_a_chat_of_its_own(evaluated, clips):
    """Behind a shared prefix a question is answered as in a conversation that it begins."""
    from export.checkpoint import open_checkpoint
    from runtime_py.load import backend_of_checkpoint, load_tokenizer
    from runtime_py.session import Session

    checkpoint = open_checkpoint(str(DEMO_CHECKPOINT))
    encode, tokenizer = load_tokenizer(checkpoint.tokenizer_file, "demo")
    session = Session(backend_of_checkpoint(checkpoint), encode)
    found = {result["number"]: result["answer"] for result in lines(evaluated / "eager.jsonl")[1:]}
    clip = by_clip(read_annotations(clips / ANNOTATIONS))[0]
    for item in clip[-2:]:
        session.watch(read_pixels(clips / item.video, item))
        assert tokenizer.decode(list(session.ask(item.prompt, max_new_tokens=64))).strip() == found[item.number]


def test_a_run_that_was_cut_short_asks_only_what_is_left(evaluated, demo_bundle, clips, tmp_path, monkeypatch, capsys):
    out = shutil.copytree(evaluated, tmp_path / "r")
    file = out / f"{demo_bundle.name}.jsonl"
    kept = file.read_text().splitlines(keepends=True)
    file.write_text("".join(kept[:4]) + kept[4][:20])  # three answers and a piece of the fourth
    asked = []
    from runtime_py import evaluate

    original = evaluate.answer_clip

    def answer_clip(session, decode, pixels, items):
        asked.extend(item.number for item in items)
        return original(session, decode, pixels, items)

    monkeypatch.setattr(evaluate, "answer_clip", answer_clip)
    assert run(demo_bundle, clips, out) == 0
    assert sorted(asked) == list(range(3, CLIPS * QUESTIONS))
    assert sorted(lines(file)[1:], key=lambda r: r["number"]) == sorted(lines(evaluated / file.name)[1:], key=lambda r: r["number"])


def test_results_of_another_model_are_refused(evaluated, demo_bundle, clips, tmp_path, capsys):
    out = shutil.copytree(evaluated, tmp_path / "r")
    (out / f"{demo_bundle.name}.jsonl").write_text('{"model": "another", "questions": "x"}\n')
    assert run(demo_bundle, clips, out) == 2
    assert "another model" in capsys.readouterr().err
    (out / f"{demo_bundle.name}.jsonl").write_text("no results\n")
    assert run(demo_bundle, clips, out) == 2
    assert "no file of results" in capsys.readouterr().err


FORMS = {
    "mvbench": lambda video: [{"video": video, "question": "Which?", "candidates": ["red", "blue"], "answer": "red"}],
    "nextqa": lambda video: [
        {"video": video.removesuffix(".mp4"), "question": "what", "answer": 1, "qid": 0, "type": "CH", "a0": "red", "a1": "blue"}
    ],
    "egoschema": lambda video: [{"q_uid": video.removesuffix(".mp4"), "question": "What?", "option 0": "a", "option 1": "b", "answer": 0}],
    "perception": lambda video: {video.removesuffix(".mp4"): {"mc_question": [{"question": "?", "options": ["x", "y"], "answer_id": 0}]}},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_benchmarks_forms_are_evaluated(form, demo_bundle, clips, tmp_path, capsys):
    path = tmp_path / f"{form}.json"
    path.write_text(json.dumps(FORMS[form]("test-0-0000.mp4")))
    assert run(demo_bundle, clips, tmp_path / "r", annotations=path) == 0
    assert "all, of 1" in capsys.readouterr().out and len(lines(tmp_path / "r" / f"{demo_bundle.name}.jsonl")) == 2


def test_the_same_questions_in_every_form_have_the_same_answers(evaluated, demo_bundle, clips, tmp_path, capsys):
    """Multiple choice about the synthetic clips, written as each benchmark publishes it."""
    items = [item for item in read_annotations(clips / ANNOTATIONS) if item.options]
    choices = [(item.video, item.question, list(item.options), LETTERS.index(item.answer)) for item in items]
    stem = lambda video: video.removesuffix(".mp4")  # noqa: E731
    header = "video,question,answer,qid,type,a0,a1,a2,a3"
    assert choices
    asked = [{"question": q, "answer": a, "qid": 0} | {f"a{i}": x for i, x in enumerate(o)} for _, q, o, a in choices]
    quoted = [",".join([stem(v), f'"{q}"', str(a), "0", "CH", *(f'"{x}"' for x in o)]) for v, q, o, a in choices]
    video, question, options, answer = choices[0]
    written = {
        "mvbench.json": [{"video": v, "question": q, "candidates": o, "answer": o[a]} for v, q, o, a in choices],
        "nextqa.json": [{"video": stem(v)} | entry for (v, *_), entry in zip(choices, asked)],
        "nextqa.csv": "\n".join([header, *quoted]),
        "perception.json": {stem(video): {"mc_question": [{"question": question, "options": options, "answer_id": answer}]}},
    }
    known = {result["number"]: result for result in lines(evaluated / f"{demo_bundle.name}.jsonl")[1:]}
    for name, data in written.items():
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        assert run(demo_bundle, clips, tmp_path / f"{name}-results", annotations=path) == 0
        found = sorted(lines(tmp_path / f"{name}-results" / f"{demo_bundle.name}.jsonl")[1:], key=lambda result: result["number"])
        expected = [known[item.number] for item in items[: len(found)]]
        assert [(r["answer"], r["right"]) for r in found] == [(r["answer"], r["right"]) for r in expected], name


def test_a_video_that_cannot_be_read_costs_its_own_questions(demo_bundle, clips, tmp_path, capsys):
    videos = shutil.copytree(clips, tmp_path / "videos")
    broken = sorted(videos.glob("*.mp4"))[0]
    broken.write_bytes(b"no video")
    out = tmp_path / "r"
    assert run(demo_bundle, videos, out, "--json", str(tmp_path / "s.json")) == 0
    captured = capsys.readouterr()
    assert "warning: 4 questions are left out" in captured.err and "left out: 4 of 8" in captured.err and "all, of 4" in captured.out
    assert json.loads((tmp_path / "s.json").read_text())["questions"] == 4
    broken.unlink()
    assert run(demo_bundle, videos, out) == 0
    captured = capsys.readouterr()
    assert "4 of 8 questions are left out, their videos are not in" in captured.err and "all, of 4" in captured.out
    shutil.copy(clips / broken.name, broken)
    assert run(demo_bundle, videos, out) == 0  # mended: what was left out is asked now
    assert "all, of 8" in capsys.readouterr().out
    for video in videos.glob("*.mp4"):
        video.write_bytes(b"no video")
    assert run(demo_bundle, videos, tmp_path / "none") == 2
    assert "none of the videos" in capsys.readouterr().err


def test_a_folder_of_pictures_is_a_clip(tmp_path):
    """Three a second, by name."""
    for i in range(60):
        Image.fromarray(np.full((40, 60, 3), 4 * i, np.uint8)).save(tmp_path / f"{i:05d}.png")
    everything = read_folder(tmp_path)
    assert len(everything) == 16 and everything[0].shape == (40, 60, 3)
    assert [frame[0, 0, 0] // 4 for frame in read_folder(tmp_path, 10.0, 12.0)] == [30, 31, 32, 33, 34, 35]
    with pytest.raises(VideoError, match="none of the span"):
        read_folder(tmp_path, 100.0, 101.0)
    (tmp_path / "00000.png").write_bytes(b"no picture")
    with pytest.raises(VideoError, match="cannot be read"):
        read_folder(tmp_path, 0.0, 1.0)


def test_edited_frames(clips):
    item = read_annotations(clips / ANNOTATIONS)[0]
    plain, blank, shuffled = (read_pixels(clips / item.video, item, edit).clip for edit in (None, "blank", "shuffled"))
    assert (blank == 127).all() and not (plain == shuffled).all()
    assert sorted(frame.sum().item() for frame in plain) == sorted(frame.sum().item() for frame in shuffled)


@pytest.mark.parametrize("branch, projector", [("no-image", "image_projector"), ("no-video", "video_projector")])
def test_one_branch_is_taken_away(branch, projector):
    class Ones:
        name = "ones"

        def run(self, graph, *inputs):
            return torch.ones(2)

    backend = Without(Ones(), TOKENS[branch])
    assert backend.name == "ones" and not backend.run(projector).any()
    for graph in {"image_projector", "video_projector", "image_encoder"} - {projector}:
        assert backend.run(graph).all()


def test_an_ablation_has_results_of_its_own(demo_bundle, clips, tmp_path):
    assert run(demo_bundle, clips, tmp_path, "--ablate", "no-image", "--limit", "1") == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{demo_bundle.name}-no-image.jsonl"]


@pytest.mark.parametrize(
    "change, says",
    [(["--limit", "0"], "at least 1"), (["--videos", "nowhere"], "has no video"), (["--annotations", "nowhere.json"], "cannot be read"),
     (["--bundle", "nowhere"], "nowhere")],
)  # fmt: skip
def test_wrong_arguments_are_one_line(change, says, demo_bundle, clips, tmp_path, capsys):
    given = (demo_bundle, clips / ANNOTATIONS, clips, tmp_path / "r")
    arguments = dict(zip(("--bundle", "--annotations", "--videos", "--out"), map(str, given)))
    arguments |= dict([change])
    assert main([part for pair in arguments.items() for part in pair]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


def test_nothing_to_evaluate_and_two_of_one_name(demo_bundle, clips, tmp_path, capsys):
    assert main(["--annotations", str(clips / ANNOTATIONS), "--videos", str(clips), "--out", str(tmp_path)]) == 2
    assert "give --bundle" in capsys.readouterr().err
    assert run(demo_bundle, clips, tmp_path, "--bundle", str(demo_bundle)) == 2
    assert "two bundles are called" in capsys.readouterr().err


def test_a_benchmark_in_several_files_is_evaluated_as_one(demo_bundle, clips, tmp_path, capsys):
    """Per task and over all, each file's videos in a folder of its own; resumed; another set of files is another question."""
    items = [item for item in read_annotations(clips / ANNOTATIONS) if item.options]
    assert len(items) >= 3 and len({item.video for item in items}) == 2
    tasks = {"moving_count": items[:1], "state_change": items[1:]}
    for (task, asked), place in zip(tasks.items(), ("clevrer/video_validation", "state_change")):
        (tmp_path / "videos" / place).mkdir(parents=True)
        for item in asked:
            shutil.copy(clips / item.video, tmp_path / "videos" / place)
        entries = [{"video": i.video, "question": i.question, "candidates": list(i.options)} for i in asked]
        path = tmp_path / "json" / f"{task}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps([e | {"answer": i.options[LETTERS.index(i.answer)]} for e, i in zip(entries, asked)]))
    out = tmp_path / "r"
    arguments = ["--bundle", str(demo_bundle), "--videos", str(tmp_path / "videos"), "--out", str(out)]
    both = ["--annotations", str(tmp_path / "json")]
    assert main([*arguments, *both, "--limit", "1"]) == 0  # of each file
    assert "all, of 2" in capsys.readouterr().out
    first = lines(out / f"{demo_bundle.name}.jsonl")[1:]
    assert [result["number"] for result in first] == [0, 1]
    assert main([*arguments, *both, "--json", str(tmp_path / "s.json")]) == 0
    printed = capsys.readouterr().out
    assert f"all, of {len(items)}" in printed and "moving_count (1)" in printed and f"state_change ({len(items) - 1})" in printed
    results = lines(out / f"{demo_bundle.name}.jsonl")[1:]
    assert results[:2] == first and sorted(r["number"] for r in results) == list(range(len(items)))  # those were not asked again
    shares = json.loads((tmp_path / "s.json").read_text())["models"][demo_bundle.name]
    by_number = {result["number"]: result["right"] for result in results}
    rest = [by_number[number] for number in range(1, len(items))]
    assert shares["tasks"] == {"moving_count": float(by_number[0]), "state_change": sum(rest) / len(rest)}
    assert shares["accuracy"]["share"] == pytest.approx(sum(by_number.values()) / len(items))
    assert main([*arguments, "--annotations", str(tmp_path / "json" / "state_change.json")]) == 2
    assert "other questions" in capsys.readouterr().err
    one = [tmp_path / "json" / f"{task}.json" for task in tasks]
    assert main([*arguments, "--annotations", *map(str, one)]) == 0  # the same files, named one by one
    assert sorted(map(str, lines(out / f"{demo_bundle.name}.jsonl")[1:])) == sorted(map(str, results))


@pytest.mark.parametrize(
    "given, name", [(["a/task.json"], "task"), (["mvbench"], "mvbench"), (["mvbench/a.json", "mvbench/b.json"], "mvbench")]
)
def test_results_are_called_as_the_annotations_are(given, name, tmp_path):
    (tmp_path / "mvbench").mkdir()
    assert _name([tmp_path / path for path in given]) == name
