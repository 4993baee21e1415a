"""Questions about videos, read from the files that benchmarks publish them in.

    native           [{"video", "question", "answer", "options"?: [text], "reply"?, "task"?, "form"?, "start"?, "end"?}]
                     answer: text or letter; reply: all that a model says with it, for comparisons token by token
    MVBench          [{"video", "question", "candidates": [text], "answer": text, "start"?, "end"?}], one file a task
    NExT-QA          [{"video", "question", "answer": index, "a0".."a4", "type"?}], or open: {"answer": text}; as CSV with the same columns
                     too, as it is published; with map_vid_vidorID.json beside it a video is found in its subfolder
    EgoSchema        [{"q_uid", "question", "option 0".."option 4", "answer"?: index}], answers also in subset_answers.json beside it,
                     {q_uid: index}; questions whose answers are not published are left out
    PerceptionTest   {video: {"mc_question": [{"question", "options": [text], "answer_id": index, "area"?, "reasoning"?}]}}

The keys tell which it is. A file of another form, and an entry without what it needs, is one error that names them.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from export.errors import AnnotationError
from export.model.prompt import LETTERS, multiple_choice

VIDEO_SUFFIXES = ("", ".mp4", ".mkv", ".webm", ".avi", ".mov")  # in capitals too
EGOSCHEMA_ANSWERS = "subset_answers.json"  # published beside EgoSchema's questions
NEXTQA_FOLDERS = "map_vid_vidorID.json"  # published beside NExT-QA's: {video: subfolder/video}


@dataclasses.dataclass(frozen=True)
class Item:
    """One question. `answer` is text, or the letter of one of `options`; `task` groups results; `number` is its place in the file."""

    number: int
    video: str
    question: str
    answer: str
    options: tuple[str, ...] = ()
    task: str = ""
    form: str = ""
    start_s: float | None = None
    end_s: float | None = None
    reply: str = ""

    @property
    def said(self) -> str:
        """A whole answer, as a model gives it; empty where none is known."""
        return self.reply or self.answer

    @property
    def clip(self) -> tuple[str, float | None, float | None]:
        """What questions about the same pictures share."""
        return self.video, self.start_s, self.end_s

    @property
    def prompt(self) -> str:
        return multiple_choice(self.question, self.options) if self.options else self.question


def read_annotations(path: Path) -> list[Item]:
    """All questions of a file, in its order.

    Raises:
        AnnotationError: it is no file of a known form, or an entry lacks what the form needs.
    """
    entries = list(_rows(path) if path.suffix.lower() == ".csv" else _entries(path, _json(path)))
    if not entries:
        raise AnnotationError(f"{path} holds no questions")
    return [_item(path, number, entry) for number, entry in enumerate(entries)]


class MissingVideo(AnnotationError):
    """Annotations name a video that is not in the folder."""


def find_video(folder: Path, name: str) -> Path:
    """The file of a video that annotations name with or without its suffix, or the folder of its frames. Links are followed.

    Raises:
        MissingVideo: there is none.
        AnnotationError: the name leads out of the folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise AnnotationError(f"the annotations name the video {name}, which lies outside {folder}")
    for suffix in (*VIDEO_SUFFIXES, *(suffix.upper() for suffix in VIDEO_SUFFIXES[1:])):
        path = folder / f"{name}{suffix}"
        if path.is_file() or (not suffix and path.is_dir()):
            return path
    raise MissingVideo(f"{folder} has no video {name}: put it there, or name the folder that has it")


def by_clip(items: Iterable[Item]) -> list[list[Item]]:
    """Questions about the same clip together, in the order of the file."""
    clips: dict[object, list[Item]] = {}
    for item in items:
        clips.setdefault(item.clip, []).append(item)
    return list(clips.values())


def check_videos(items: Iterable[Item], folder: Path) -> None:
    """Raise AnnotationError where a video is missing."""
    for clip in by_clip(items):
        find_video(folder, clip[0].video)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is no text ({error}): give the benchmark's annotations as JSON") from error


def _json(path: Path) -> Any:
    text = _text(path)
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise AnnotationError(f"{path} is no JSON file ({error}): give the benchmark's annotations as JSON") from error


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Entries of NExT-QA's CSV, videos with their subfolders."""
    beside = path.with_name(NEXTQA_FOLDERS)
    folders = _json(beside) if beside.exists() else {}
    if not isinstance(folders, dict):
        raise AnnotationError(f"{beside} has to hold a place for each video")
    try:
        rows = list(csv.DictReader(io.StringIO(_text(path)), strict=True))
    except csv.Error as error:
        raise AnnotationError(f"{path} is no CSV file ({error}): give the benchmark's annotations as they are published") from error
    for row in rows:
        entry = {key: value for key, value in row.items() if key is not None and value is not None}
        if "qid" not in entry or "video" not in entry:
            raise AnnotationError(f"{path} has the columns {', '.join(entry)}: the CSV that is read is NExT-QA's, with video and qid")
        yield entry | {"video": str(folders.get(entry["video"], entry["video"]))}


def _entries(path: Path, data: Any) -> Iterator[Mapping[str, Any]]:
    """Entries in one list; those of PerceptionTest, which stand under their videos, with the video's name in each."""
    if isinstance(data, list):
        answers = _egoschema_answers(path, data)
        for entry in data:
            if not isinstance(entry, dict):
                raise AnnotationError(f"{path}: an entry is {json.dumps(entry)[:60]}, and has to be an object with a question")
            if "q_uid" in entry:
                if answers and str(entry["q_uid"]) not in answers:
                    continue
                entry = entry | {"answer": answers.get(str(entry["q_uid"]))}
            yield entry
    elif isinstance(data, dict) and all(isinstance(value, dict) and "mc_question" in value for value in data.values()):
        for video, value in data.items():
            questions = value["mc_question"]
            if not isinstance(questions, list) or not all(isinstance(question, dict) for question in questions):
                raise AnnotationError(f"{path}: mc_question of {video} has to be a list of questions")
            for question in questions:
                yield {"video": video, **question}
    else:
        raise AnnotationError(f"{path} is of no form that is read: MVBench, NExT-QA, EgoSchema, PerceptionTest or a list of questions")


def _egoschema_answers(path: Path, data: list) -> Mapping[str, int]:
    """Answers by q_uid: those of the entries themselves, and those beside the file."""
    entries = [entry for entry in data if isinstance(entry, dict) and "q_uid" in entry]
    own = {str(entry["q_uid"]): entry["answer"] for entry in entries if entry.get("answer") is not None}
    beside = path.with_name(EGOSCHEMA_ANSWERS)
    published = _json(beside) if len(own) < len(entries) and beside.exists() else {}
    if not isinstance(published, dict):
        raise AnnotationError(f"{beside} has to hold an index for each q_uid")
    return published | own


def _item(path: Path, number: int, entry: Mapping[str, Any]) -> Item:
    try:
        reader = next(read for knows, read in _FORMS if knows(entry))
        item = reader(path, number, entry)
        if not all(isinstance(value, str) and value.strip() for value in (item.video, item.question, item.answer, *item.options)):
            raise ValueError("its video, question, answer and options have to be text")
        if len(item.options) > len(LETTERS):
            raise ValueError(f"it has {len(item.options)} options, and {len(LETTERS)} is the most")
        return item
    except StopIteration:
        raise AnnotationError(f"{path}: entry {number} has the keys {', '.join(entry)}: no form that is read has these") from None
    except KeyError as error:
        raise AnnotationError(f"{path}: entry {number} has no {error.args[0]!r}") from None
    except (ValueError, IndexError, TypeError) as error:
        raise AnnotationError(f"{path}: entry {number}: {error}") from None


def _letter(options: Iterable[str], answer: Any) -> str:
    """The letter of an answer given as an index, as a letter, or as an option's text."""
    options = list(options)
    if isinstance(answer, str) and answer.strip().isdigit() and answer not in options:
        answer = int(answer)
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < len(options):
            raise ValueError(f"its answer is option {answer} of {len(options)}")
        return LETTERS[answer]
    if answer in options:
        return LETTERS[options.index(answer)]
    if isinstance(answer, str) and answer in LETTERS[: len(options)]:
        return answer
    if answer is None:
        raise ValueError(f"it has no answer (EgoSchema's are published in {EGOSCHEMA_ANSWERS}: put that beside)")
    raise ValueError(f"its answer is {answer!r}, which is none of its options")


def _options(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise ValueError(f"its options are {json.dumps(values)[:60]}, and have to be a list")
    return tuple(values)


def _span(entry: Mapping[str, Any]) -> dict[str, float | None]:
    start, end = entry.get("start"), entry.get("end")
    return {"start_s": None if start is None else float(start), "end_s": None if end is None else float(end)}


def _native(path: Path, number: int, entry: Mapping[str, Any]) -> Item:
    options = _options(entry.get("options") or [])
    answer = _letter(options, entry["answer"]) if options else str(entry["answer"])
    task, form = str(entry.get("task", path.stem)), str(entry.get("form", ""))
    reply = str(entry.get("reply", ""))
    return Item(number, entry["video"], entry["question"], answer, options, task, form, reply=reply, **_span(entry))


def _mvbench(path: Path, number: int, entry: Mapping[str, Any]) -> Item:
    options = _options(entry["candidates"])
    task = str(entry.get("task_type", path.stem))
    return Item(number, entry["video"], entry["question"], _letter(options, entry["answer"]), options, task, "choice", **_span(entry))


def _nextqa(path: Path, number: int, entry: Mapping[str, Any]) -> Item:
    options = tuple(str(entry[key]) for key in sorted(key for key in entry if key[:1] == "a" and key[1:].isdigit()))
    task, video = f"NExT-QA {entry.get('type', '')}".strip(), str(entry["video"])
    if not options:
        return Item(number, video, entry["question"], str(entry["answer"]), (), task, "open")
    answer = entry["answer"]  # always an index, in CSV as text, also where options are numbers
    index = int(answer) if isinstance(answer, str) and answer.strip().isdigit() else answer
    return Item(number, video, entry["question"], _letter(options, index), options, task, "choice")


def _egoschema(path: Path, number: int, entry: Mapping[str, Any]) -> Item:
    keys = sorted((key for key in entry if key.startswith("option ")), key=lambda key: int(key.split()[1]))
    options = tuple(entry[key] for key in keys)
    return Item(number, entry["q_uid"], entry["question"], _letter(options, entry["answer"]), options, "EgoSchema", "choice")


def _perception_test(path: Path, number: int, entry: Mapping[str, Any]) -> Item:
    options = _options(entry["options"])
    task = "PerceptionTest " + "/".join(str(entry[key]) for key in ("area", "reasoning") if key in entry)
    return Item(number, entry["video"], entry["question"], _letter(options, entry["answer_id"]), options, task.strip(), "choice")


_Reader = Callable[[Path, int, Mapping[str, Any]], Item]
_FORMS: tuple[tuple[Callable[[Mapping[str, Any]], bool], _Reader], ...] = (
    (lambda entry: "candidates" in entry, _mvbench),
    (lambda entry: "q_uid" in entry, _egoschema),
    (lambda entry: "answer_id" in entry, _perception_test),
    (lambda entry: "a0" in entry or "qid" in entry, _nextqa),
    (lambda entry: "question" in entry, _native),
)
