package trace_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestMain fails when the tests leave descriptors or goroutines behind.
func TestMain(m *testing.M) {
	if r, w, err := os.Pipe(); err == nil { // opens the runtime's own descriptors
		r.Close()
		w.Close()
	}
	fds, goroutines := openFds(), runtime.NumGoroutine()
	code := m.Run()
	settled := func() bool { return openFds() <= fds && runtime.NumGoroutine() <= goroutines }
	for deadline := time.Now().Add(5 * time.Second); !settled() && time.Now().Before(deadline); {
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
