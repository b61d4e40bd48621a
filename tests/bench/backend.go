package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// guestCID is the address of every guest.
const guestCID = 3

// backend is a program that is measured.
type backend struct {
	name    string
	command string // a shell's, with {sock} and {uds}
	ours    bool
}

// ourBackend runs a build of the daemon.
func ourBackend(name, path string) backend {
	return backend{name: name, ours: true, command: path + " --log-level warn --guest-cid 3 --socket {sock} --uds-path {uds}"}
}

// process is a running backend with sockets of its own.
type process struct {
	pid       int
	sock, uds string
}

const startLimit = 10 * time.Second

// start runs the backend until the end of tb and waits for its sockets.
func (b backend) start(tb testing.TB) *process {
	tb.Helper()
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	p := &process{sock: filepath.Join(dir, "vhost.sock"), uds: filepath.Join(dir, "vm.vsock")}
	command := strings.NewReplacer("{sock}", p.sock, "{uds}", p.uds).Replace(b.command)
	cmd := exec.Command("sh", "-c", "exec "+command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	p.pid = cmd.Process.Pid
	ended := make(chan struct{})
	go func() {
		cmd.Wait() //nolint:errcheck // it is killed
		close(ended)
	}()
	tb.Cleanup(func() {
		syscall.Kill(-p.pid, syscall.SIGKILL)
		<-ended
		if tb.Failed() {
			tb.Logf("output of %s:\n%s", b.name, out.String())
		}
	})
	vm.Eventually(tb, startLimit, b.name+" has made its sockets", func() bool {
		select {
		case <-ended:
			tb.Fatalf("%s ended at once: %s", b.name, out.String())
		default:
		}
		return exists(p.sock) && exists(p.uds)
	})
	return p
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// processor returns the time that all threads of the process have run, those that
// have ended too.
func (p *process) processor() time.Duration {
	return clock(int32(^p.pid<<3 | 2)) // MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)
}

// threadProcessor returns the time that the calling thread has run.
func threadProcessor() time.Duration { return clock(unix.CLOCK_THREAD_CPUTIME_ID) }

func clock(id int32) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}
