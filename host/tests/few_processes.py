"""Several exports with one TensorFlow, and the episodes of their stages in this process: each import takes seconds of its own,
more than any conversion or episode of a small policy.
"""

import json
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path

from balance_hil.exporting import episodes
from balance_hil.exporting.convert import TensorFlowProcess


class KeptTensorFlow(TensorFlowProcess):
    """The process of ``balance_hil.exporting.pipeline``, which leaves it running: the next export finds it ready."""

    folder: Path  # of its log and its temporary files
    _kept: "KeptTensorFlow | None" = None

    def __new__(cls, log):
        kept = cls._kept
        if kept is None or kept._process.poll() is not None:
            cls._kept = object.__new__(cls)
        return cls._kept

    def __init__(self, log):
        if not hasattr(self, "_process"):
            super().__init__(self.folder / "tensorflow.log")

    def __exit__(self, kind, *exception):
        if kind is not None:  # it may be in the middle of a conversion
            self.end()

    @classmethod
    def end(cls):
        kept, cls._kept = cls._kept, None
        if kept is not None:
            TensorFlowProcess.__exit__(kept, None, None, None)


class EpisodesHere:
    """In the place of ``balance_hil.exporting.pipeline.EpisodeRuns``."""

    def __init__(self, log):
        pass

    def submit(self, request, progress):
        say, episodes._say = episodes._say, lambda message: progress(message["progress"])
        ended = Future()
        try:
            ended.set_result(episodes.run_episodes(episodes.EpisodesRequest(**json.loads(json.dumps(asdict(request))))))
        finally:
            episodes._say = say
        return ended

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass
