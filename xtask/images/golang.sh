. ./zoo.sh
from_base
install golang-go
# Without what only other programs than a compilation read: libraries for the race detector and for
# plug-ins, tests, and further tools.
cd bundle/rootfs/usr/lib/go-1.19
rm -rf pkg/linux_amd64_* api test doc misc
find pkg/tool -type f ! -name asm ! -name buildid ! -name cgo ! -name compile ! -name link -delete
cd ../../share/go-1.19
rm -rf api test doc misc
find src -name '*_test.go' -delete
find src -name testdata -prune -exec rm -rf {} +
cd "$OLDPWD/../../../../.."
program /zoo/module/main.go <<'END'
package main

import (
	"errors"
	"fmt"
	"os"
	"sort"
	"sync"
	"time"
)

func main() {
	var group sync.WaitGroup
	squares := make(chan int, 100)
	for n := 1; n <= 100; n++ {
		group.Add(1)
		go func(n int) { defer group.Done(); squares <- n * n }(n)
	}
	group.Wait()
	close(squares)
	var all []int
	for square := range squares {
		all = append(all, square)
	}
	sort.Ints(all)
	fmt.Println(len(all), all[:5], all[99])
	_, err := os.Open("/nowhere")
	fmt.Println(errors.Is(err, os.ErrNotExist), err)
	select {
	case <-time.After(10 * time.Millisecond):
		fmt.Println("in time")
	}
	defer fmt.Println(recover())
	os.Exit(6)
}
END
echo 'module zoo' >bundle/rootfs/zoo/module/go.mod
program /zoo/probe <<'END'
#!/bin/sh -e
export GOPROXY=off GOFLAGS=-mod=mod GOCACHE=/tmp/cache
cd /zoo/module
go version
go build -o /tmp/program .
/tmp/program || echo status $?
END
expect
finish --config.cmd sleep --config.cmd 1000000
