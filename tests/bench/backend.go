package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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
	program string // a shell's command with flags
	one     string // what follows if it is to serve one VM, with {sock} and {uds}
	each    string // what follows for each VM of several, with {name} too; empty: it serves one
	ours    bool   // it is a daemon of this tree, of whatever build

	// It runs in the session of the bench, as it does in that of a shell that starts the
	// VMM, too. A service manager gives both a session or control group of their own, and
	// Linux shares processors between these first.
	inSession bool
}

// daemon is a build of ours; path may have flags behind it.
func daemon(name, path string) backend {
	return backend{
		name: name, ours: true, program: path + " --log-level warn",
		one:  " --guest-cid 3 --socket {sock} --uds-path {uds}",
		each: " --vm name={name},guest-cid=3,socket={sock},uds-path={uds}",
	}
}

// with returns the backend with the value for a flag, whatever it was given, if it is ours.
func (b backend) with(flag, value string) backend {
	if b.ours {
		given := regexp.MustCompile(" " + flag + `[ =]\S+`)
		b.program = given.ReplaceAllLiteralString(b.program, "") + " " + flag + " " + value
	}
	return b
}

// process is a running backend, as one VM sees it.
type process struct {
	pid       int
	sock, uds string
}

const startLimit = 10 * time.Second

// start runs the backend for n VMs until the end of tb and waits for their sockets.
func (b backend) start(tb testing.TB, n int) (vms []*process) {
	tb.Helper()
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	command, each := b.program, b.one
	if n > 1 {
		each = b.each
	}
	for i := range n {
		name := fmt.Sprintf("vm%d", i)
		p := &process{sock: filepath.Join(dir, name+".sock"), uds: filepath.Join(dir, name+".vsock")}
		command += strings.NewReplacer("{name}", name, "{sock}", p.sock, "{uds}", p.uds).Replace(each)
		vms = append(vms, p)
	}
	cmd := exec.Command("sh", "-c", "exec "+command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: !b.inSession, Setpgid: b.inSession}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	pid := cmd.Process.Pid
	ended := make(chan struct{})
	go func() {
		cmd.Wait() //nolint:errcheck // it is killed
		close(ended)
	}()
	tb.Cleanup(func() {
		syscall.Kill(-pid, syscall.SIGKILL)
		<-ended
		if tb.Failed() && out.Len() > 0 {
			tb.Logf("output of %s:\n%s", b.name, out.String())
		}
	})
	vm.Eventually(tb, startLimit, b.name+" has made its sockets", func() bool {
		select {
		case <-ended:
			tb.Fatalf("%s ended at once: %s", b.name, out.String())
		default:
		}
		return !slices.ContainsFunc(vms, func(p *process) bool { return !exists(p.sock) || !exists(p.uds) })
	})
	for _, p := range vms {
		p.pid = pid
	}
	return vms
}

// connect returns a connection of a frontend. The socket's file is there before it
// listens.
func (p *process) connect(tb testing.TB) int {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal("socket:", err)
	}
	vm.Eventually(tb, startLimit, "the backend listens", func() bool {
		return unix.Connect(fd, &unix.SockaddrUnix{Name: p.sock}) == nil
	})
	return fd
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

// resident returns how many bytes of memory the process has, without its guests'
// (RssAnon and RssFile of /proc/PID/status).
func (p *process) resident(tb testing.TB) int {
	tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		tb.Fatal(err)
	}
	sum := 0
	for _, field := range []string{"RssAnon", "RssFile"} {
		_, line, _ := strings.Cut(string(status), "\n"+field+":")
		var n int
		if _, err := fmt.Sscanf(line, "%d kB", &n); err != nil {
			tb.Fatalf("%s in /proc/PID/status: %v", field, err)
		}
		sum += n * kib
	}
	return sum
}

func clock(id int32) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}
