. ./debian.sh
from_base
install apache2
# What Perl serves is Debian's tools to configure it, not the server.
rm -rf bundle/rootfs/usr/share/perl bundle/rootfs/usr/lib/x86_64-linux-gnu/perl
# As the official image does: logs go to the container's streams.
ln -sf /dev/stdout bundle/rootfs/var/log/apache2/access.log
ln -sf /dev/stderr bundle/rootfs/var/log/apache2/error.log
echo 'ServerName localhost' >bundle/rootfs/etc/apache2/conf-enabled/name.conf
mkdir -p bundle/rootfs/run/apache2 bundle/rootfs/run/lock/apache2
finish --config.cmd apache2 --config.cmd -D --config.cmd FOREGROUND \
  --config.env APACHE_RUN_USER=www-data --config.env APACHE_RUN_GROUP=www-data \
  --config.env APACHE_PID_FILE=/run/apache2/apache2.pid \
  --config.env APACHE_RUN_DIR=/run/apache2 --config.env APACHE_LOCK_DIR=/run/lock/apache2 \
  --config.env APACHE_LOG_DIR=/var/log/apache2 \
  --config.workingdir /var/www/html --config.exposedports 80/tcp --config.stopsignal SIGWINCH
