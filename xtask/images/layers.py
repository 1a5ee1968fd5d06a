"""Three layers with every way that one can change what another left, and every kind of
metadata. The image checks itself: its command `check` names each rule that was broken.
"""

import os
import tarfile

import oci

LONG = "long/" + "d" * 120 + "/" + "e" * 120 + "/" + "f" * 200
# Version 2 of the kernel's format: permitted and effective, CAP_NET_RAW (13).
CAP_NET_RAW = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

one = oci.Layer()
one.busybox()
for folder in ("gone", "opaque", "opaque/sub", "readd", "readd/sub", "swap", "swap/folder", "hard",
               "owner", "link", "nodes", "caps", "times", "sparse", "order", "x"):
    one.folder(folder)
one.file("gone/file", "old")
one.file("gone/kept", "kept")
one.file("opaque/old", "old")
one.file("opaque/sub/old", "old")
one.file("readd/old", "old")
one.file("readd/sub/old", "old")
one.file("swap/file", "old")
one.file("swap/folder/child", "old")
one.file("hard/a", "shared", mode=0o640, owner=(7, 8))
one.hardlink("hard/b", "hard/a")
one.hardlink("hard/c", "hard/a")
one.file("owner/file", "x", owner=(1234, 5678), mode=0o600)
one.file("owner/big", "x", owner=(2_000_000, 3_000_000))
one.folder("owner/private", 0o700, owner=(1000, 1000))
one.file("owner/setuid", "x", mode=0o4755)
one.file("owner/setgid", "x", mode=0o2755)
one.folder("owner/sticky", 0o1777)
one.folder("owner/changed", 0o755)
one.file("owner/changed/inside", "inside")
one.file("times/file", "x", mtime=1_000_000_000)
one.symlink("link/relative", "../owner/file")
one.symlink("link/absolute", "/owner/file")
one.symlink("link/dangling", "/no/such/file")
one.symlink("link/far", "/" + LONG)
one.add("nodes/null", tarfile.CHRTYPE, mode=0o666, device=(1, 3))
one.add("nodes/block", tarfile.BLKTYPE, mode=0o660, device=(7, 200))
one.add("nodes/fifo", tarfile.FIFOTYPE, mode=0o600)
one.file("caps/busybox", oci.BUSYBOX, mode=0o755, xattrs={"security.capability": CAP_NET_RAW})
one.file("x/attribute", "x", xattrs={"user.test": "value of a test"})
for depth in range(1, 4):
    one.folder("/".join(LONG.split("/")[:depth]))
one.file(LONG, "far away")
one.file("x/ünï©ode \u2603", "snow")
one.file("x/empty", "")
# To be replaced by each machine's own.
one.file("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
one.file("order/twice", "first")
one.file("order/twice", "second")

two = oci.Layer()
two.whiteout("gone/file")
two.whiteout("gone/never-was")
two.opaque("opaque")
two.file("opaque/new", "new")
two.whiteout("readd")
two.whiteout("swap/folder")
two.folder("swap/file")
two.file("swap/file/child", "new")
two.file("hard/a", "alone")
two.whiteout("hard/c")
two.folder("owner/changed", 0o711, owner=(5, 6))
two.file("order/same", "kept")
two.whiteout("order/same")

three = oci.Layer()
three.folder("readd")
three.file("readd/new", "new")
three.file("swap/folder", "now a file")
# Whiteouts hide what is below, never what the same layer brings, wherever they stand.
three.file("opaque/late", "late")
three.opaque("opaque")
three.sparse("sparse/holes", 16 << 20, [(4096, b"a" * 512), (8 << 20, b"b" * 4096),
                                        (16 << 20, b"")])

CHECK = f"""#!/bin/sh
# Prints each rule that does not hold, then `ok` if all do.
bad=0
same() {{ [ "$2" = "$3" ] || {{ echo "$1: expected [$3], found [$2]"; bad=1; }}; }}
list() {{ (cd "$1" && ls -A | sort | tr '\\n' ' '); }}
meta() {{ stat -c '%a %u:%g %F' "$1"; }}
same whiteout "$(list /gone)" 'kept '
same opaque "$(list /opaque)" 'late '
same re-added "$(list /readd)" 'new '
same file-to-folder "$(cat /swap/file/child)" new
same folder-to-file "$(cat /swap/folder)" 'now a file'
same hard-link-kept "$(cat /hard/b)" shared
same hard-link-replaced "$(cat /hard/a)" alone
same hard-links "$(list /hard)" 'a b '
same hard-link-count "$(stat -c %h /hard/b)" 1
same hard-link-owner "$(meta /hard/b)" '640 7:8 regular file'
same applets "$(stat -c %i /bin/sh)" "$(stat -c %i /bin/busybox)"
same owner "$(meta /owner/file)" '600 1234:5678 regular file'
same big-owner "$(stat -c %u:%g /owner/big)" 2000000:3000000
same folder "$(meta /owner/private)" '700 1000:1000 directory'
same setuid "$(stat -c %a /owner/setuid)" 4755
same setgid "$(stat -c %a /owner/setgid)" 2755
same sticky "$(stat -c %a /owner/sticky)" 1777
same changed "$(meta /owner/changed)" '711 5:6 directory'
same changed-content "$(cat /owner/changed/inside)" inside
same time "$(stat -c %Y /times/file)" 1000000000
same relative-link "$(readlink /link/relative)" ../owner/file
same absolute-link "$(cat /link/absolute)" x
same dangling-link "$(readlink /link/dangling)" /no/such/file
same far-link "$(cat /link/far)" 'far away'
same long-name "$(cat '/{LONG}')" 'far away'
same unicode "$(cat '/x/ünï©ode \u2603')" snow
same empty "$(stat -c %s /x/empty)" 0
same character "$(stat -c '%F %t:%T %a' /nodes/null)" 'character special file 1:3 666'
same block "$(stat -c '%F %t:%T %a' /nodes/block)" 'block special file 7:c8 660'
same fifo "$(stat -c '%F %a' /nodes/fifo)" 'fifo 600'
same twice "$(cat /order/twice)" second
same whiteout-of-own "$(cat /order/same)" kept
same sparse-size "$(stat -c %s /sparse/holes)" {16 << 20}
same sparse-first "$(dd if=/sparse/holes bs=512 skip=8 count=1 2>/dev/null | tr -d a | wc -c)" 0
same sparse-second "$(dd if=/sparse/holes bs=4096 skip=2048 count=1 2>/dev/null | tr -d b | wc -c)" 0
same sparse-holes "$(tr -d '\\0' </sparse/holes | wc -c)" 4608
same no-whiteouts "$(find / -xdev -name '.wh.*')" ''
case $(su app -c '/caps/busybox grep CapEff /proc/self/status') in
  *2000) ;;
  *) echo 'capability: not in effect'; bad=1 ;;
esac
[ $bad = 0 ] && echo ok
exit $bad
"""
three.file("bin/check", CHECK, mode=0o755)

oci.write(os.environ["OUT"], [("+gzip", one), ("+zstd", two), ("", three)], {
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ["exec check"],
    "Env": ["PATH=/bin", "TEST=layers"],
    "WorkingDir": "/owner",
    "Labels": {"test": "layers"},
})
