package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stopLimit bounds the end by a signal. The program promises a second; the
// machine may be busy.
const stopLimit = 4 * time.Second

// tailLimit is how long a signal leaves bytes to be written to host programs.
const tailLimit = 700 * time.Millisecond

// process is the program as a process of its own, in the working directory.
type process struct {
	cmd    *exec.Cmd
	stderr lockedBuffer
	exited chan struct{}
}

// startProcess starts the program with args. Its stderr is collected unless
// prepare chooses another one.
func startProcess(t *testing.T, prepare func(*exec.Cmd), args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(self, args...), exited: make(chan struct{})}
	// The race detector would sleep for a second at the exit.
	p.cmd.Env = append(os.Environ(), asDaemon+"=1", "GORACE=atexit_sleep_ms=0")
	p.cmd.Stderr = &p.stderr
	if prepare != nil {
		prepare(p.cmd)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		p.cmd.Wait() //nolint:errcheck // the exit code tells
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-p.exited
	})
	return p
}

// startDaemon starts the program and waits until its frontend's socket s and
// the programs' socket u are there.
func startDaemon(t *testing.T, prepare func(*exec.Cmd), args ...string) *process {
	t.Helper()
	p := startProcess(t, prepare, append([]string{"--socket", "s", "--uds-path", "u"}, args...)...)
	p.await(t, "s")
	p.await(t, "u")
	return p
}

// await waits until somebody listens at path.
func (p *process) await(t *testing.T, path string) {
	t.Helper()
	waitFor(t, func() bool {
		select {
		case <-p.exited:
			t.Fatalf("exit code %d: %s", p.cmd.ProcessState.ExitCode(), p.stderr.String())
		default:
		}
		_, err := os.Stat(path)
		return err == nil
	})
}

// expectExit waits for the end.
func (p *process) expectExit(t *testing.T, code int, limit time.Duration) {
	t.Helper()
	select {
	case <-p.exited:
		if got := p.cmd.ProcessState.ExitCode(); got != code {
			t.Fatalf("exit code %d, want %d: %s", got, code, p.stderr.String())
		}
	case <-time.After(limit):
		p.cmd.Process.Signal(unix.SIGQUIT) //nolint:errcheck // shows where it is stuck
		<-p.exited
		t.Fatalf("still there after %v: %s", limit, p.stderr.String())
	}
}

// stop ends the process by a signal as it promises.
func (p *process) stop(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	p.expectExit(t, exitOK, stopLimit)
}

// expectFiles compares the names in the working directory, sorted.
func expectFiles(t *testing.T, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("files %q, want %q", got, want)
	}
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(testLimit))
	return c
}

// expectAnswer sends VHOST_USER_GET_FEATURES and checks the reply's header.
func expectAnswer(t *testing.T, frontend io.ReadWriter) {
	t.Helper()
	if _, err := frontend.Write([]byte{
		1, 0, 0, 0, // request: VHOST_USER_GET_FEATURES
		1, 0, 0, 0, // flags: version 1
		0, 0, 0, 0, // payload size
	}); err != nil {
		t.Fatal(err)
	}
	var reply [12 + 8]byte
	if _, err := io.ReadFull(frontend, reply[:]); err != nil {
		t.Fatal(err)
	}
	want := []byte{
		1, 0, 0, 0, // request
		5, 0, 0, 0, // flags: version 1, reply
		8, 0, 0, 0, // payload size
	}
	if !bytes.Equal(reply[:12], want) {
		t.Errorf("reply % x", reply[:12])
	}
}

func expectEOF(t *testing.T, r io.Reader) {
	t.Helper()
	var b [1]byte
	if n, err := r.Read(b[:]); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes, error %v; want end of file", n, err)
	}
}

// shell lets a shell script start the program; it is "$0" "$@" there.
func shell(t *testing.T, cmd *exec.Cmd, script string) {
	t.Helper()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args = append([]string{sh, "-c", script, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = sh
}

// lockedBuffer is written by one goroutine and read by another.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
