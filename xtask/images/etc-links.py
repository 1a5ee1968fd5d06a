"""Busybox whose files in /etc that a container engine writes are links to nothing."""

import os

import oci

layer = oci.Layer()
layer.busybox()
layer.symlink("etc/hosts", "../run/names/hosts")
layer.symlink("etc/hostname", "/srv/gone/deep/hostname")
layer.symlink("etc/resolv.conf", "../../../../run/resolve/stub-resolv.conf")
layer.symlink("etc/machine-id", "../var/lib/dbus/machine-id")
oci.write(os.environ["OUT"], [("+gzip", layer)], {
    "Cmd": ["sleep", "1000000"],
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
})
