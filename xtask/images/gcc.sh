. ./zoo.sh
from_base
install gcc libc6-dev
# Neither link-time optimization nor sanitizers: they are most of the package.
cd bundle/rootfs/usr/lib/gcc/x86_64-linux-gnu/12
rm -f lto1 ./*san* ../../../x86_64-linux-gnu/lib*san.so*
cd "$OLDPWD"
program /zoo/main.c <<'END'
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static _Thread_local int here;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long sum;

static void *add(void *from) {
    for (here = 0; here < 1000; here++) {
        pthread_mutex_lock(&lock);
        sum += here + (long)from;
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

int main(void) {
    pthread_t threads[4];
    for (long i = 0; i < 4; i++) pthread_create(&threads[i], NULL, add, (void *)i);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    printf("%ld %d %.15g\n", sum, __GNUC__, sqrt(2));
    fflush(stdout);
    int status = 0;
    if (fork() == 0) _exit(7);
    wait(&status);
    return WEXITSTATUS(status);
}
END
program /zoo/probe <<'END'
#!/bin/sh -e
cd /tmp
gcc -O2 -Wall -Werror -pthread -o dynamic /zoo/main.c -lm
./dynamic || echo status $?
gcc -static -pthread -o static /zoo/main.c -lm
./static || echo status $?
objdump -d dynamic | grep -c '<main>:'
END
expect
finish --config.cmd sleep --config.cmd 1000000
