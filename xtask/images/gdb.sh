. ./zoo.sh
from_base
install gdb-minimal
program /zoo/probe <<'END'
#!/bin/sh -e
# Stops where the image's own file is mapped: in the program, in a library, and in one that is loaded
# later. Addresses differ between kernels.
gdb -batch -ex 'set width 0' -ex 'break main' -ex run -ex bt -ex 'break write' -ex continue -ex bt \
  -ex delete -ex continue \
  --args /usr/bin/perl -MFcntl -e '$| = 1; print 6 * 7, "\n"; exit Fcntl::O_CREAT()' 2>&1 |
  grep -v warning | sed 's/0x[0-9a-f]*/ADDRESS/g; s/process [0-9]*/process NUMBER/'
# The program runs on as if nothing had happened, and the next one is whole.
/usr/bin/perl -e 'print "whole\n"'
END
expect
finish --config.cmd sleep --config.cmd 1000000
