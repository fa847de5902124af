"""Which pictures are frames of one video or tiles of one scene, as their names tell, and parts that keep them together.

Neighbours of one source are nearly equal. Where some train and others validate, the scores flatter what memorises.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mmdistill_dense.utils.validate import some

P = TypeVar('P', str, tuple[Path, Path])
VAL_SHARE = 0.2  # of the pictures, where the data have no split of their own
_VIDEO = 'video|vid|(?:day|night)?clip|seq|sequence|drive|movie|mvi|rec|segment'
FORMS = {  # names of frames and tiles by an example, whole; the first group is the source
    'park_frame_0001': r'(.+?)(?:[-_. /]+|(?<=\d))(?:frame|frm)[-_. ]?\d+',
    'clip3_0001': rf'((?:.*[-_. /])?(?:{_VIDEO})[-_ ]?\d[^/]*?)[-_. /]+(?:f|img|image)?\d+',
    'walk_mp4-12': r'(.+?[-_.](?:mp4|mov|avi|mkv|webm))[-_. /]?\d+',
    'scene1_tile_12': r'(.*\d.*?)(?:[-_. /]+(?:tile|patch|slice)[-_. ]?\d+)+',
    'scan_x512_y0': r'(.+?)(?:[-_. /]+(?:[xyrc]|row|col)[-_. ]?\d+){2}',
    'ortho_3_7': r'((?:.*[-_. /])?(?:ortho|mosaic|tile|patch)\w*?)(?:[-_](?:0|[1-9]\d{0,2})){2}',
    'P0001__1__32___64': r'(.+?)__\d[\d.]*__-?\d+___-?\d+',  # tools of DOTA
    'bonn_000001_000019': r'([a-z]+_00\d{4})_0\d{5}',  # Cityscapes
    'Seq05VD_f00030': r'(\d{4}(?:tp|r0|e5)|seq05vd)_f?\d{5,6}',  # CamVid
    'MOT17-02-DPM/000001': r'(mot\d\d-\d\d)[^/]*/\d+',
    'uav0000013_00000_v/0000001': r'(uav\d{7}_\d{5}_\w)[-_/]\d{7}',  # VisDrone
    '0000013_02999_d_0000005': r'(\d{7})_\d{5}_d_\d{7}',
    'TCGA_CS_4941_19960909_12': r'(tcga[-_]\w\w[-_]\w{4}[-_].+)[-_]\d+',
}
_RULES = [re.compile(form, re.IGNORECASE) for form in FORMS.values()]
_KINDS = re.compile(r'(?<![a-z])(class|cls|type|kind|category|defect|grade|stage|level|label)[-_ ]?\d', re.IGNORECASE)
_FOLDERS = re.compile(  # that name no video
    r'imgs?\d*|images?(_\d+)?|jpegimages|data|rgb|frames|(left|right)_frames|train(ing)?|val(id(ation)?)?|test(ing)?',
    re.IGNORECASE,
)
_STEPS = (16, 50)  # pixels: places of tiles in their scene are mostly multiples of one of them


def _name_of(picture: str) -> str:
    """Return the name that was given to a picture before tools wrote theirs; of a mere number with its folder."""
    path = Path(picture)
    name, copies, _ = path.name.partition('.rf.')  # of Roboflow, that of Label Studio begins with 8 digits
    stem = re.sub('(?i)[_.](jpe?g|png|bmp|tiff?|webp)$', '', name) if copies else path.stem
    stem = re.sub('^[0-9a-f]{8}-(?=.*[a-z])|(?i:[-_](leftImg8bit|rgb|rgb_anon|endo|left|right))$', '', stem)
    above = next((folder.name for folder in path.parents if not _FOLDERS.fullmatch(folder.name)), '')
    return f'{above}/{stem}' if re.fullmatch(r'(?i:frame|frm|f|img|image|slice|tile)?[-_. ]?\d+', stem) else stem


def _scenes(names: Collection[str]) -> dict[str, str]:
    """Return the scenes of names that end in two or four places of tiles: ``scene_512_0``, ``scene_0_0_512_512``."""
    for count in (4, 2):
        matches = {name: match for name in names if (match := re.fullmatch(rf'(.+?)((?:[-_]+\d+){{{count}}})', name))}
        offsets = [int(number) for match in matches.values() for number in re.findall(r'[1-9]\d*', match[2])]
        round_offsets = [offset for offset in offsets if any(offset % step == 0 for step in _STEPS)]
        if len(matches) > 3 and 2 * len(round_offsets) > len(offsets):
            return {name: match[1] for name, match in matches.items()}
    return {}


def find_sources(pictures: Iterable[str]) -> dict[str, str]:
    """Return the source of each picture whose name tells it by a word, places of tiles, or the form of a known set.

    ``cat-0001``, ``defect1_001``, ``IMG_0001`` and ``000000000139`` tell none: these are kinds, cameras and numbers.
    """
    names = {picture: _name_of(picture) for picture in pictures}
    scenes, sources = _scenes({*names.values()}), dict[str, str]()
    for picture, name in names.items():
        match = next(filter(None, (rule.fullmatch(name) for rule in _RULES)), None)
        source = scenes.get(name) or (match[1] if match else '')
        if source and not _KINDS.search(source):
            sources[picture] = source
    return sources


def _draw(groups: Mapping[str, str], share: float, bare: Collection[str]) -> set[str]:
    """Return about this share of the pictures, those of a group together, never all; groups of bare ones apart."""
    val, full = set[str](), {group for picture, group in groups.items() if picture not in bare}
    for labelled in (True, False):
        members = defaultdict[str, list[str]](list)
        for picture, group in groups.items():
            if (group in full) is labelled:
                members[group].append(picture)
        shuffled, part = [*members.values()], list[str]()
        random.Random(0).shuffle(shuffled)
        size = sum(map(len, shuffled))
        count = max(1, round(share * size))
        for pictures in shuffled[:-1]:
            if len(part) < count and len(part) + len(pictures) <= max(min(2 * count - 1, (count + size) // 2), count):
                part += pictures
        if labelled and not part and len(shuffled) > 1:
            part = min(shuffled, key=len)
        val.update(part)
    return val


def draw_split(
    names: Sequence[P],
    root: Path,
    share: float | None = None,
    classes: Callable[[P], Collection[object]] = lambda _: (),
    bare: Collection[str] = (),
) -> tuple[list[P], list[P]]:
    """Divide pictures into training and validation, always in the same way; those of one source stay together.

    They do not where too few or too many would validate, or training would lack some of the ``classes``. Copies do,
    as Roboflow writes them. ``bare`` ones, without an object, are divided alike.
    """
    paths: dict[str, P] = {name if isinstance(name, str) else str(name[0]): name for name in sorted(names)}
    copies = {path: path.partition('.rf.')[0] for path in paths}
    full = {group for path, group in copies.items() if path not in bare}
    labelled = {path for path, group in copies.items() if group in full}
    if len(labelled) < 2:
        problem = f'{root} holds {len(labelled)} labelled picture'
        raise ValueError(f'--data: {problem}; train and val need one each. Add some.')
    if len(full) == 1:
        copies |= {path: path for path in labelled}
    sources, share = find_sources(paths), share or VAL_SHARE
    val, by_source = _draw(copies, share, paths.keys() - labelled), _draw({**copies, **sources}, share, bare)
    count, scored = share * len(labelled), len(by_source & labelled)
    if sources and count / 2 <= scored <= min(2 * count, (count + len(labelled)) / 2):
        classes_of = {path: set(classes(paths[path])) for path in labelled}
        random_train, source_train = ([classes_of[path] for path in labelled - part] for part in (val, by_source))
        val = by_source if set().union(*random_train) <= set().union(*source_train) else val
    return [paths[path] for path in paths if path not in val], [paths[path] for path in paths if path in val]


def siblings(pictures: Collection[str], parts: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the pictures of a source that validates or tests, and does not train."""
    sources = find_sources([*pictures, *(picture for members in parts.values() for picture in members)])
    of_parts = {part: {sources[path] for path in members if path in sources} for part, members in parts.items()}
    scored = set().union(*of_parts.values()) - of_parts.get('train', set())
    return {picture for picture in pictures if sources.get(picture) in scored}


def check_disjoint(parts: Mapping[str, Iterable[Path]], source: str) -> None:
    owner: dict[Path, str] = {}
    pairs = ((part, path) for part, paths in parts.items() for path in paths)
    if shared := [f'{path} ({owner[path]} and {part})' for part, path in pairs if owner.setdefault(path, part) != part]:
        problem = f'{len(shared)} pictures are in two parts of {source}: {some(shared, 3)}'
        raise ValueError(f'--data: {problem}. Each belongs to one; `--split 0.2` draws another split.')


def source_note(train: Sequence[str], val: Sequence[str]) -> list[str]:
    """Return a note about the sources of two parts that were drawn: how many each has, or that both have the same."""
    sources = find_sources([*train, *val])
    of_train, of_val = ({sources[picture] for picture in part if picture in sources} for part in (train, val))
    if shared := sorted(of_train & of_val):
        remark = f'Of {some(shared, 3)} some train and some validate, so the scores may be too high'
        advice = 'Divide them by --split FOLDER, with train.txt and val.txt in it'
        return [f'WARNING: by their names, pictures may be frames of a video or tiles of a scene. {remark}. {advice}']
    names = sorted(of_train | of_val)
    summary = f'sources, each in one part: {len(of_train)} train, {len(of_val)} val ({some(names, 3)})'
    return [f'names tell {summary}'] if len(sources) > len(names) else []
