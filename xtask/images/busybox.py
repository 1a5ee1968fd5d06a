"""One layer: busybox and its applets."""

import os

import oci

layer = oci.Layer()
layer.busybox()
oci.write(os.environ["OUT"], [("+gzip", layer)], {
    "Cmd": ["sh"],
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
})
