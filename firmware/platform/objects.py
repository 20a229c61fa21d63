"""What several environments compile from the same files with the same flags is compiled once."""

import contextlib
import re
import time
from pathlib import Path

from SCons.CacheDir import CacheDir
from SCons.Util import hash_collect, hash_signature

UNUSED_S = 30 * 86_400
_OWN_MACRO = re.compile(rb"-D(HIL_\w+|F_CPU)(=\S+)? ?")


class Objects(CacheDir):
    """Objects by what they are made of, wherever they lie. A macro of ours that no file of an object names changes nothing."""

    def cachepath(self, node):
        """See CacheDir. Programs and archives are not kept: what PlatformIO does after linking is done for each."""
        children = node.children()
        texts = b"\n".join(child.get_contents() for child in children if child.name.endswith((".c", ".cpp", ".h", ".S")))
        command = bytes(node.get_executor().get_contents())
        command = _OWN_MACRO.sub(lambda found: found[0] if found[1] in texts else b"", command)
        signature = hash_collect([*(child.get_csig() for child in children), hash_signature(command), node.name])
        folder = str(Path(self.path, signature[:2]))
        return folder, str(Path(folder, signature))

    def retrieve(self, node):
        """See CacheDir."""
        return node.name.endswith(".o") and super().retrieve(node)

    def push(self, node):
        """See CacheDir."""
        return super().push(node) if node.name.endswith(".o") else None


def share_objects(env):
    """Takes objects that another environment of the project has compiled; those of no use for a month are deleted."""
    if env["PIOENV"].endswith("_tflm"):
        return  # whose objects tflm_library.py keeps
    folder = Path(env.subst("$PROJECT_WORKSPACE_DIR"), "objects")
    folder.mkdir(parents=True, exist_ok=True)
    for kept in folder.glob("??/*"):
        with contextlib.suppress(OSError):  # another build is at work there
            if time.time() - kept.stat().st_mtime > UNUSED_S:
                kept.unlink()
    env.CacheDir(str(folder), Objects)
