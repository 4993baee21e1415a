"""A benchmark in many files: which are read, how questions are numbered, and where each one's videos are."""

import json
from pathlib import Path

import pytest

from export.errors import AnnotationError
from runtime_py.annotation_files import MVBENCH_FOLDERS, annotation_files, placed, read_files
from runtime_py.annotations import by_clip, read_annotations


def mvbench(*videos: str) -> list[dict]:
    return [{"video": v, "question": f"{v}?", "candidates": ["x", "y"], "answer": "x"} for v in videos]


def write(folder: Path, name: str, data: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(data if isinstance(data, str) else json.dumps(data))
    return folder / name


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def folder(tmp_path) -> Path:
    write(tmp_path / "json", "state_change.json", mvbench("b.mp4"))
    write(tmp_path / "json", "action_count.json", mvbench("a.mp4", "c.mp4"))
    write(tmp_path / "json", "README.md", "read me")
    return tmp_path / "json"


def test_a_folder_s_files_are_read_by_name_and_numbered_through(folder):
    found = read_files([folder])
    assert [path.name for path, _ in found] == ["action_count.json", "state_change.json"]
    assert [(i.number, i.video, i.task) for _, items in found for i in items] == [
        (0, "a.mp4", "action_count"), (1, "c.mp4", "action_count"), (2, "b.mp4", "state_change"),
    ]  # fmt: skip
    several = read_files([folder / "state_change.json", folder / "action_count.json"])
    assert [item.video for _, items in several for item in items] == ["b.mp4", "a.mp4", "c.mp4"]
    (alone,) = read_files([folder / "action_count.json"])
    assert alone[1] == read_annotations(folder / "action_count.json")


def test_what_is_published_beside_questions_is_no_file_of_them(tmp_path):
    write(tmp_path, "questions.json", [{"q_uid": "u", "question": "?", "option 0": "x", "option 1": "y"}])
    write(tmp_path, "subset_answers.json", {"u": 1})
    write(tmp_path, "val.csv", "video,question,answer,qid,type,a0,a1\n1,what,0,0,CH,x,y\n")
    write(tmp_path, "map_vid_vidorID.json", {"1": "sub/1"})
    write(tmp_path, ".hidden.json", "{")
    found = read_files([tmp_path])
    assert [(path.name, items[0].video, items[0].answer) for path, items in found] == [
        ("questions.json", "u", "B"),
        ("val.csv", "sub/1", "A"),
    ]


def test_nothing_to_read_and_the_same_twice_are_one_line(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match="has no annotations"):
        annotation_files([tmp_path / "empty"])
    with pytest.raises(AnnotationError, match="named twice"):
        annotation_files([folder, folder / "action_count.json"])
    with pytest.raises(AnnotationError, match="nowhere.json cannot be read"):
        read_files([folder / "nowhere.json"])
    write(folder, "another.json", {"no": "questions"})
    with pytest.raises(AnnotationError, match="another.json is of no form"):
        read_files([folder])


def test_videos_are_found_in_the_task_s_folder_or_mvbench_s_or_the_one_that_is_given(folder, tmp_path):
    videos = tmp_path / "video"
    for place in ("perception/videos/a.mp4", "action_count/c.mp4", "perception/videos/c.mp4", "b.mp4"):
        touch(videos / place)
    found = [placed(path, items, videos) for path, items in read_files([folder])]
    assert [[item.video for item in items] for items in found] == [["perception/videos/a.mp4", "action_count/c.mp4"], ["b.mp4"]]
    assert [item.question for items in found for item in items] == ["a.mp4?", "c.mp4?", "b.mp4?"]


def test_questions_whose_video_is_missing_are_left_out(folder, tmp_path):
    touch(tmp_path / "video" / "c.mp4")
    counted, changed = read_files([folder])
    assert [item.video for item in placed(*counted, tmp_path / "video")] == ["c.mp4"]
    assert placed(*changed, tmp_path / "video") == []  # another task's videos may be there


def test_two_tasks_videos_of_one_name_are_two_clips(tmp_path):
    for task in ("one", "two"):
        write(tmp_path / "json", f"{task}.json", mvbench("v.mp4"))
        touch(tmp_path / "video" / task / "v.mp4")
    items = [item for path, found in read_files([tmp_path / "json"]) for item in placed(path, found, tmp_path / "video")]
    assert [item.video for item in items] == ["one/v.mp4", "two/v.mp4"] and len(by_clip(items)) == 2


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path):
    path = write(tmp_path, "task.json", mvbench("../secret.mp4"))
    touch(tmp_path / "secret.mp4")
    (tmp_path / "video" / "task").mkdir(parents=True)
    with pytest.raises(AnnotationError, match="outside"):
        placed(*read_files([path])[0], tmp_path / "video")


def test_mvbench_s_tasks_are_twenty():
    assert len(MVBENCH_FOLDERS) == 20 and all(name == name.lower() for name in MVBENCH_FOLDERS)
