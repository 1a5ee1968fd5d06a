. ./zoo.sh
from_base
install podman crun netavark aardvark-dns slirp4netns uidmap iptables busybox-static
make_box
in_root useradd --create-home --uid 1000 --shell /bin/sh app
mkdir -p bundle/rootfs/home/app/.local/share/containers
in_root chown -R app:app /home/app
# There is no systemd to make control groups and to keep logs.
mkdir -p bundle/rootfs/etc/containers
cat >bundle/rootfs/etc/containers/containers.conf <<'END'
[containers]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
END
# The default of users, unless it is said, copies every layer.
cat >bundle/rootfs/etc/containers/storage.conf <<'END'
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
END
# Runs a command as an ordinary user, whose containers need no rights.
program /zoo/rootless <<'END'
#!/bin/sh -e
mkdir -p /run/user/1000
chown app:app /run/user/1000
cd /home/app
exec setpriv --reuid app --regid app --init-groups \
  env HOME=/home/app USER=app XDG_RUNTIME_DIR=/run/user/1000 "$@"
END
# Before the snapshot: a container of root's that serves, and one of the user's.
program /zoo/before <<'END'
#!/bin/sh -e
serve() {
  port=$1
  shift
  "$@" podman import --quiet /zoo/box.tar box >/dev/null
  "$@" podman run --detach --name web --publish "$port:80" box httpd -f -p 80 -h /www >/dev/null
}
serve 8080 env
serve 8081 /zoo/rootless
END
program /zoo/probe <<'END'
#!/bin/sh -e
# Prints the same for root's containers and for the user's.
both() {
  "$@" podman info --format '{{.Store.GraphDriverName}} {{.Host.CgroupsVersion}} {{.Host.Security.Rootless}}'
  "$@" podman ps --format '{{.Names}} {{.Image}} {{.Ports}}'
  # A container has its user, mounts, input and status.
  echo from outside | "$@" podman run --rm --interactive --user 1000 --read-only --tmpfs /scratch box \
    sh -c 'id -u; echo x >/scratch/x; (echo x >/x) 2>&1; cat; exit 3' || echo "status $?"
  # What it writes is a layer, and the next image has it.
  "$@" podman run --name writer box sh -c 'rm /www/index.html && echo second >/www/second.html'
  "$@" podman diff writer | sort
  "$@" podman commit --quiet writer second >/dev/null
  "$@" podman run --rm second ls /www
  "$@" podman exec web ps -o pid,args | head -2 | tail -1
}
both env
busybox wget -q -O - http://127.0.0.1:8080/
address=$(podman inspect --format '{{.NetworkSettings.IPAddress}}' web)
podman run --rm box wget -q -O - "http://$address/"
# Limits, and a network of its own with names.
podman run --rm --memory 16m --pids-limit 50 box sh -c 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max'
podman network create inner >/dev/null
podman run --detach --rm --network inner --name named box httpd -f -p 80 -h /www >/dev/null
podman run --rm --network inner box wget -q -O - http://named/
podman kill named >/dev/null
both /zoo/rootless
/zoo/rootless id -u
busybox wget -q -O - http://127.0.0.1:8081/
END
# A chroot is no place for an engine that changes the machine's packet filter, so this is what the
# probe must print.
# What `both` prints: of a rootless engine or not, with a container at this port.
of_both() {
  cat <<END
overlay v2 $1
web localhost/box:latest 0.0.0.0:$2->80/tcp
1000
sh: can't create /x: Read-only file system
from outside
status 3
A /www/second.html
C /etc
C /www
D /www/index.html
second.html
    1 httpd -f -p 80 -h /www
END
}
{
  of_both false 8080
  cat <<'END'
hello from a container
hello from a container
16777216
50
hello from a container
END
  of_both true 8081
  cat <<'END'
1000
hello from a container
END
} >bundle/rootfs/zoo/expected
# As in images of podman: layers need a file system that overlayfs can write to.
finish --config.cmd sleep --config.cmd 1000000 --config.volume /var/lib/containers \
  --config.volume /home/app/.local/share/containers
