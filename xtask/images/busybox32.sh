. ./zoo.sh
from_nothing
# The package index of the other architecture, beside this machine's.
mkdir -p apt/partial
apt=(apt-get -q -o APT::Architecture=i386 -o APT::Architectures::=i386 -o Dir::State::Lists="$PWD/apt"
  -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::SourceList="$PWD/sources" -o Dir::Cache::pkgcache=
  -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root -o Acquire::Languages=none)
echo "deb http://deb.debian.org/debian $RELEASE main" >sources
"${apt[@]}" update
# One program that is linked statically, and one that is not.
"${apt[@]}" download busybox-static hello libc6
for package in *.deb; do dpkg -x "$package" bundle/rootfs; done
rm -rf bundle/rootfs/usr/share bundle/rootfs/usr/lib/i386-linux-gnu bundle/rootfs/lib/i386-linux-gnu/i686
cd bundle/rootfs
mkdir -p dev etc proc root run sbin sys tmp usr/sbin var
mknod -m 666 dev/null c 1 3
chroot . /bin/busybox --install -s
cd ../..
echo 'root:x:0:0:root:/root:/bin/sh' >bundle/rootfs/etc/passwd
program /zoo/probe <<'END'
#!/bin/sh -e
# The kernel is that of the machine; `od` shows that the programs are not.
od -A n -j 4 -N 1 -t d1 /bin/busybox
hello
echo $((1 << 40))
date -u -d @2000000000
seq 100000 | awk '{ sum += $1 } END { print sum }'
# Processes, signals and pipes.
(trap 'echo asked; exit 3' TERM; kill -TERM $(sh -c 'echo $PPID')) || echo status $?
seq 1000 | gzip | gunzip | md5sum
awk '$6 == "[stack]" { print length($1) }' /proc/self/maps
END
expect
finish --config.cmd sleep --config.cmd 1000000
