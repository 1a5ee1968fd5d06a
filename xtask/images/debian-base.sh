. ./debian.sh
options=()
for path in "${EXCLUDED[@]}"; do options+=("--dpkgopt=path-exclude=$path"); done
# A merged /usr from the start, rather than by a package that needs all of Perl for it.
mmdebstrap --mode=root --variant=minbase "${options[@]}" \
  --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include=usr-is-merged \
  --customize-hook='rm -rf "$1"/var/cache/apt/* "$1"/var/cache/debconf/*-old "$1"/var/log/*.log' \
  --customize-hook='rm -f "$1"/etc/resolv.conf; echo debian >"$1"/etc/hostname' \
  "$RELEASE" base.tar

umoci init --layout "$OUT"
umoci new --image "$OUT:latest"
umoci unpack --image "$OUT:latest" bundle
tar --extract --xattrs --xattrs-include='*' --numeric-owner --file base.tar --directory bundle/rootfs
rm base.tar
printf '#!/bin/sh\nexit 101\n' >bundle/rootfs/usr/sbin/policy-rc.d
chmod 755 bundle/rootfs/usr/sbin/policy-rc.d
finish --config.env "PATH=$PATH_OF_IMAGE" --config.cmd bash
