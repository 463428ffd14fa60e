"""Where runs and data are: one way to read and write local disks, `s3://`, `gs://` and more.

Importing this package loads neither pyarrow nor numpy: the names below do, on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsray.family import lazy_names

if TYPE_CHECKING:
    from rsray.storage.place import (
        PathLike,
        Place,
        one_line,
        open_filesystem,
        read_file,
        write_file,
    )

__all__ = ["Place", "PathLike", "open_filesystem", "one_line", "read_file", "write_file"]

__getattr__ = lazy_names(dict.fromkeys(__all__, "rsray.storage.place"))
