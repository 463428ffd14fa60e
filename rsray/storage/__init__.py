"""Where runs and data are: one way to read and write local disks, `s3://`, `gs://` and more."""

from rsray.storage.folder import Folder, PathLike, locate, one_line, read_file, write_file

__all__ = ["Folder", "PathLike", "locate", "one_line", "read_file", "write_file"]
