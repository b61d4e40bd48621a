package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProcessOutlivesItsStderr(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T, *exec.Cmd){
		"closed pipe": func(t *testing.T, cmd *exec.Cmd) {
			r, w := pipe(t)
			r.Close()
			cmd.Stderr = w
		},
		"full pipe": func(t *testing.T, cmd *exec.Cmd) {
			_, w := pipe(t)
			fill(t, int(w.Fd()))
			cmd.Stderr = w
		},
		"none at all": func(t *testing.T, cmd *exec.Cmd) {
			shell(t, cmd, `exec "$0" "$@" 2>&-`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inTempDir(t)
			p := startDaemon(t, func(cmd *exec.Cmd) { prepare(t, cmd) }, "--log-level", "debug")
			for range 3 {
				frontend := dial(t, "s")
				expectAnswer(t, frontend)
				frontend.Close()
			}
			p.stop(t, unix.SIGTERM)
			expectFiles(t)
		})
	}
}

func TestProcessUsageErrorWithAClosedStderr(t *testing.T) {
	inTempDir(t)
	p := startProcess(t, func(cmd *exec.Cmd) {
		r, w := pipe(t)
		r.Close()
		cmd.Stderr = w
	}, "--guest-cid", "2")
	p.expectExit(t, exitUsage, testLimit)
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// fill writes to a pipe until it takes no more.
func fill(t *testing.T, fd int) {
	t.Helper()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := unix.Write(fd, make([]byte, 4096))
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
}

func TestProcessLogsJSON(t *testing.T) {
	inTempDir(t)
	p := startDaemon(t, nil, "--log-format", "json")
	p.stop(t, unix.SIGTERM)
	for line := range strings.Lines(p.stderr.String()) {
		if !strings.HasPrefix(line, "{") {
			t.Errorf("line %q", line)
		}
	}
}
