"""Busybox with volumes: empty, with files, behind a link, and not there yet."""

import os

import oci

layer = oci.Layer()
layer.busybox()
layer.folder("data", 0o750, owner=(1000, 50))
layer.folder("srv")
layer.folder("srv/old", 0o711)
layer.file("srv/old/kept", "of the image\n", mode=0o640, owner=(1000, 50))
layer.folder("srv/old/inner")
layer.file("srv/old/inner/file", "inner\n")
layer.symlink("link", "/srv/old")
oci.write(os.environ["OUT"], [("+gzip", layer)], {
    "Cmd": ["sleep", "1000000"],
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    "Volumes": {path: {} for path in ("/data/", "link", "/new/deep", "/srv/old/inner", "/scratch")},
})
