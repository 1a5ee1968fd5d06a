. ./zoo.sh
from_base
install docker.io iptables busybox-static
rm -f bundle/rootfs/usr/bin/{ctr,containerd-stress,containerd-shim,containerd-shim-runc-v1}
make_box
program /zoo/ready <<'END'
#!/bin/sh
docker version
END
# Before the snapshot: a container that serves.
program /zoo/before <<'END'
#!/bin/sh -e
docker import /zoo/box.tar box >/dev/null
docker run --detach --name web --publish 8080:80 box httpd -f -p 80 -h /www >/dev/null
END
program /zoo/probe <<'END'
#!/bin/sh -e
docker info --format '{{.Driver}} {{.CgroupVersion}}'
docker ps --format '{{.Names}} {{.Image}} {{.Ports}}'
# At the published port, at the container's own address, and there from another container.
address=$(docker inspect --format '{{.NetworkSettings.IPAddress}}' web)
busybox wget -q -O - http://127.0.0.1:8080/
busybox wget -q -O - "http://$address/"
docker run --rm box wget -q -O - "http://$address/"
# A container has its limits, user, mounts, input and status.
echo from outside | docker run --rm --interactive --memory 16m --pids-limit 50 --user 1000 \
  --read-only --tmpfs /scratch box sh -c 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max
    id -u; echo x >/scratch/x; (echo x >/x) 2>&1; cat; exit 3' || echo "status $?"
# What it writes is a layer, and the next image has it.
docker run --name writer box sh -c 'rm /www/index.html && echo second >/www/second.html'
docker diff writer | sort
docker commit writer second >/dev/null
docker run --rm second ls /www
# A network of its own, with names.
docker network create inner >/dev/null
docker run --detach --rm --network inner --name named box httpd -f -p 80 -h /www >/dev/null
docker run --rm --network inner box wget -q -O - http://named/
docker kill named >/dev/null
docker exec web ps -o pid,args | head -2 | tail -1
END
# A chroot is no place for an engine that changes the machine's packet filter, so this is what the
# probe must print.
cat >bundle/rootfs/zoo/expected <<'END'
overlay2 2
web box 0.0.0.0:8080->80/tcp, :::8080->80/tcp
hello from a container
hello from a container
hello from a container
16777216
50
1000
sh: can't create /x: Read-only file system
from outside
status 3
A /www/second.html
C /www
D /www/index.html
second.html
hello from a container
    1 httpd -f -p 80 -h /www
END
# As in Docker's own image: layers need a file system that overlayfs can write to.
finish --config.cmd dockerd --config.volume /var/lib/docker
