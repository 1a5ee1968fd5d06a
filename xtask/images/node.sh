. ./debian.sh
from_base
install nodejs
in_root useradd --uid 1000 --create-home --shell /bin/bash node
finish --config.cmd node --config.env "NODE_VERSION=$(in_root node -p process.versions.node)"
