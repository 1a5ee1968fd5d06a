# Sourced by the recipes that stand on Debian: one shared base layer, and how to add to it.
# In: OUT, the layout to make; BASE, the base's layout (absent when that is what is made).

RELEASE=bookworm
PATH_OF_IMAGE=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# Nothing that a server reads: an emulated host unpacks every byte of this.
EXCLUDED=(
  '/usr/share/doc/*' '/usr/share/man/*' '/usr/share/info/*' '/usr/share/locale/*'
  '/usr/share/lintian/*' '/usr/share/zoneinfo/*'
  '/usr/lib/x86_64-linux-gnu/gconv/*'
)

# Starts the layout from the base, unpacked into ./bundle.
from_base() {
  cp -r "$BASE" "$OUT"
  umoci unpack --image "$OUT:latest" bundle
}

in_root() {
  chroot bundle/rootfs /usr/bin/env -i PATH="$PATH_OF_IMAGE" DEBIAN_FRONTEND=noninteractive "$@"
}

# Installs packages without their recommendations, and leaves no trace of apt.
install() {
  cp /etc/resolv.conf bundle/rootfs/etc/resolv.conf
  in_root apt-get -q update
  in_root apt-get -q -y --no-install-recommends install "$@"
  in_root apt-get clean
  rm -rf bundle/rootfs/var/lib/apt/lists/* bundle/rootfs/var/cache/debconf/*-old
  rm -f bundle/rootfs/etc/resolv.conf bundle/rootfs/var/log/dpkg.log bundle/rootfs/var/log/apt/*
}

# Writes ./bundle back as a second layer, then the image's settings.
finish() {
  umoci repack --image "$OUT:latest" bundle
  umoci config --image "$OUT:latest" --clear config.cmd "$@"
  umoci gc --layout "$OUT"
  rm -rf bundle
}
