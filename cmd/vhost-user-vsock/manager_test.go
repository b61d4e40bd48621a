package main

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watchdog is what the service manager wants to be pinged for.
const watchdog = "WATCHDOG=1"

// testManager is a service manager that is told how the program is (sd_notify(3)).
type testManager struct {
	path     string
	messages chan string
	pings    int // that came between messages
}

// startManager listens at a path, or at an abstract address.
func startManager(t *testing.T, path string) *testManager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	m := &testManager{path: path, messages: make(chan string, 1<<16)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for text := make([]byte, 4096); ; {
			n, err := conn.Read(text)
			if err != nil {
				return
			}
			m.messages <- string(text[:n])
		}
	}()
	t.Cleanup(func() { conn.Close(); <-read })
	return m
}

// of has the program started by the manager, with a watchdog.
func (m *testManager) of(watchdog time.Duration, more ...string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.path, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds()))
		cmd.Env = append(cmd.Env, more...)
	}
}

// next returns the next message that is no ping.
func (m *testManager) next(t *testing.T) string {
	t.Helper()
	for {
		select {
		case text := <-m.messages:
			if text != watchdog {
				return text
			}
			m.pings++
		case <-time.After(testLimit):
			t.Fatal("the manager is not told anything")
		}
	}
}

func (m *testManager) expect(t *testing.T, want string) {
	t.Helper()
	if got := m.next(t); got != want {
		t.Errorf("the manager is told %q, want %q", got, want)
	}
}

// expectNoMore wants a program that has ended to have said nothing more.
func (m *testManager) expectNoMore(t *testing.T) {
	t.Helper()
	c, err := net.Dial("unixgram", m.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const end = "no more"
	if _, err := c.Write([]byte(end)); err != nil {
		t.Fatal(err)
	}
	m.expect(t, end)
}

// expectReload waits for the beginning and the end of a reload.
func (m *testManager) expectReload(t *testing.T, began int64, status string) {
	t.Helper()
	var usec int64
	if _, err := fmt.Sscanf(m.next(t), "RELOADING=1\nMONOTONIC_USEC=%d\nSTATUS=reading the configuration", &usec); err != nil {
		t.Errorf("the manager is not told of the reload: %v", err)
	}
	if now := monotonic(t); usec < began || usec > now {
		t.Errorf("the reload is said to begin at %d, it did between %d and %d", usec, began, now)
	}
	m.expect(t, "READY=1\nSTATUS="+status)
}

// monotonic returns the clock in microseconds.
func monotonic(t *testing.T) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano() / 1000
}

// The manager hears from within the sandbox, wherever it listens.
func TestManagerHearsOfTheProgram(t *testing.T) {
	for name, path := range map[string]func(dir string) string{
		"path":     func(dir string) string { return filepath.Join(dir, "notify") },
		"abstract": func(dir string) string { return "@vsock" + dir },
	} {
		t.Run(name, func(t *testing.T) {
			m := startManager(t, path(inTempDir(t)))
			const runtime = "runtime-dir: .\n"
			writeConfig(t, runtime+"vms:\n"+vmA)
			p := &filed{process: startProcess(t, m.of(20*time.Millisecond), "--config", "config/f", "--metrics-addr", "127.0.0.1:0")}
			m.expect(t, "READY=1\nSTATUS=serving 1 VM")
			expectAnswer(t, dial(t, "sa"))
			p.expectStatus(t, map[string]string{"Seccomp": "2"})

			before := monotonic(t)
			p.reload(t, runtime+"vms:\n"+vmA+vmB)
			m.expectReload(t, before, "serving 2 VMs")
			before = monotonic(t)
			p.reload(t, "nonsense")
			m.expectReload(t, before, "serving 2 VMs")
			before = monotonic(t)
			taken := listenAt(t, "sc")
			p.reload(t, runtime+"vms:\n"+vmA+vmB+vmC)
			m.expectReload(t, before, "serving 2 of 3 VMs; VM c: it has failed")
			taken.Close()
			waitFor(t, func() bool { return m.ping(t) })

			p.stop(t, unix.SIGTERM)
			m.expect(t, "STOPPING=1\nSTATUS=stopping")
			m.expectNoMore(t)
		})
	}
}

// ping reports whether the manager has been pinged again.
func (m *testManager) ping(t *testing.T) bool {
	t.Helper()
	select {
	case text := <-m.messages:
		if text != watchdog {
			t.Errorf("the manager is told %q", text)
		}
		return true
	default:
		return false
	}
}

// The watchdog of another process is none of ours.
func TestManagerWatchesAnotherProcess(t *testing.T) {
	m := startManager(t, filepath.Join(inTempDir(t), "notify"))
	p := startProcess(t, m.of(2*time.Microsecond, "WATCHDOG_PID=1"), "--socket", "s", "--uds-path", "u")
	m.expect(t, "READY=1\nSTATUS=serving 1 VM")
	before := monotonic(t)
	if err := p.cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	m.expectReload(t, before, "serving 1 VM")
	p.stop(t, unix.SIGTERM)
	m.expect(t, "STOPPING=1\nSTATUS=stopping")
	m.expectNoMore(t)
	if m.pings > 0 {
		t.Errorf("%d pings", m.pings)
	}
}

// One that does not start says nothing, and one whose manager is gone goes on.
func TestManagerIsNotThere(t *testing.T) {
	t.Run("at the start", func(t *testing.T) {
		dir := inTempDir(t)
		m := &testManager{path: filepath.Join(dir, "nobody")}
		p := startProcess(t, m.of(time.Second), "--socket", "s", "--uds-path", "u")
		if log := p.expectReady(t); !strings.Contains(log, "the service manager cannot be told anything") {
			t.Errorf("log: %s", log)
		}
		p.stop(t, unix.SIGTERM)
	})
	t.Run("later", func(t *testing.T) {
		path := filepath.Join(inTempDir(t), "notify")
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		p := startProcess(t, (&testManager{path: path}).of(2*time.Millisecond), "--socket", "s", "--uds-path", "u")
		p.expectReady(t)
		conn.Close()
		waitFor(t, func() bool { return strings.Contains(p.stderr.String(), "the service manager does not take messages") })
		expectAnswer(t, dial(t, "s"))
		p.stop(t, unix.SIGTERM)
		if n := strings.Count(p.stderr.String(), "does not take messages"); n != 1 {
			t.Errorf("%d lines in the log: %s", n, p.stderr.String())
		}
	})
	t.Run("and the program does not start", func(t *testing.T) {
		m := startManager(t, filepath.Join(inTempDir(t), "notify"))
		listenAt(t, "s")
		p := startProcess(t, m.of(time.Millisecond), "--socket", "s", "--uds-path", "u")
		p.expectExit(t, exitError, testLimit)
		m.expectNoMore(t)
	})
}
