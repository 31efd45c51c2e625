"""What lies in a folder, to see that nothing was changed there."""

import hashlib


def sums(folder):
    """{path: sha256} of all files of a folder, None of folders."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
    }
