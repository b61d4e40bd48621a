package vm

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// Daemon is a running vhost-user-vsock with sockets of its own.
type Daemon struct {
	Socket  string // --socket
	UDS     string // --uds-path
	Metrics string // URL

	program func() (string, error)
	process *process
}

// GuestCID is the address of the daemon's guest.
const GuestCID = 3

const (
	startLimit = 10 * time.Second
	stopLimit  = 5 * time.Second // it promises 1 s; the machine may be busy
)

// StartDaemon builds the daemon, starts it with further arguments and waits until it is
// ready; --guest-cid among them replaces GuestCID. At the end of the test it must end
// well by SIGTERM.
func StartDaemon(t TB, args ...string) *Daemon {
	t.Helper()
	d := newDaemon(t, daemonProgram)
	d.start(t, plainly, args...)
	d.AwaitReady(t)
	return d
}

// plainly is a script for StartDaemonBy that changes nothing.
const plainly = `exec "$@"`

// StartDaemonBy is StartDaemon by a shell's script, which executes "$@" under limits
// or with files of its own. It waits for the sockets only: the script may have taken
// the log away.
func StartDaemonBy(t TB, script string, args ...string) *Daemon {
	t.Helper()
	return startDaemonBy(t, daemonProgram, script, args...)
}

// StartRaceDaemonBy is StartDaemonBy under the race detector: a race is in the daemon's
// output, and has it end badly.
func StartRaceDaemonBy(t TB, script string, args ...string) *Daemon {
	t.Helper()
	return startDaemonBy(t, raceDaemon, script, args...)
}

func startDaemonBy(t TB, program func() (string, error), script string, args ...string) *Daemon {
	t.Helper()
	d := newDaemon(t, program)
	d.start(t, script, args...)
	Eventually(t, startLimit, "the daemon's sockets exist", func() bool {
		select {
		case <-d.process.exited:
			t.Fatalf("the daemon ended: %v\n%s", d.process.err, d.process.out.text())
		default:
		}
		return exists(d.Socket) && exists(d.UDS) && exists(d.UDS+seqpacketSuffix)
	})
	return d
}

// Restart kills the daemon, which leaves its sockets in the file system, and starts it
// with these further arguments.
func (d *Daemon) Restart(t TB, args ...string) {
	t.Helper()
	d.process.kill()
	d.start(t, plainly, args...)
	d.AwaitReady(t)
}

func newDaemon(t TB, program func() (string, error)) *Daemon {
	t.Helper()
	dir := tempDir(t)
	return &Daemon{Socket: filepath.Join(dir, "vhost.sock"), UDS: filepath.Join(dir, "vm.vsock"), program: program}
}

func (d *Daemon) start(t TB, script string, args ...string) {
	t.Helper()
	program, err := d.program()
	if err != nil {
		t.Fatalf("build the daemon: %v", err)
	}
	addr := FreeAddr(t)
	d.Metrics = "http://" + addr + "/metrics"
	if !slices.Contains(args, "--guest-cid") {
		args = append(args, "--guest-cid", strconv.Itoa(GuestCID))
	}
	args = append(args, "--socket", d.Socket, "--uds-path", d.UDS, "--metrics-addr", addr)
	p := start(t, "daemon", exec.Command("sh", append([]string{"-c", script, "sh", program}, args...)...))
	d.process = p
	t.Cleanup(func() {
		if d.process == p { // else Restart killed it
			d.stop(t)
		}
	})
}

// AwaitReady waits until the daemon says that it is ready.
func (d *Daemon) AwaitReady(t TB) {
	t.Helper()
	if _, ok := d.process.out.await("msg=ready", 1, startLimit); !ok {
		t.Fatalf("the daemon is not ready:\n%s", d.process.out.text())
	}
}

// PID is the daemon's process.
func (d *Daemon) PID() int { return d.process.cmd.Process.Pid }

// Abort has the daemon end badly, with the stacks of all its goroutines in its output.
func (d *Daemon) Abort() { d.process.cmd.Process.Signal(syscall.SIGQUIT) }

// Reload has the daemon read again what it reads at SIGHUP.
func (d *Daemon) Reload() { d.process.cmd.Process.Signal(syscall.SIGHUP) }

// stop ends the daemon as an operator does; a failed test wants its metrics first.
func (d *Daemon) stop(t TB) {
	t.Helper()
	if t.Failed() {
		samples, err := d.Samples()
		t.Logf("metrics (error %v):\n%v", err, samples)
	}
	d.process.cmd.Process.Signal(syscall.SIGTERM)
	if err := d.process.wait(t, stopLimit); err != nil {
		t.Fatalf("the daemon ended with exit code %d, want 0", exitCode(err))
	}
	if exists(d.Socket) || exists(d.UDS) || exists(d.UDS+seqpacketSuffix) {
		t.Fatalf("the daemon left its sockets behind")
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// tempDir makes a directory whose name leaves room for socket names (108 bytes).
func tempDir(t TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vsock")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// FreeAddr picks a TCP address that nobody uses at this moment.
func FreeAddr(t TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer l.Close()
	return l.Addr().String()
}
