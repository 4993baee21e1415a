"""Questions in the forms that benchmarks publish, and files that are none of them."""

import json

import pytest

from export.errors import AnnotationError
from runtime_py.annotations import find_video, read_annotations


def write(folder, data, name="task.json"):
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


MVBENCH = [
    {"video": "a.mp4", "question": "What?", "candidates": ["one", "two", "three"], "answer": "two", "start": 1.5, "end": 4},
    {"video": "b.mp4", "question": "Which?", "candidates": ["x", "y"], "answer": "x"},
]
NEXTQA = [
    {"video": "4010069381", "frame_count": 369, "width": 640, "height": 480, "question": "how do the two man play", "answer": 0,
     "qid": 6, "type": "CH", "a0": "roll the handle", "a1": "tap their feet", "a2": "strum", "a3": "hit", "a4": "pat"},
    {"video": 4010069382, "question": "what does he hold", "answer": "a cup", "qid": 7, "type": "DO"},
]  # fmt: skip
EGOSCHEMA = [{"q_uid": "0074f737", "question": "Why?", **{f"option {i}": f"text {i}" for i in range(5)}}]
PERCEPTION = {
    "video_1": {
        "metadata": {"split": "valid"},
        "mc_question": [{"id": 0, "question": "Is it moving?", "options": ["yes", "no", "unclear"], "answer_id": 1, "area": "physics",
                         "reasoning": "descriptive"}],
    },
    "video_2": {"mc_question": []},
}  # fmt: skip
NATIVE = [{"video": "c.mp4", "question": "What colour?", "answer": "Red.", "task": "colour", "form": "open", "reply": "It is red."}]


def test_mvbench(tmp_path):
    first, second = read_annotations(write(tmp_path, MVBENCH, "action_count.json"))
    assert (first.video, first.question, first.options, first.answer) == ("a.mp4", "What?", ("one", "two", "three"), "B")
    assert (first.start_s, first.end_s, first.task) == (1.5, 4.0, "action_count")
    assert (second.number, second.answer, second.start_s) == (1, "A", None)
    assert first.prompt == "What?\n(A) one\n(B) two\n(C) three\nAnswer with the letter."


def test_nextqa_choices_and_open_questions(tmp_path):
    choice, open_question = read_annotations(write(tmp_path, NEXTQA))
    assert choice.options[0] == "roll the handle" and len(choice.options) == 5 and choice.answer == "A" and choice.task == "NExT-QA CH"
    assert (open_question.video, open_question.options, open_question.answer) == ("4010069382", (), "a cup")


def test_egoschema_with_the_answers_beside_it(tmp_path):
    questions = write(tmp_path, EGOSCHEMA)
    with pytest.raises(AnnotationError, match="no answer"):
        read_annotations(questions)
    write(tmp_path, {"0074f737": 3}, "subset_answers.json")
    (item,) = read_annotations(questions)
    assert (item.video, item.answer, item.options[3]) == ("0074f737", "D", "text 3")


def test_egoschema_as_it_is_published_with_answers_to_a_part(tmp_path):
    """5,000 questions, 500 of whose answers are public."""
    questions = write(tmp_path, [*EGOSCHEMA, {**EGOSCHEMA[0], "q_uid": "another"}, {**EGOSCHEMA[0], "q_uid": "own", "answer": 0}])
    write(tmp_path, {"0074f737": 3}, "subset_answers.json")
    first, own = read_annotations(questions)
    assert (first.video, first.answer, own.video, own.answer) == ("0074f737", "D", "own", "A")


NEXTQA_CSV = """video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4
4010069381,369,640,480,how do the two man play,2,6,CH,one,two,three,"four, or more",5
"""


def test_nextqa_as_it_is_published(tmp_path):
    """An answer is an index, also where an option reads like one."""
    numbers = "4010069382,9,6,4,how many,2,7,DC,2,3,4,5,6\n"
    path = write(tmp_path, NEXTQA_CSV + numbers, "val.csv")
    first, second = read_annotations(path)
    assert (first.video, first.answer, first.options[3], first.task) == ("4010069381", "C", "four, or more", "NExT-QA CH")
    assert second.answer == "C" and second.options[2] == "4"
    write(tmp_path, {"4010069381": "1164/4010069381"}, "map_vid_vidorID.json")
    assert [item.video for item in read_annotations(path)] == ["1164/4010069381", "4010069382"]


def test_perception_test(tmp_path):
    (item,) = read_annotations(write(tmp_path, PERCEPTION))
    assert (item.video, item.answer, item.task) == ("video_1", "B", "PerceptionTest physics/descriptive")


def test_native(tmp_path):
    (item,) = read_annotations(write(tmp_path, NATIVE))
    assert (item.prompt, item.answer, item.said, item.task, item.form) == ("What colour?", "Red.", "It is red.", "colour", "open")


BAD = {
    "no json": ("{", "no JSON"),
    "a number": (3, "of no form"),
    "empty": ([], "no questions"),
    "a list of text": (["x"], "has to be an object"),
    "other keys": ([{"a": 1}], "keys a"),
    "no video": ([{"question": "x", "answer": "y"}], "no 'video'"),
    "an answer that is no option": ([{**MVBENCH[0], "answer": "four"}], "none of its options"),
    "an index beyond the options": ([{**NEXTQA[0], "answer": 5}], "option 5 of 5"),
    "a number for a question": ([{**NATIVE[0], "question": 3}], "have to be text"),
    "an empty question": ([{**NATIVE[0], "question": " "}], "have to be text"),
    "a span that is no number": ([{**MVBENCH[0], "start": "now"}], "could not convert"),
    "options that are no list": ([{**MVBENCH[0], "candidates": "yes"}], "have to be a list"),
    "PerceptionTest without a list": ({"v": {"mc_question": None}}, "list of questions"),
    "PerceptionTest with text for a question": ({"v": {"mc_question": ["x"]}}, "list of questions"),
    "too many options": ([{**MVBENCH[0], "candidates": [f"o{i}" for i in range(27)], "answer": "o0"}], "26 is the most"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_one_line_that_names_the_file(case, tmp_path):
    data, says = BAD[case]
    path = write(tmp_path, data)
    with pytest.raises(AnnotationError, match=says) as error:
        read_annotations(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there_and_one_that_is_no_text(tmp_path):
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_annotations(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AnnotationError, match="no text"):
        read_annotations(tmp_path / "bytes.json")
    with pytest.raises(AnnotationError, match="NExT-QA's"):
        read_annotations(write(tmp_path, "a,b\n1,2\n", "other.csv"))


def test_videos_are_found_with_or_without_a_suffix_and_only_inside_the_folder(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.mp4").touch()
    (videos / "b.webm").touch()
    (tmp_path / "secret.mp4").touch()
    assert find_video(videos, "a.mp4").name == "a.mp4" and find_video(videos, "a").name == "a.mp4"
    assert find_video(videos, "b").name == "b.webm"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "Clip.MP4").touch()
    (videos / "linked.mp4").symlink_to(tmp_path / "elsewhere" / "Clip.MP4")
    (videos / "folder").symlink_to(tmp_path / "elsewhere")
    assert find_video(videos, "linked").exists() and find_video(videos, "folder/Clip").name == "Clip.MP4"
    with pytest.raises(AnnotationError, match="no video c"):
        find_video(videos, "c")
    with pytest.raises(AnnotationError, match="outside"):
        find_video(videos, "../secret.mp4")
