. ./zoo.sh
from_base
install mariadb-server
# The server and its client, without what Perl serves and the other node of a cluster.
rm -rf bundle/rootfs/usr/share/perl bundle/rootfs/usr/lib/x86_64-linux-gnu/perl \
  bundle/rootfs/usr/lib/galera bundle/rootfs/usr/bin/{aria_*,mariabackup,mariadb-backup,myisam*,garbd}
mkdir -p bundle/rootfs/run/mysqld
in_root chown mysql:mysql /run/mysqld
cat >bundle/rootfs/etc/mysql/mariadb.conf.d/90-zoo.cnf <<'END'
[mariadbd]
bind-address = 0.0.0.0
innodb_buffer_pool_size = 16M
innodb_log_file_size = 8M
END
program /zoo/ready <<'END'
#!/bin/sh
mariadb-admin ping
END
# Before the snapshot: what is written here must be there in every machine.
program /zoo/before <<'END'
#!/bin/sh -e
mariadb --default-character-set=utf8mb4 -e "create database if not exists zoo; create table zoo.animals (id int primary key auto_increment,
  name varchar(20) character set utf8mb4, unique (name)) engine=innodb; insert into zoo.animals (name) values ('otter'), ('žába')"
END
program /zoo/probe <<'END'
#!/bin/sh -e
sql() { mariadb --default-character-set=utf8mb4 -N -B zoo -e "$1"; }
mariadb -N -B -e "show databases like 'zoo'" | grep -q zoo || /zoo/before
sql "insert into animals (name) values ('lynx'); select * from animals order by id"
sql "start transaction; insert into animals (name) values ('mole'); rollback; select count(*) from animals"
sql "insert into animals (name) values ('lynx')" 2>&1 || true
# What was written survives the server.
pid=$(cat /run/mysqld/mysqld.pid)
kill -KILL "$pid"
while [ -e "/proc/$pid/exe" ]; do sleep 0.1; done
rm -f /run/mysqld/mysqld.pid
setsid mariadbd --user=mysql >/dev/null 2>&1 &
until mariadb-admin ping >/dev/null 2>&1; do sleep 0.5; done
sql "select count(*), max(name) from animals; check table animals"
END
expect mariadbd --user=mysql
finish --config.cmd mariadbd --config.cmd --user=mysql --config.volume /var/lib/mysql \
  --config.exposedports 3306/tcp
