. ./zoo.sh
from_base
install s6
# Two services under supervision; the second is started only on demand.
program /etc/s6/clock/run <<'END'
#!/bin/sh
exec 2>&1
echo started >>/run/clock
exec sleep 1000000
END
program /etc/s6/once/run <<'END'
#!/bin/sh
id -un >/run/once
exec s6-svc -O .
END
touch bundle/rootfs/etc/s6/once/down
program /etc/s6/.s6-svscan/finish <<'END'
#!/bin/sh
exit 0
END
program /zoo/ready <<'END'
#!/bin/sh
s6-svstat -u /etc/s6/clock | grep -x true && test -s /run/clock
END
program /zoo/probe <<'END'
#!/bin/bash
tr '\0' ' ' </proc/1/cmdline; echo
s6-svstat -o up,wantedup,normallyup /etc/s6/clock
# A service that is killed starts again.
starts=$(wc -l </run/clock)
s6-svc -k /etc/s6/clock
until [ "$(wc -l </run/clock)" -gt "$starts" ]; do sleep 0.1; done
echo "started again"
# One that is down starts on demand.
s6-svc -u /etc/s6/once
until [ -s /run/once ]; do sleep 0.1; done
cat /run/once
# PID 1 reaps orphans.
orphan=$( (setsid sleep 0.1 >/dev/null & echo $!) )
while [ -e "/proc/$orphan" ]; do sleep 0.1; done
echo reaped
END
expect_beside s6-svscan /etc/s6
finish --config.cmd s6-svscan --config.cmd /etc/s6 --config.stopsignal SIGTERM
