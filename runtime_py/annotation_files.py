"""The files of a whole benchmark: several files of questions as one list, and the videos of each where the benchmark has them.

MVBench is twenty files, one a task, and its videos come in archives that several tasks share.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from export.errors import AnnotationError
from runtime_py.annotations import EGOSCHEMA_ANSWERS, NEXTQA_FOLDERS, Item, MissingVideo, find_video, read_annotations

SUFFIXES = (".json", ".csv")
MVBENCH_FOLDERS = {  # a task's file -> the folder of its videos in the archives as they are unpacked
    "action_antonym": "ssv2_video",
    "action_count": "perception/videos",
    "action_localization": "sta/sta_video",
    "action_prediction": "star/Charades_v1_480",
    "action_sequence": "star/Charades_v1_480",
    "character_order": "perception/videos",
    "counterfactual_inference": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",  # folders of pictures
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "fine_grained_pose": "nturgbd",
    "moving_attribute": "clevrer/video_validation",
    "moving_count": "clevrer/video_validation",
    "moving_direction": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "scene_transition": "scene_qa/video",
    "state_change": "perception/videos",
    "unexpected_action": "FunQA_test/test",
}


def annotation_files(paths: Iterable[Path]) -> list[Path]:
    """The files that paths name; a folder stands for the JSON and CSV files in it, by name, but for what benchmarks publish beside
    their questions.

    Raises:
        AnnotationError: a folder has none, or a file is named twice.
    """
    found: list[Path] = []
    for path in paths:
        files = [path]
        if path.is_dir():
            beside = (EGOSCHEMA_ANSWERS, NEXTQA_FOLDERS)
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.name not in beside and p.name[0] != ".")
        if not files:
            raise AnnotationError(f"{path} has no annotations ({', '.join(SUFFIXES)}): give the folder of a benchmark's files, or a file")
        found += files
    twice = [path for path, count in collections.Counter(path.resolve() for path in found).items() if count > 1]
    if twice:
        raise AnnotationError(f"{twice[0]} is named twice, and its questions would count twice: leave one out")
    return found


def read_files(paths: Iterable[Path]) -> list[tuple[Path, list[Item]]]:
    """Each file with its questions, numbered through all of them; errors as `annotation_files` and `read_annotations`."""
    found: list[tuple[Path, list[Item]]] = []
    count = 0
    for path in annotation_files(paths):
        items = [dataclasses.replace(item, number=count + item.number) for item in read_annotations(path)]
        count += len(items)
        found.append((path, items))
    return found


def placed(path: Path, items: Sequence[Item], videos: Path) -> list[Item]:
    """The questions of one file, their videos named by their places below `videos`: in a subfolder that is called as the file is, in
    MVBench's own, or in the folder itself. Two tasks may have different videos of one name. Questions about a video that is not there are
    left out: some hundred of MVBench's are not in its archives, for their licence's sake.

    Raises:
        AnnotationError: a name leads out of the folder.
    """
    folders = [name for name in (path.stem, MVBENCH_FOLDERS.get(path.stem)) if name and (videos / name).is_dir()]
    places: dict[str, str] = {}
    for name in dict.fromkeys(item.video for item in items):
        with contextlib.suppress(MissingVideo):
            places[name] = _place(name, folders, videos)
    return [dataclasses.replace(item, video=places[item.video]) for item in items if item.video in places]


def _place(name: str, folders: Iterable[str], videos: Path) -> str:
    for folder in folders:
        with contextlib.suppress(MissingVideo):
            find_video(videos, f"{folder}/{name}")
            return f"{folder}/{name}"
    find_video(videos, name)
    return name
