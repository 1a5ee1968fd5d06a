# Takes the place of debian.sh for another architecture than this machine's. Packages are unpacked, and the
# scripts in them are not run: they start programs of that architecture. What those scripts would do is here.
# In: OUT, the layout to make; ARCHITECTURE, Debian's name of the architecture.

RELEASE=bookworm
PATH_OF_IMAGE=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOOK=/usr/share/mmdebstrap/hooks/merged-usr/setup00.sh

# What every package expects and none depends on.
ESSENTIAL=base-files,base-passwd,bash,coreutils,dash,findutils,grep,hostname,libc-bin,mawk,procps,sed,tar,util-linux

# Starts an empty layout, unpacked into ./bundle.
from_base() {
  umoci init --layout "$OUT"
  umoci new --image "$OUT:latest"
  umoci unpack --image "$OUT:latest" bundle
}

# This machine's tools, with the users of the image.
in_root() {
  cp /bin/busybox bundle/rootfs/busybox
  chroot bundle/rootfs /busybox "$@"
  rm bundle/rootfs/busybox
}

install() {
  local IFS=,
  mmdebstrap --quiet --mode=root --variant=extract --architectures="$ARCHITECTURE" \
    --setup-hook="$HOOK" --include="$ESSENTIAL,$*" "$RELEASE" packages.tar
  tar --extract --xattrs --xattrs-include='*' --numeric-owner --file packages.tar --directory bundle/rootfs
  rm packages.tar
  (
    cd bundle/rootfs
    # Nothing that a server reads: an emulated host unpacks every byte of this.
    rm -rf usr/share/{doc,man,info,locale,lintian,zoneinfo} usr/lib/*-linux-gnu/gconv var/cache/apt/* var/lib/apt/lists/*
    for name in passwd group; do cp "usr/share/base-passwd/$name.master" "etc/$name"; done
  )
  local package
  for package in "$@"; do set_up "$package"; done
}

set_up() {
  case $1 in
  nginx-light)
    ln -s ../sites-available/default bundle/rootfs/etc/nginx/sites-enabled/default
    mkdir -p bundle/rootfs/var/www/html
    cp bundle/rootfs/usr/share/nginx/html/index.html bundle/rootfs/var/www/html/index.nginx-debian.html
    ;;
  redis-server)
    echo 'redis:x:101:' >>bundle/rootfs/etc/group
    echo 'redis:x:101:101::/var/lib/redis:/usr/sbin/nologin' >>bundle/rootfs/etc/passwd
    ;;
  esac
}

# Writes ./bundle back as a layer, then the image's settings.
finish() {
  umoci repack --image "$OUT:latest" bundle
  umoci config --image "$OUT:latest" --architecture "$ARCHITECTURE" --config.env "PATH=$PATH_OF_IMAGE" \
    --clear config.cmd "$@"
  umoci gc --layout "$OUT"
  rm -rf bundle
}
