. ./zoo.sh
from_base
install systemd systemd-sysv dbus
cat >bundle/rootfs/etc/systemd/system/zoo.service <<'END'
[Service]
DynamicUser=yes
RuntimeDirectory=zoo
ExecStart=/bin/sh -c 'echo up since $$(date +%%s) >>/run/zoo/starts; echo hello from a service; exec sleep infinity'
MemoryMax=32M
Restart=always
RestartSec=0

[Install]
WantedBy=multi-user.target
END
cat >bundle/rootfs/etc/systemd/system/zoo.timer <<'END'
[Timer]
OnActiveSec=1
AccuracySec=1ms
Unit=tick.service
END
cat >bundle/rootfs/etc/systemd/system/tick.service <<'END'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo tick >>/run/ticks'
END
in_root systemctl enable zoo.service
program /zoo/ready <<'END'
#!/bin/sh
state=$(systemctl is-system-running)
[ "$state" = running ] || [ "$state" = degraded ]
END
program /zoo/probe <<'END'
#!/bin/bash
cat /proc/1/comm
systemctl is-system-running
systemctl --failed --plain --no-legend
systemctl is-active zoo.service dbus.service systemd-journald.service
cat /sys/fs/cgroup/system.slice/zoo.service/memory.max
# A service that dies starts again.
systemctl kill --signal KILL zoo.service
logged() { journalctl --quiet --output cat --unit zoo.service | grep hello; }
until [ "$(logged | wc -l)" = 2 ]; do sleep 0.1; done
logged
systemctl show --property NRestarts zoo.service
# Timers, transient services with their status, and jobs through D-Bus.
systemctl start zoo.timer
until [ -s /run/ticks ]; do sleep 0.1; done
cat /run/ticks
systemd-run --quiet --wait --pipe --property DynamicUser=yes --property PrivateTmp=yes \
  sh -c 'ls -A /tmp; exit 3'
echo "status $?"
systemctl stop zoo.service
systemctl is-active zoo.service || true
END
# A chroot is no place for an init that takes over the machine, so this is what it must print.
cat >bundle/rootfs/zoo/expected <<'END'
systemd
running
active
active
active
33554432
hello from a service
hello from a service
NRestarts=1
tick
status 3
inactive
END
finish --config.cmd /sbin/init --config.stopsignal SIGRTMIN+3
