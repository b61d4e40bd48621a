package muxer_test

import (
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestMain fails when the tests leave descriptors or goroutines behind.
func TestMain(m *testing.M) {
	flag.Parse()
	fuzzing := flag.Lookup("test.fuzz").Value.String() != ""
	if !fuzzing { // most tests only wait: for two seconds, say
		flag.Set("test.parallel", "32")
	}
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil { // opens the runtime's own descriptors
		l.Close()
	}
	fds, goroutines := openFds(), runtime.NumGoroutine()
	code := m.Run()
	if fuzzing {
		os.Exit(code) // the coordinator leaves a goroutine of its own
	}
	// Deadlines of the last connections may be on their way out.
	settled := func() bool { return openFds() <= fds && runtime.NumGoroutine() <= goroutines }
	for deadline := time.Now().Add(2 * time.Second); !settled() && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if !settled() {
		fmt.Fprintf(os.Stderr, "descriptors: %d before, %d after; goroutines: %d before, %d after\n",
			fds, openFds(), goroutines, runtime.NumGoroutine())
		code = 1
	}
	os.Exit(code)
}

// openFds returns how many descriptors the process has.
func openFds() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}
