. ./debian.sh
from_base
install python3
finish --config.cmd python3 --config.env LANG=C.UTF-8
