. ./debian.sh
from_base
# The cluster is ours to make, not the package's.
mkdir -p bundle/rootfs/etc/postgresql-common
echo 'create_main_cluster = false' >bundle/rootfs/etc/postgresql-common/createcluster.conf
install postgresql-15
# The server alone: no compiler for queries, no Perl for Debian's tools around clusters.
rm -rf bundle/rootfs/usr/lib/x86_64-linux-gnu/libLLVM* bundle/rootfs/usr/lib/postgresql/15/lib/bitcode
rm -rf bundle/rootfs/usr/share/perl bundle/rootfs/usr/lib/x86_64-linux-gnu/perl
BIN=/usr/lib/postgresql/15/bin
DATA=/var/lib/postgresql/data
mkdir -p bundle/rootfs/run/postgresql "bundle/rootfs$DATA"
in_root chown postgres:postgres /run/postgresql "$DATA"
in_root chmod 3777 /run/postgresql
# A cluster is there already, which the official image makes at its first start.
in_root setpriv --reuid postgres --regid postgres --init-groups \
  "$BIN/initdb" --pgdata "$DATA" --auth trust --encoding UTF8 --locale C.UTF-8 --no-sync
cat >>"bundle/rootfs$DATA/postgresql.conf" <<'SETTINGS'
listen_addresses = '*'
dynamic_shared_memory_type = posix
jit = off
SETTINGS
finish --config.cmd postgres --config.user postgres \
  --config.env "PATH=$BIN:$PATH_OF_IMAGE" --config.env "PGDATA=$DATA" --config.env PG_MAJOR=15 \
  --config.volume "$DATA" --config.exposedports 5432/tcp --config.stopsignal SIGINT
