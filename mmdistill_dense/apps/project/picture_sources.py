"""Which pictures are frames of one video or tiles of one scene, as their names tell, and parts that keep them together.

Neighbours of one source are nearly equal. Where some train and others validate, the scores flatter what memorises.
"""

from __future__ import annotations

import os
import random
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mmdistill_dense.utils.validate import some

P = TypeVar('P', str, tuple[Path, Path])
VAL_SHARE = 0.2  # of the pictures, where the data have no split of their own
_FRAMES = re.compile(
    r'(.+?)[-_. ]*(?:frame|frm)[-_. ]?\d+|'  # video0_frame_000001
    r'(.+?)(?:[-_. ]+(?:tile|patch|crop|slice|row|col)[-_. ]?\d+)+|'  # scene_tile_12
    r'(.+?)[-_. ]+[xyrc]\d+[-_. ]*[xyrc]\d+|'  # scan_x512_y0
    r'(.+?)__\d[\d.]*__-?\d+___-?\d+|'  # P0001__1__32___64, as tools of DOTA write tiles
    r'(.+?[-_.](?:mp4|mov|avi|mkv|webm))[-_.]?\d+|'  # walk_mp4-12, as Roboflow writes frames
    r'(.+?[-_. /])f\d{4,}|(?!(?:img|image|photo|pic|picture|dsc\w?|dji)-)(.+)-0\d{3,4}'  # walk-0001, as of ffmpeg
)
_NUMBERED = re.compile(r'((?=.*[^\W\d_].*[-_. /])(?=.*\d.*[-_. /]).*[^-_. /])[-_. /]+\d+')
# numbers that are no source: years, days, and those of kinds, as in ImageNet (n02084071_12) and class1_12
_OF_KINDS = re.compile(r'(?<!\d)(?:(?:19|20)\d\d|\d{7,})(?!\d)|(?:class|cls|type|grade|stage|level|label)[-_ ]?\d')
_STEPS = (16, 50)  # pixels: places of tiles in their scene are mostly multiples of one of them


def _name_of(picture: str) -> str:
    """Return the name of a picture, of copies the one that Roboflow was given; of a mere number with its folder."""
    path = Path(picture.lower())
    name, copies, _ = path.name.partition('.rf.')
    stem = re.sub('[_.](jpe?g|png|bmp|tiff?|webp)$', '', name) if copies else path.stem
    return f'{path.parent.name}/{stem}' if re.fullmatch(r'(frame|frm|f)?[-_. ]?\d+', stem) else stem


def _tiles(names: Collection[str]) -> dict[str, str]:
    """Return the scenes of names that end in two or four places of tiles: ``scene_512_0``, ``scene_0_0_512_512``."""
    for count in (4, 2):
        matches = {name: match for name in names if (match := re.fullmatch(rf'(.+?)((?:[-_]+\d+){{{count}}})', name))}
        places = [int(number) for match in matches.values() for number in re.findall(r'[1-9]\d*', match[2])]
        round_places = [place for place in places if any(place % step == 0 for step in _STEPS)]
        if 2 * len(matches) > len(names) > 3 and 2 * len(round_places) > len(places):
            return {name: match[1] for name, match in matches.items()}
    return {}


def find_sources(pictures: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the source of each picture whose name tells one: of frames and tiles alone, and of all.

    ``IMG_0001``, ``leaf_001`` and ``000000000139`` tell none: a word may be a camera or a kind of things. Only what has
    a number itself (``P0001-12``, ``clip 3/0001``) is one of several videos or scenes.
    """
    names = {picture: _name_of(picture) for picture in pictures}
    ending = os.path.commonprefix([name[::-1] for name in {*names.values()}])[::-1]  # noqa: RUF071
    if len(names) > 1 and (word := re.search(r'[-_. ][^\W\d_]\w*$', ending)):  # X_0001_leftImg8bit
        names = {picture: name.removesuffix(word[0]) for picture, name in names.items()}
    frames, numbered, tiles = dict[str, str](), dict[str, str](), _tiles({*names.values()})
    for picture, name in names.items():
        if match := _FRAMES.fullmatch(name):
            frames[picture] = next(filter(None, match.groups())).rstrip('-_. /')
        elif name in tiles:
            frames[picture] = tiles[name]
        elif (match := _NUMBERED.fullmatch(name)) and not _OF_KINDS.search(match[1]):
            numbered[picture] = match[1]
    walks = {*frames.values()}  # walk-1000 follows walk-0999
    frames |= {picture: name.rpartition('-')[0] for picture, name in names.items() if name.rpartition('-')[0] in walks}
    return frames, {**numbered, **frames}


def group_pictures(pictures: Sequence[str], share: float | None = None) -> dict[str, str]:
    """Return what each picture goes to a part with: its source, else the picture of which it is a copy.

    Sources do not count where they are too few, or one is too large, for a share of all to validate.
    """
    originals, count = {picture: picture.partition('.rf.')[0] for picture in pictures}, _count(len(pictures), share)
    for sources in reversed(find_sources(pictures)):
        if count / 2 <= len(_draw_val(together := {**originals, **sources}, count)) <= 2 * count:
            return together
    return originals


def _count(pictures: int, share: float | None) -> int:
    return min(max(1, round((share or VAL_SHARE) * pictures)), pictures - 1)


def _draw_val(groups: Mapping[str, str], count: int) -> set[str]:
    """Return about so many pictures, those of one group together."""
    members = defaultdict[str, list[str]](list)
    for picture in sorted(groups):
        members[groups[picture]].append(picture)
    shuffled, val = [*members.values()], set[str]()
    random.Random(0).shuffle(shuffled)
    for source in shuffled:
        if len(val) + len(source) - count < count - len(val):  # nearer to the number with it
            val.update(source)
    return val or {*min(shuffled, key=len, default=())}


def two_parts(names: Sequence[P], place: Path, share: float | None = None) -> tuple[list[P], list[P]]:
    """Divide pictures into training and validation, always in the same way; those of one source stay together."""
    if len(names) < 2:
        raise ValueError(f'--data: {place} holds {len(names)} labelled picture; train and val need one each. Add some.')
    paths: dict[P, str] = {name: name if isinstance(name, str) else str(name[0]) for name in sorted(names)}
    groups: dict[str, str] = group_pictures([*paths.values()], share)
    if len({*groups.values()}) == 1:
        groups = {path: path for path in groups}
    val = _draw_val(groups, _count(len(names), share))
    return [name for name in paths if paths[name] not in val], [name for name in paths if paths[name] in val]


def siblings(pictures: Iterable[str], parts: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the pictures of a source that validates or tests, and does not train."""
    sources = {part: {*find_sources(members)[1].values()} for part, members in parts.items()}
    scored = set().union(*sources.values()) - sources.get('train', set())
    return {picture for picture, source in find_sources(pictures)[1].items() if source in scored}


def check_apart(parts: Mapping[str, Iterable[Path]], source: str) -> None:
    first: dict[Path, str] = {}
    members = ((part, one) for part, own in parts.items() for one in own)
    if twice := [f'{one} ({first[one]} and {part})' for part, one in members if first.setdefault(one, part) != part]:
        told = f'{len(twice)} pictures are in two parts of {source}: {some(twice, 3)}'
        raise ValueError(f'--data: {told}. Each belongs to one; `--split 0.2` draws another split.')


def note_of(train: Sequence[str], val: Sequence[str]) -> list[str]:
    """Return a note about the sources of two parts that were drawn: how many each has, or that both have the same."""
    frames, sources = find_sources([*train, *val])
    of_train, of_val = ({sources[picture] for picture in part if picture in sources} for part in (train, val))
    both, apart = of_train & of_val, of_train ^ of_val
    if len(both) > 1 or both & {*frames.values()}:
        remark = f'Of {some(sorted(both), 3)} some train and some validate, so the scores will be too high'
        advice = 'Divide them by --split FOLDER, with train.txt and val.txt in it'
        return [f'WARNING: by their names, pictures may be frames of a video or tiles of a scene. {remark}. {advice}']
    if not apart or len(sources) <= len(apart):
        return []
    counts = f'{len(of_train - of_val)} train, {len(of_val - of_train)} val'
    return [f'names tell {len(apart)} sources ({some(sorted(apart), 3)}), each in one part: {counts}']
