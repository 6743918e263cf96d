"""Which clips are scored, saying what: a folder, a file, or a list with one video a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mytalk.errors import BadInput


@dataclass(frozen=True, slots=True)
class Case:
    """One clip: its name in the report, the video, and the file whose sound it says (its own when paired)."""

    name: str
    video: Path
    speech: Path

    @property
    def paired(self) -> bool:
        """Whether the clip says its own words."""
        return self.video == self.speech


def read_cases(path: Path) -> list[Case]:
    """Cases of a folder (every .mp4 below it), of one video, or of a list (.txt).

    A list has a path a line, relative to its own folder, and after a tab the file whose speech is to be said.
    Raises ``BadInput`` for missing files and when there is nothing.
    """
    if path.is_dir():
        videos = sorted(p for p in path.rglob("*.mp4") if p.is_file())
        cases = [Case(v.relative_to(path).with_suffix("").as_posix(), v, v) for v in videos]
    elif path.suffix == ".txt" and path.is_file():
        cases = _listed(path)
    elif path.is_file():
        cases = [Case(path.stem, path, path)]
    else:
        raise BadInput(f"{path}: no such folder, video or list")
    if not cases:
        raise BadInput(f"{path}: no .mp4 in it")
    return cases


def _listed(path: Path) -> list[Case]:
    cases = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        video, _, speech = (part.strip() for part in line.partition("\t"))
        files = [path.parent / video, path.parent / (speech or video)]
        for file in files:
            if not file.is_file():
                raise BadInput(f"{path}, line {number}: {file}: no such file")
        below = Path(video).with_suffix("")
        name = "/".join(below.parts[-2:]) if below.is_absolute() else below.as_posix()
        cases.append(Case(name if not speech else f"{name}+{Path(speech).stem}", *files))
    if len({case.name for case in cases}) < len(cases):
        raise BadInput(f"{path}: a clip is named twice")
    return cases


def find_output(folder: Path, case: Case) -> Path:
    """The video of another system for a case: the same path below ``folder``, or the same file name in it."""
    named = [folder / f"{case.name}.mp4", folder / f"{Path(case.name).name}.mp4"]
    named += [folder / f"{case.video.stem}.mp4"] if case.paired else []
    for path in named:
        if path.is_file():
            return path
    raise BadInput(f"{named[0]}: no output for this clip")
