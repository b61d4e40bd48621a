package main

import (
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestProcessEndsBySignal(t *testing.T) {
	for _, signal := range []syscall.Signal{unix.SIGTERM, unix.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			inTempDir(t)
			p := startDaemon(t, nil)
			expectFiles(t, "s", "u", "u_seqpacket")
			frontend, program := dial(t, "s"), dial(t, "u")
			expectAnswer(t, frontend)
			if _, err := io.WriteString(program, "CONNECT 1\n"); err != nil {
				t.Fatal(err)
			}
			p.stop(t, signal)
			expectFiles(t)
			expectEOF(t, program)
			expectEOF(t, frontend)
		})
	}
}

func TestProcessServesOneFrontendAfterAnother(t *testing.T) {
	inTempDir(t)
	p := startDaemon(t, nil)
	for range 3 {
		frontend := dial(t, "s")
		expectAnswer(t, frontend)
		frontend.Close()
	}
	p.stop(t, unix.SIGTERM)
}

func TestProcessReplacesStaleSockets(t *testing.T) {
	inTempDir(t)
	for _, path := range []string{"s", "u"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	p := startProcess(t, nil, "--socket", "s", "--uds-path", "u")
	waitFor(t, func() bool {
		c, err := net.Dial("unix", "s")
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(testLimit))
		expectAnswer(t, c)
		return true
	})
	p.stop(t, unix.SIGTERM)
	expectFiles(t)
}

func TestProcessLeavesALiveSocketAlone(t *testing.T) {
	inTempDir(t)
	first := startDaemon(t, nil)
	second := startProcess(t, nil, "--socket", "s", "--uds-path", "u2")
	second.expectExit(t, exitError, testLimit)
	if text := second.stderr.String(); !strings.Contains(text, "--socket") || !strings.Contains(text, "listening") {
		t.Errorf("stderr: %s", text)
	}
	third := startProcess(t, nil, "--socket", "s2", "--uds-path", "u")
	third.expectExit(t, exitError, testLimit)
	if text := third.stderr.String(); !strings.Contains(text, "--uds-path") {
		t.Errorf("stderr: %s", text)
	}
	expectFiles(t, "s", "u", "u_seqpacket")
	expectAnswer(t, dial(t, "s"))
	first.stop(t, unix.SIGTERM)
}

func TestProcessLeavesOtherFilesAlone(t *testing.T) {
	inTempDir(t)
	if err := os.WriteFile("s", []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, nil, "--socket", "s", "--uds-path", "u")
	p.expectExit(t, exitError, testLimit)
	expectFiles(t, "s")
	if text, err := os.ReadFile("s"); err != nil || string(text) != "precious" {
		t.Errorf("content %q, error %v", text, err)
	}
}

func TestProcessSocketModes(t *testing.T) {
	inTempDir(t)
	p := startDaemon(t, nil, "--uds-mode", "0660")
	for path, want := range map[string]os.FileMode{"s": 0o600, "u": 0o660, "u_seqpacket": 0o660} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
	}
	p.stop(t, unix.SIGTERM)
}

func TestProcessAddressInUseMakesNoSockets(t *testing.T) {
	inTempDir(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addr := taken.Addr().String()
	p := startProcess(t, nil, "--socket", "s", "--uds-path", "u", "--metrics-addr", addr)
	p.expectExit(t, exitError, testLimit)
	expectFiles(t)
	if text := p.stderr.String(); !strings.Contains(text, addr) || !strings.Contains(text, "address already in use") {
		t.Errorf("stderr: %s", text)
	}
}

func TestProcessLowersConnectionsToTheFileLimit(t *testing.T) {
	inTempDir(t)
	p := startDaemon(t, func(cmd *exec.Cmd) { shell(t, cmd, `ulimit -Sn 200 && ulimit -Hn 300 && exec "$0" "$@"`) })
	p.stop(t, unix.SIGTERM)
	if got := strings.Count(p.stderr.String(), "max_connections=124"); got != 1 {
		t.Errorf("%d warnings: %s", got, p.stderr.String())
	}
}

func TestProcessRefusesAFileLimitWithoutRoom(t *testing.T) {
	inTempDir(t)
	p := startProcess(t, func(cmd *exec.Cmd) { shell(t, cmd, `ulimit -n 100 && exec "$0" "$@"`) }, "--socket", "s", "--uds-path", "u")
	p.expectExit(t, exitError, testLimit)
	expectFiles(t)
	if text := p.stderr.String(); !strings.Contains(text, "100 open files") {
		t.Errorf("stderr: %s", text)
	}
}
