package tests

import (
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/scarce"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// A VM whose loop is stuck, here in a system call that the kernel does not end, is
// seen everywhere and costs the others nothing: the watchdog goes on, for it is theirs,
// too.
func TestSimulatedStuckVM(t *testing.T) {
	t.Parallel()
	address := "@vsock-" + t.TempDir()
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	// told waits until the service manager is told something, and returns how often it
	// was pinged until then.
	told := func(want string) (pings int) {
		t.Helper()
		manager.SetReadDeadline(time.Now().Add(patience))
		var message [4096]byte
		for {
			n, err := manager.Read(message[:])
			switch text := string(message[:n]); {
			case err != nil:
				t.Fatalf("the manager is not told %q: %v", want, err)
			case text == "WATCHDOG=1":
				pings++
			case text == want:
				return pings
			default:
				t.Fatalf("the manager is told %q, want %q", text, want)
			}
		}
	}
	kernel := scarce.New(t)
	f := vm.StartFleetBy(t, "NOTIFY_SOCKET='"+address+"' WATCHDOG_USEC=100000 "+kernel.Script(), "a", "b")
	a, b := f.Of("a"), f.Of("b")
	hostA, hostB := &host{Daemon: a, t: t, pid: f.PID()}, &host{Daemon: b, t: t, pid: f.PID()}
	told("READY=1\nSTATUS=serving 2 VMs")

	kernel.Begin(scarce.Shortage{Calls: scarce.Accept, Hold: true, Of: func(fd int) bool { return named(fd, filepath.Base(a.UDS)) }})
	defer kernel.End()
	stuck := hostA.client(t, "CONNECT 1\n")
	if told("STATUS=serving 1 of 2 VMs; VM a: its event loop does not answer") == 0 {
		t.Error("no pings")
	}
	if got := hostA.metric("vm_stuck", `vm="a"`) - hostA.metric("vm_stuck", `vm="b"`); got != 1 {
		t.Errorf("vm_stuck of a less b is %d", got)
	}
	resp, err := http.Get(strings.TrimSuffix(f.Metrics, "/metrics") + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable || string(text) != "VM a: its event loop does not answer\n" {
		t.Errorf("/healthz: %s %q, error %v", resp.Status, text, err)
	}
	hostB.boot(t).mustWork(64 * kib)

	if kernel.End() == 0 {
		t.Error("the VM was not held up")
	}
	if n, err := io.Copy(io.Discard, stuck); n != 0 || err != nil { // there is no guest
		t.Errorf("read %d bytes, error %v", n, err)
	}
	told("STATUS=serving 2 VMs")
	hostA.boot(t).mustWork(64 * kib)
}

// A VM that is to go while its loop hangs holds nobody up. It is gone, with all that it
// held, when the kernel lets it, and can come back then.
func TestSimulatedStuckVMIsRemoved(t *testing.T) {
	t.Parallel()
	kernel := scarce.New(t)
	f := vm.StartFleetBy(t, kernel.Script(), "a", "b")
	a, b := f.Of("a"), f.Of("b")
	hostA, hostB := &host{Daemon: a, t: t, pid: f.PID()}, &host{Daemon: b, t: t, pid: f.PID()}
	files := hostA.descriptors()
	hostA.boot(t).mustWork(64 * kib)

	kernel.Begin(scarce.Shortage{Calls: scarce.Accept, Hold: true, Of: func(fd int) bool { return named(fd, filepath.Base(a.UDS)) }})
	defer kernel.End()
	hostA.client(t, "CONNECT 1\n")
	hostA.await(1, "vm_stuck", `vm="a"`)
	f.Become(t, "b")
	hostB.boot(t).mustWork(64 * kib)
	f.Become(t, "b", "a") // which has to wait
	if text := f.MustCtl(t, "vms", "--json"); !strings.Contains(text, "so it is abandoned") {
		t.Errorf("ctl tells: %s", text)
	}
	hostA.await(0, "vm_up", `vm="a"`)
	hostA.await(1, "vm_stuck", `vm="a"`)

	if kernel.End() == 0 {
		t.Error("the VM was not held up")
	}
	hostA.await(1, "vm_up", `vm="a"`)
	hostA.boot(t).mustWork(64 * kib)
	f.Become(t, "c") // ends all sessions
	f.Become(t, "a", "b")
	vm.Eventually(t, patience, "no descriptor is left", func() bool { return hostA.descriptors() <= files+2 })
}
