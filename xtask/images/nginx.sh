. ./debian.sh
from_base
install nginx-light
# As the official image does: logs go to the container's streams.
ln -sf /dev/stdout bundle/rootfs/var/log/nginx/access.log
ln -sf /dev/stderr bundle/rootfs/var/log/nginx/error.log
finish --config.cmd nginx --config.cmd -g --config.cmd 'daemon off;' \
  --config.exposedports 80/tcp --config.stopsignal SIGQUIT
