"""The seal of a checkpoint's file: a digest of its bytes, by which damage is found before the file is used.

torch reads an archive without checking its checksums, so that a flipped bit would change a weight. The seal is the
comment of the archive, which torch and other readers ignore.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import xxhash

from gazelit.errors import InputError

#: Beginning of the comment; 32 hexadecimal digits follow.
_MARK = b"gazelit xxh3-128 "
_LENGTH = len(_MARK) + 32
_BLOCK = 1 << 22
#: What the end of an archive begins with, 22 bytes before its last where there is no comment.
_END = b"PK\5\6"


def write_sealed(archive: memoryview, file: IO[bytes]) -> None:
    """Writes an archive and its seal.

    Args:
        archive: A ZIP archive without a comment, as ``torch.save`` makes them: its last two bytes are the length of
            the comment, 0.
        file: Where to.
    """
    file.write(archive[:-2])
    file.write(_LENGTH.to_bytes(2, "little") + _MARK + xxhash.xxh3_128_hexdigest(archive[:-2]).encode())


def check_seal(path: str | os.PathLike[str]) -> bool:
    """Compares a file with its seal.

    Args:
        path: A checkpoint.

    Returns:
        Whether it has a seal; foreign files, and those of earlier versions, have none.

    Raises:
        InputError: The bytes differ from those that were written.
    """
    with Path(path).open("rb") as file:
        is_archive = file.read(2) == b"PK"
        length = file.seek(0, os.SEEK_END)
        file.seek(-min(length, _LENGTH + 2), os.SEEK_END)
        end = file.read()
        if not end.startswith(_LENGTH.to_bytes(2, "little") + _MARK):
            if is_archive and not (end[-22:].startswith(_END) and end.endswith(b"\0\0")):
                # Neither the end of an archive without a comment nor that of ours.
                raise _damaged(path)
            return False
        digest = xxhash.xxh3_128()
        file.seek(0)
        left = length - len(end)
        while block := file.read(min(left, _BLOCK)):
            digest.update(block)
            left -= len(block)
    if digest.hexdigest().encode() != end[2 + len(_MARK) :]:
        raise _damaged(path)
    return True


def _damaged(path: str | os.PathLike[str]) -> InputError:
    return InputError(
        f"{path}: is damaged or cut: its bytes are not those that were written; copy it anew, or use an earlier one"
    )
