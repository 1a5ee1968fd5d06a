. ./zoo.sh
from_base
# Debian's package writes manual pages' links.
mkdir -p bundle/rootfs/usr/share/man/man1
install openjdk-17-jdk-headless
JAVA=/usr/lib/jvm/java-17-openjdk-amd64
rm -rf "bundle/rootfs$JAVA/jmods" "bundle/rootfs$JAVA/lib/ct.sym" bundle/rootfs/usr/share/icons
program /zoo/Main.java <<'END'
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.IntStream;

public class Main {
    record Word(String text, int length) {}

    public static void main(String[] words) throws Exception {
        Map<Integer, Word> sorted = new TreeMap<>();
        for (String word : words) sorted.put(word.length(), new Word(word, word.length()));
        System.out.println(sorted.values());
        var pool = Executors.newFixedThreadPool(2);
        Future<Integer> sum = pool.submit(() -> IntStream.range(0, 100_000).parallel().map(n -> n % 7).sum());
        System.out.println(sum.get());
        pool.shutdown();
        // More than the heap holds at once.
        long total = 0;
        for (int i = 0; i < 200; i++) total += new byte[1 << 20].length;
        System.out.println(total);
        System.exit(5);
    }
}
END
program /zoo/probe <<'END'
#!/bin/sh -e
cd /tmp
javac -d classes /zoo/Main.java
java -Xmx64m -cp classes Main three letters word || echo status $?
java -Xmx64m /zoo/Main.java a single file || echo status $?
END
expect
finish --config.cmd sleep --config.cmd 1000000 --config.env "JAVA_HOME=$JAVA"
