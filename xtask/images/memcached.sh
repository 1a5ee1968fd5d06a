. ./debian.sh
from_base
install memcached
finish --config.cmd memcached --config.user memcache --config.exposedports 11211/tcp
