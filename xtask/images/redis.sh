. ./debian.sh
from_base
install redis-server
mkdir -p bundle/rootfs/data
in_root chown redis:redis /data
finish --config.cmd redis-server --config.cmd --protected-mode --config.cmd no \
  --config.user redis --config.workingdir /data --config.volume /data \
  --config.exposedports 6379/tcp
