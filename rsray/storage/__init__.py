"""Where runs and data are: one way to read and write local disks, `s3://`, `gs://` and more."""

from rsray.storage.place import PathLike, Place, locate, one_line, read_file, write_file

__all__ = ["Place", "PathLike", "locate", "one_line", "read_file", "write_file"]
