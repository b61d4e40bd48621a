package daemon

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	files, goroutines := openFiles(), runtime.NumGoroutine()
	code := m.Run()
	if code == 0 {
		code = checkLeaks(files, goroutines)
	}
	os.Exit(code)
}

// checkLeaks returns 1 if descriptors or goroutines of the tests stay.
func checkLeaks(files, goroutines int) int {
	var filesNow, goroutinesNow int
	for end := time.Now().Add(testLimit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		filesNow, goroutinesNow = openFiles(), runtime.NumGoroutine()
		if filesNow <= files && goroutinesNow <= goroutines {
			return 0
		}
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	fmt.Fprintf(os.Stderr, "left behind: %d files, %d goroutines\n%s\n", filesNow-files, goroutinesNow-goroutines, stacks)
	return 1
}

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(entries)
}

// waitFor polls until a condition holds.
func waitFor(t *testing.T, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(testLimit); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen in time")
		}
	}
}
