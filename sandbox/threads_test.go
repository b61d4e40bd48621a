package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// keptMask is how /proc shows the capabilities that are left.
func keptMask() string {
	var mask uint64
	if os.Getuid() == 0 {
		mask = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER
	}
	return fmt.Sprintf("%016x", mask)
}

// expectThreads compares lines of the status of every thread.
func expectThreads(t *testing.T, want map[string]string) {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads %v, error %v", threads, err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(status)) {
			key, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			if want, ok := want[key]; ok && value != want {
				t.Errorf("%s: %s: %s, want %s", thread, key, value, want)
			}
		}
	}
}

func TestEveryThreadIsInside(t *testing.T) {
	alone(t, func(t *testing.T) {
		// Threads that run, and that sleep, before and come to act after.
		const before = 4
		try := make(chan func(), before)
		results := make(chan error, 2*before)
		attempt := func() {
			err := error(unix.EACCES)
			if landlockABI > 0 {
				_, err = os.ReadFile(otherDir + "/" + fileName)
			}
			results <- err
			_, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			results <- err
		}
		var started [before]chan struct{}
		for i := range started {
			started[i] = make(chan struct{})
			go func() {
				runtime.LockOSThread()
				close(started[i])
				(<-try)()
			}()
			<-started[i]
		}
		enter(t)
		for range before {
			try <- attempt
		}
		denied := 0
		for range 2 * before {
			if err := <-results; err != nil {
				denied++
			}
		}
		if denied != 2*before {
			t.Errorf("%d of %d attempts denied", denied, 2*before)
		}

		none := strings.Repeat("0", 16)
		want := map[string]string{
			"NoNewPrivs": "1", "Seccomp": "2",
			"CapEff": keptMask(), "CapPrm": keptMask(), "CapInh": none, "CapAmb": none,
		}
		if os.Getuid() == 0 {
			want["CapBnd"] = none // others may not lower it
		}
		expectThreads(t, want)
	})
}
