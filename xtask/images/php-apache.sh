. ./zoo.sh
from_base
install apache2 libapache2-mod-php
rm -rf bundle/rootfs/usr/share/perl bundle/rootfs/usr/lib/x86_64-linux-gnu/perl
# As the official image does: logs go to the container's streams.
ln -sf /dev/stdout bundle/rootfs/var/log/apache2/access.log
ln -sf /dev/stderr bundle/rootfs/var/log/apache2/error.log
echo 'ServerName localhost' >bundle/rootfs/etc/apache2/conf-enabled/name.conf
mkdir -p bundle/rootfs/run/apache2 bundle/rootfs/run/lock/apache2
rm bundle/rootfs/var/www/html/index.html
cat >bundle/rootfs/var/www/html/index.php <<'END'
<?php
session_start();
$_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
$n = (int) ($_GET['n'] ?? 10);
$numbers = array_map(fn($i) => $i ** 2, range(1, $n));
echo json_encode(['sum' => array_sum($numbers), 'visits' => $_SESSION['visits'],
    'posted' => strrev($_POST['word'] ?? ''), 'sapi' => PHP_SAPI]), "\n";
END
program /zoo/ready <<'END'
#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/80
END
program /zoo/probe <<'END'
#!/usr/bin/php
<?php
$url = 'http://127.0.0.1/index.php';
echo file_get_contents("$url?n=20");
$cookie = explode(';', preg_grep('/^Set-Cookie/', $http_response_header)[array_key_first(
    preg_grep('/^Set-Cookie/', $http_response_header))])[0];
$post = ['method' => 'POST', 'content' => 'word=drawer',
    'header' => [substr($cookie, 4), 'Content-Type: application/x-www-form-urlencoded']];
echo file_get_contents("$url?n=3", false, stream_context_create(['http' => $post]));
echo $http_response_header[0], "\n", PHP_MAJOR_VERSION, "\n";
END
COMMAND=(env APACHE_RUN_USER=www-data APACHE_RUN_GROUP=www-data APACHE_PID_FILE=/run/apache2/apache2.pid
  APACHE_RUN_DIR=/run/apache2 APACHE_LOCK_DIR=/run/lock/apache2 APACHE_LOG_DIR=/var/log/apache2
  apache2 -D FOREGROUND)
expect "${COMMAND[@]}"
finish "${COMMAND[@]/#/--config.cmd=}" --config.exposedports 80/tcp --config.stopsignal SIGWINCH
