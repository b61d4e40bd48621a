package hostsock_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain fails when a test leaves a descriptor or a goroutine behind.
func TestMain(m *testing.M) {
	goroutines, before := runtime.NumGoroutine(), descriptors()
	code := m.Run()
	after := descriptors()
	maps.DeleteFunc(after, func(fd, _ string) bool { _, ok := before[fd]; return ok })
	if len(after) > 0 {
		fmt.Fprintln(os.Stderr, "descriptors left open:", slices.Sorted(maps.Values(after)))
		code = 1
	}
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines && time.Now().Before(end); {
		time.Sleep(time.Millisecond) // one that was joined may still be on its way out
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		fmt.Fprintf(os.Stderr, "%d goroutines, %d before the tests\n", n, goroutines)
		code = 1
	}
	os.Exit(code)
}

// descriptors returns what is open, by number, but for the Go runtime's own.
func descriptors() map[string]string {
	open := make(map[string]string)
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		target, err := os.Readlink(link)
		if err == nil && !strings.HasPrefix(target, "anon_inode:[event") {
			open[filepath.Base(link)] = target
		}
	}
	return open
}
