"""Where runs and data are: one way to read and write local disks, `s3://`, `gs://` and more."""

from rsray.storage.place import PathLike, Place, one_line, open_filesystem, read_file, write_file

__all__ = ["Place", "PathLike", "open_filesystem", "one_line", "read_file", "write_file"]
