"""What stands for Core ML, a tokenizer and AVFoundation where the Swift core is tested: this project's own, behind two named pipes.

    python -m tests.ios.graph_server --bundle DIR --video FILE --folder DIR

It serves one client, which opens `requests` and `replies` in the folder. A message is the length of a JSON header (uint32, little-endian),
the header, and the arrays that it lists, little-endian, C order. It runs one function of one package at a time and knows nothing of how a
decoder is driven: that is what is tested.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from export.bundle import Bundle, open_bundle
from runtime_py.backends.coreml import MAIN, InterpreterEngine
from runtime_py.load import load_tokenizer
from runtime_py.video import FrameReader


class Server:
    """Answers one request after the other. The decoder's state goes with its package."""

    def __init__(self, bundle: Bundle, video: Path):
        self._bundle = bundle
        self._engine = InterpreterEngine(bundle)
        self._encode, self._tokenizer = load_tokenizer(bundle.folder / "tokenizer.json", bundle.folder)
        self._video = FrameReader(video)

    def answer(self, request: dict, arrays: dict[str, np.ndarray]) -> tuple[dict, list[np.ndarray]]:
        """A reply's header and arrays."""
        match request["do"]:
            case "load":
                self._engine.load(request["graph"])
            case "release" if request["graph"] == "decoder":
                self._engine = InterpreterEngine(self._bundle)
            case "release":
                self._engine.release(request["graph"])
            case "run":
                output = self._engine.run(request["graph"], request["function"] or MAIN, arrays)[request["output"]].astype(np.float32)
                return {"shape": output.shape}, [output]
            case "encode":
                return {"ids": list(self._encode(request["text"]))}, []
            case "decode":
                return {"text": self._tokenizer.decode(request["ids"], skip_special_tokens=True)}, []
            case "open":
                index = self._video.index
                return {"frames": len(index.pts), "fps": float(index.fps(range(len(index.pts))))}, []
            case "frame":
                ((number, image),) = self._video.read([request["number"]])
                return {"shape": image.shape, "seconds": self._video.index.time_s(number)}, [image]
            case unknown:
                raise ValueError(f"no request is called {unknown!r}")
        return {}, []


def serve(server: Server, requests: BinaryIO, replies: BinaryIO) -> None:
    """Until the client goes away."""
    for request, arrays in received(requests):
        try:
            header, results = server.answer(request, arrays)
        except Exception as error:  # the client reports it, and its test fails
            header, results = {"error": f"{type(error).__name__}: {error}"}, []
        data = [np.ascontiguousarray(array).tobytes() for array in results]
        text = json.dumps(header | {"bytes": [len(part) for part in data]}).encode()
        replies.write(struct.pack("<I", len(text)) + text + b"".join(data))
        replies.flush()


def received(requests: BinaryIO) -> Iterator[tuple[dict, dict[str, np.ndarray]]]:
    """Headers and their named arrays."""
    while length := requests.read(4):
        header = json.loads(requests.read(*struct.unpack("<I", length)))
        arrays = {}
        for listed in header["arrays"]:
            dtype = np.dtype(listed["dtype"])
            data = requests.read(int(np.prod(listed["shape"])) * dtype.itemsize)
            arrays[listed["name"]] = np.frombuffer(data, dtype).reshape(listed["shape"])
        yield header, arrays


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ios.graph_server", description=__doc__)
    for name in ("bundle", "video", "folder"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args(argv)
    server = Server(open_bundle(args.bundle), args.video)
    with (args.folder / "requests").open("rb") as requests, (args.folder / "replies").open("wb") as replies:
        serve(server, requests, replies)


if __name__ == "__main__":
    sys.exit(main())
