"""Any user's own folder of pictures, one folder per class."""

from collections.abc import Sequence

from rsray.data._base import DataNotFoundError, DatasetSpec, ImageSplit, ReadOptions
from rsray.data.reading.class_folders import class_folders, classes_with_pictures
from rsray.data.reading.folder import FolderSplit, find_geometry, list_images
from rsray.data.reading.shard_files import SPLIT_NAMES
from rsray.errors import UserError
from rsray.storage import Place


def open_imagefolder(split: str, root: Place, options: ReadOptions) -> ImageSplit:
    """Return a split: of <root>/train and test (or val), else a fifth of all pictures as test.

    Which pictures are that fifth, their names decide (see `named_part`). Raises DataNotFoundError
    when there are no class folders, and UserError when the pictures differ in size and no size is
    given, or when the folders may mean something else.
    """
    places = [place for place in (root / "imagefolder", root) if place.is_dir()]
    for place in places:
        folders = split_folders(place)
        if split in folders:
            return _open(split, folders, options)
        if not folders and class_folders(place):
            return _open(split, {split: place}, options, portion=split)
    raise DataNotFoundError(
        [
            f"{place}/{name}/<class>"
            for place in (root / "imagefolder", root)
            for name in SPLIT_NAMES[split]
        ]
        + [f"{root}/<class>"]
    )


def split_folders(
    place: Place, split_names: dict[str, tuple[str, ...]] = SPLIT_NAMES
) -> dict[str, Place]:
    """Return the folder of each split there is, by split; in any case (Train, TEST).

    A folder called "train" that has no folders in it is the class of trains, not a split.
    """
    # "Train" before "train"
    present = {name.lower(): name for name in reversed(place.folders())}
    present |= {name: name for name in place.folders()}
    found: dict[str, Place] = {}
    for split, names in split_names.items():
        for name in names:
            if split not in found and name in present:
                folder = place / present[name]
                if class_folders(folder):
                    found[split] = folder
    return found


def union_of_classes(folders: dict[str, Place]) -> tuple[str, ...]:
    """Return the sorted class names of all splits, so that a label means the same in each."""
    return tuple(sorted({name for folder in folders.values() for name in class_folders(folder)}))


def _open(
    split: str, folders: dict[str, Place], options: ReadOptions, portion: str | None = None
) -> ImageSplit:
    folder = folders[split]
    classes = classes_with_pictures(list(folders.values()))
    paths, _ = list_images(folder, classes, tell=True)
    check_levels(folder, paths, is_divided=portion is None)
    # Listed only when all of this split's pictures are grey.
    others = (
        other / path
        for other in folders.values()
        if other != folder
        for path in list_images(other, classes)[0]
    )
    geometry = find_geometry(folder, paths, options, others)
    return FolderSplit.of("imagefolder", split, folder, classes, geometry, portion)


def check_levels(folder: Place, paths: Sequence[str], *, is_divided: bool) -> None:
    """Raise UserError where the folders taken for classes may stand above splits or classes."""
    words = {word for names in SPLIT_NAMES.values() for word in names}
    below: dict[str, set[str]] = {}
    for path in paths:
        name, *folders, _ = path.split("/")
        below.setdefault(name, set()).add(folders[0] if folders else "")
        if not is_divided and folders and folders[0].lower() in words:
            raise UserError(
                f"{folder}/{name} holds a folder {folders[0]!r}: is {name!r} a class or a data "
                f"set? Give --data-root {folder}/{name}, or rename that folder"
            )
    if len(below) == 1:
        ((name, inside),) = below.items()
        if "" not in inside and len(inside) > 1:
            raise UserError(
                f"{folder} has one class, {name!r}, whose pictures lie in the folders "
                f"{', '.join(sorted(inside)[:3])}: are these the classes? Move them to {folder}"
            )


IMAGEFOLDER = DatasetSpec(
    name="imagefolder",
    num_classes=None,
    image_shape=None,
    open=open_imagefolder,
    how_to_get="one folder of pictures per class, in train/ and test/ or without split folders",
    resizable=True,
)
