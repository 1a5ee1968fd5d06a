# Sourced by the recipes of the zoo, the images that are compared with a chroot.
#
# /zoo/probe in an image prints the same wherever it works. The recipe runs it in a chroot of the
# image on this machine, with namespaces of its own, beside the image's command if it needs that. The
# output is /zoo/expected, which tests compare with a machine's. /zoo/ready, if there is one,
# succeeds once the command is up.

. ./debian.sh

# Starts the layout without a base, in ./bundle.
from_nothing() {
  umoci init --layout "$OUT"
  umoci new --image "$OUT:latest"
  umoci unpack --image "$OUT:latest" bundle
}

# With /proc, which Java's packages need to set themselves up.
in_root() {
  unshare --mount --pid --fork --mount-proc="$PWD/bundle/rootfs/proc" chroot bundle/rootfs \
    /usr/bin/env -i PATH="$PATH_OF_IMAGE" DEBIAN_FRONTEND=noninteractive "$@"
}

# Writes a program of the image from standard input.
program() {
  mkdir -p "$(dirname "bundle/rootfs$1")"
  cat >"bundle/rootfs$1"
  chmod 755 "bundle/rootfs$1"
}

# Makes /zoo/box.tar, a file system for containers in a machine, of the image's busybox.
make_box() {
  mkdir -p box/{bin,etc,proc,root,tmp,www} bundle/rootfs/zoo
  cp bundle/rootfs/bin/busybox box/bin/
  chroot box /bin/busybox --install /bin
  echo 'root:x:0:0:root:/root:/bin/sh' >box/etc/passwd
  echo 'hello from a container' >box/www/index.html
  tar -C box --create --owner 0 --group 0 --file bundle/rootfs/zoo/box.tar .
  rm -rf box
}

# Runs /zoo/probe beside a command, which is PID 1, and keeps what it prints.
expect_beside() {
  # What both leave behind must not be in the image.
  cp -a bundle/rootfs chroot
  unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child --mount-proc="$PWD/chroot/proc" \
    sh -c 'busybox ip link set lo up && exec chroot chroot "$@"' sh \
    env -i PATH="$PATH_OF_IMAGE" HOME=/root "$@" >command.log 2>&1 &
  local outside=$! children=() tries=0
  while [ ${#children[@]} = 0 ]; do
    sleep 0.1
    read -ra children <"/proc/$outside/task/$outside/children" || [ $((tries++)) -lt 100 ]
  done
  # Its root is this machine's at first.
  until [ -e "/proc/${children[0]}/root/zoo/probe" ]; do sleep 0.1; [ $((tries++)) -lt 300 ]; done
  inside() {
    nsenter --target "${children[0]}" --all --root --wd env -i PATH="$PATH_OF_IMAGE" HOME=/root "$@"
  }
  if [ -e chroot/zoo/ready ]; then
    until inside /zoo/ready >/dev/null 2>&1; do
      sleep 0.2
      [ $((tries++)) -lt 300 ] || { cat command.log; kill -KILL "${children[0]}"; exit 1; }
    done
  fi
  local status=0
  inside timeout 300 /zoo/probe >bundle/rootfs/zoo/expected || status=$?
  kill -KILL "${children[0]}"
  wait "$outside" || true
  rm -rf chroot
  [ $status = 0 ] || { cat bundle/rootfs/zoo/expected; return $status; }
}

# The same beside a command that is not PID 1, as without `--init image`.
expect() {
  expect_beside sh -c '"$@" & while :; do sleep 1000; done' sh "${@:-true}"
}
