"""Writes OCI image layouts by hand, so that a test image holds exactly what it means to."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile

LAYER = "application/vnd.oci.image.layer.v1.tar"
BUSYBOX = open(os.environ["BUSYBOX"], "rb").read()
# The machine's own busybox has the same applets: it comes from the same package.
APPLETS = subprocess.check_output(["/bin/busybox", "--list"], text=True).split()
WHEN = 1_600_000_000


class Layer:
    """A layer's tar, entry by entry, in the order given."""

    def __init__(self):
        self.bytes = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.bytes, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name, kind=tarfile.REGTYPE, data=b"", target="", mode=0o644, owner=(0, 0),
            mtime=WHEN, xattrs=None, device=(0, 0), headers=None):
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.mode, entry.mtime = kind, target, mode, mtime
        entry.uid, entry.gid = owner
        entry.devmajor, entry.devminor = device
        entry.size = len(data)
        entry.pax_headers = {f"SCHILY.xattr.{k}": v for k, v in (xattrs or {}).items()}
        entry.pax_headers.update(headers or {})
        self.tar.addfile(entry, io.BytesIO(data))

    def folder(self, name, mode=0o755, **more):
        self.add(name, tarfile.DIRTYPE, mode=mode, **more)

    def file(self, name, data, **more):
        self.add(name, data=data if isinstance(data, bytes) else data.encode(), **more)

    def symlink(self, name, target):
        self.add(name, tarfile.SYMTYPE, target=target, mode=0o777)

    def hardlink(self, name, target):
        self.add(name, tarfile.LNKTYPE, target=target)

    def whiteout(self, name):
        folder, _, leaf = name.rpartition("/")
        self.add(f"{folder}/.wh.{leaf}" if folder else f".wh.{leaf}", mode=0o000)

    def opaque(self, folder):
        self.add(f"{folder}/.wh..wh..opq", mode=0o000)

    def sparse(self, name, size, extents):
        """A GNU sparse file of pax format 1.0: its map stands before its data."""
        numbers = [len(extents)] + [n for at, data in extents for n in (at, len(data))]
        table = "".join(f"{n}\n" for n in numbers).encode()
        table += bytes(-len(table) % 512)
        folder, _, leaf = name.rpartition("/")
        self.add(f"{folder}/GNUSparseFile.0/{leaf}", data=table + b"".join(d for _, d in extents),
                 headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                          "GNU.sparse.name": name, "GNU.sparse.realsize": str(size)})

    def busybox(self):
        """A small system: busybox with a link for each of its applets."""
        for name in ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "usr/bin",
                     "usr/sbin", "var"):
            self.folder(name)
        self.folder("tmp", 0o1777)
        self.file("bin/busybox", BUSYBOX, mode=0o755)
        for applet in APPLETS:
            if applet != "busybox":
                self.hardlink(f"bin/{applet}", "bin/busybox")
        self.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"
                                "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
                                "app:x:1000:1000:app:/home:/bin/sh\n"
                                "nobody:x:65534:65534:nobody:/home:/bin/false\n")
        self.file("etc/group", "root:x:0:\ndaemon:x:1:\nextra:x:50:app\napp:x:1000:\n"
                               "nogroup:x:65534:\n")

    def finish(self):
        self.tar.close()
        return self.bytes.getvalue()


def zstd(data):
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


PACKED = {
    "": lambda data: data,
    "+gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "+zstd": zstd,
}


def write(folder, layers, config):
    """Makes the layout `folder` of (packing, Layer) pairs and the image's settings."""
    os.makedirs(f"{folder}/blobs/sha256")

    def blob(kind, data):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{folder}/blobs/sha256/{digest}", "wb") as out:
            out.write(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    blobs, ids = [], []
    for packing, layer in layers:
        plain = layer.finish()
        ids.append("sha256:" + hashlib.sha256(plain).hexdigest())
        blobs.append(blob(LAYER + packing, PACKED[packing](plain)))
    settings = blob("application/vnd.oci.image.config.v1+json", json.dumps({
        "architecture": os.environ["ARCHITECTURE"], "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": ids},
    }).encode())
    manifest = blob("application/vnd.oci.image.manifest.v1+json", json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": settings, "layers": blobs,
    }).encode())
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    with open(f"{folder}/index.json", "w") as out:
        json.dump({"schemaVersion": 2, "manifests": [manifest]}, out)
    with open(f"{folder}/oci-layout", "w") as out:
        json.dump({"imageLayoutVersion": "1.0.0"}, out)
