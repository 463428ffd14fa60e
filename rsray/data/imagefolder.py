"""Any user's own folder of pictures, one folder per class."""

from rsray.data._base import OWN_PICTURES, DataNotFoundError, DatasetSpec, ImageSplit
from rsray.data.reading.folder import FolderSplit, find_geometry, list_images
from rsray.storage import Place

SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val", "validation", "valid")}


def open_imagefolder(split: str, root: Place, image_size: int | None) -> ImageSplit:
    """Return a split: of <root>/train and test (or val), else a seeded, stratified 80/20 split.

    Raises DataNotFoundError when there are no class folders, and UserError when the pictures differ
    in size and no `image_size` is given.
    """
    places = [place for place in (root / "imagefolder", root) if place.is_dir()]
    for place in places:
        folders = split_folders(place)
        if split in folders:
            return _open(folders[split], union_of_classes(folders), split, None, image_size)
        if not folders and place.folders():
            return _open(place, tuple(place.folders()), split, split, image_size)
    raise DataNotFoundError(
        [
            f"{place}/{name}/<class>"
            for place in (root / "imagefolder", root)
            for name in SPLIT_FOLDERS[split]
        ]
        + [f"{root}/<class>"]
    )


def split_folders(
    place: Place, split_names: dict[str, tuple[str, ...]] = SPLIT_FOLDERS
) -> dict[str, Place]:
    """Return the folder of each split there is, by split.

    A folder called "train" that has no folders in it is the class of trains, not a split.
    """
    found: dict[str, Place] = {}
    for split, names in split_names.items():
        for name in names:
            folder = place / name
            if split not in found and folder.is_dir() and folder.folders():
                found[split] = folder
    return found


def union_of_classes(folders: dict[str, Place]) -> tuple[str, ...]:
    """Return the sorted class names of all splits, so that a label means the same in each."""
    return tuple(sorted({name for folder in folders.values() for name in folder.folders()}))


def _open(
    folder: Place,
    classes: tuple[str, ...],
    split: str,
    portion: str | None,
    image_size: int | None,
) -> ImageSplit:
    geometry = find_geometry(folder, list_images(folder, classes)[0], image_size)
    return FolderSplit(
        name="imagefolder",
        split=split,
        num_classes=len(classes),
        image_shape=geometry.shape,
        class_names=classes,
        folder=folder,
        geometry=geometry,
        portion=portion,
    )


IMAGEFOLDER = DatasetSpec(
    name="imagefolder",
    num_classes=None,
    image_shape=None,
    open=open_imagefolder,
    how_to_get="one folder of pictures per class, in train/ and test/ or without split folders",
    resizable=True,
    training=OWN_PICTURES,
)
