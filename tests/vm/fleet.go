package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Fleet is a running vhost-user-vsock that serves the VMs of a configuration file, and
// those that its client adds.
type Fleet struct {
	*Daemon // without a VM of its own

	dir string
}

// StartFleet builds the daemon and starts it with VMs of these names. At the end of the
// test it must end well by SIGTERM and take its sockets with it.
func StartFleet(t TB, names ...string) *Fleet {
	t.Helper()
	return StartFleetBy(t, plainly, names...)
}

// StartFleetBy is StartFleet by a shell's script, as StartDaemonBy takes it.
func StartFleetBy(t TB, script string, names ...string) *Fleet {
	t.Helper()
	program, err := daemonProgram()
	if err != nil {
		t.Fatalf("build the daemon: %v", err)
	}
	addr := FreeAddr(t)
	f := &Fleet{Daemon: &Daemon{Metrics: "http://" + addr + "/metrics"}, dir: tempDir(t)}
	f.write(t, names)
	p := start(t, "daemon", exec.Command("sh", "-c", script, "sh", program, "--config", f.file(), "--metrics-addr", addr, "--control", f.control()))
	f.process = p
	t.Cleanup(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		if err := p.wait(t, stopLimit); err != nil {
			t.Fatalf("the daemon ended with exit code %d, want 0", exitCode(err))
		}
		if left, err := filepath.Glob(filepath.Join(f.dir, "*sock*")); len(left) > 0 || err != nil {
			t.Fatalf("the daemon leaves %q (error %v)", left, err)
		}
	})
	f.AwaitReady(t)
	return f
}

// Of is the daemon as one VM has it.
func (f *Fleet) Of(name string) *Daemon {
	return &Daemon{
		Socket:  filepath.Join(f.dir, name+".sock"),
		UDS:     filepath.Join(f.dir, name+".vsock"),
		Metrics: f.Metrics,
		process: f.process,
	}
}

// Become has the daemon serve VMs of these names instead, and waits until it does.
func (f *Fleet) Become(t TB, names ...string) {
	t.Helper()
	const applied = "vhost_user_vsock_reloads_total"
	before := f.Scrape(t).Sum(applied, `result="applied"`)
	f.write(t, names)
	f.Reload()
	Eventually(t, startLimit, "the configuration was read again", func() bool {
		return f.Scrape(t).Sum(applied, `result="applied"`) == before+1
	})
}

// Ctl runs a command of the daemon's client and returns what it prints. It may be called
// off the test's goroutine.
func (f *Fleet) Ctl(args ...string) (string, error) {
	program, err := daemonProgram()
	if err != nil {
		return "", err
	}
	out, err := exec.Command(program, append([]string{"ctl", "--control", f.control()}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ctl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// MustCtl is Ctl for a command that has to succeed.
func (f *Fleet) MustCtl(t TB, args ...string) string {
	t.Helper()
	out, err := f.Ctl(args...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return out
}

func (f *Fleet) control() string { return filepath.Join(f.dir, "control.sock") }

func (f *Fleet) file() string { return filepath.Join(f.dir, "config.yaml") }

// write replaces the file. The guest of each VM has the CID GuestCID: VMs share none of
// their addresses.
func (f *Fleet) write(t TB, names []string) {
	t.Helper()
	var text strings.Builder
	text.WriteString("vms:\n")
	for _, name := range names {
		d := f.Of(name)
		fmt.Fprintf(&text, "- name: %s\n  guest-cid: %d\n  socket: %s\n  uds-path: %s\n", name, GuestCID, d.Socket, d.UDS)
	}
	next := f.file() + ".new"
	err := os.WriteFile(next, []byte(text.String()), 0o600)
	if err == nil {
		err = os.Rename(next, f.file())
	}
	if err != nil {
		t.Fatalf("%v", err)
	}
}
