package daemon

import (
	"context"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

// hang has the VM's loop hang until lift.
func hang(t *testing.T, v *vm) (lift func()) {
	t.Helper()
	entered, release := make(chan struct{}), make(chan struct{})
	v.loop.Do(func() { close(entered); <-release })
	<-entered
	return func() { close(release) }
}

// filedBesideControl has the configuration file f, with these VMs, and a control socket.
func filedBesideControl(t *testing.T, vms string) (d *daemon, signals chan os.Signal, result chan error) {
	t.Helper()
	f := t.TempDir() + "/f"
	writeVMs(t, f, vms)
	return startInProcess(t, "--control", "control", "--config", f)
}

func writeVMs(t *testing.T, f, vms string) {
	t.Helper()
	if err := os.WriteFile(f, []byte("vms: ["+vms+"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// reloadVMs has the program go by a file with these VMs.
func (d *daemon) reloadVMs(t *testing.T, vms string) {
	t.Helper()
	applied := d.stats.applied.Load()
	writeVMs(t, d.cfg.File, vms)
	d.reload()
	if d.stats.applied.Load() == applied {
		t.Fatal("the reload was refused")
	}
}

const (
	fileA = "{name: a, guest-cid: 3, socket: sa, uds-path: ua}"
	fileB = "{name: b, guest-cid: 4, socket: sb, uds-path: ub}"
	fileC = "{name: c, guest-cid: 5, socket: sc, uds-path: uc}"
)

// traced returns a VM of a file with its packets recorded.
func traced(vm, path string) string { return strings.Replace(vm, "}", ", trace-packets: "+path+"}", 1) }

// states tells of each VM how it is: "a: failed, b: waiting".
func states(d *daemon) string {
	var all []string
	for _, vm := range d.fleet.describe() {
		all = append(all, vm.Name+": "+string(vm.State))
	}
	return strings.Join(all, ", ")
}

func expectStates(t *testing.T, d *daemon, want string) {
	t.Helper()
	if got := states(d); got != want {
		t.Errorf("VMs %q, want %q", got, want)
	}
}

// A VM that is removed while its loop hangs is abandoned: that is seen everywhere, all
// else goes on, and what it has stays its own until the hang ends.
func TestRemovalOfAStuckVM(t *testing.T) {
	d, signals, result := startInProcess(t, twoBesideControl...)
	c := newClient(t)
	lift := hang(t, d.fleet.named("a"))
	const words = "VM a: its event loop does not answer, so it is abandoned"
	for range 2 { // who asks again learns the same
		expectStatus(t, c.Remove(t.Context(), "a"), http.StatusServiceUnavailable, "its name and paths are taken until it has ended")
	}
	_, err := c.Drain(t.Context(), "a", 0)
	expectStatus(t, err, http.StatusServiceUnavailable, "abandoned")
	expectFiles(t, "control", "sb", "ub", "ub_seqpacket")
	expectStates(t, d, "a: failed, b: waiting")
	if a, err := c.VM(t.Context(), "a"); err != nil || !strings.Contains(a.Error, "abandoned") {
		t.Errorf("a: %+v, error %v", a, err)
	}
	if list, err := c.Connections(t.Context(), ""); err != nil || !slices.Equal(list.Unanswered, []string{"a"}) {
		t.Errorf("connections: %+v, error %v", list, err)
	}
	_, err = c.Connections(t.Context(), "a")
	expectStatus(t, err, http.StatusServiceUnavailable, "does not answer")
	if code, body := get(t, d.http, "/healthz"); code != http.StatusServiceUnavailable || body != words+"\n" {
		t.Errorf("/healthz: %d %q", code, body)
	}
	if got := status(d.fleet.list()); got != "serving 1 of 2 VMs; "+words {
		t.Errorf("status %q", got)
	}
	never, cancel := context.WithCancel(t.Context())
	cancel()
	if a := d.fleet.named("a"); !slices.Contains(examine(never, d.fleet.list()), a) {
		t.Error("it does not count as stuck any more")
	}
	_, body := get(t, d.http, "/metrics")
	for _, want := range []string{`vm_up{vm="a"} 0`, `vm_stuck{vm="a"} 1`, `vm_failures_total{vm="a"} 1`, `vm_up{vm="b"} 1`} {
		if !strings.Contains(body, "\nvhost_user_vsock_"+want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}

	for keys, words := range map[string]string{
		`{"name":"a","socket":"sc","uds-path":"uc"}`:    `name "a"`,
		`{"name":"c","socket":"sa","uds-path":"uc"}`:    "VM a is abandoned and has not ended",
		`{"name":"c","socket":"sc","uds-path":"ua"}`:    "VM a is abandoned and has not ended",
		`{"name":"c","socket":"ua_22","uds-path":"uc"}`: "VM a is abandoned and has not ended",
	} {
		_, err := c.Add(t.Context(), control.Keys(keys))
		expectStatus(t, err, http.StatusConflict, words)
	}
	if _, err := c.Add(t.Context(), control.Keys(keysC)); err != nil {
		t.Error(err)
	}
	if err := c.Remove(t.Context(), "c"); err != nil {
		t.Error(err)
	}

	lift()
	waitFor(t, func() bool { return states(d) == "b: waiting" })
	if _, err := c.Add(t.Context(), control.Keys(`{"name":"a","socket":"sa","uds-path":"ua"}`)); err != nil {
		t.Error(err)
	}
	expectStates(t, d, "b: waiting, a: waiting")
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
	expectFiles(t)
}

// An abandoned VM holds as many descriptors as it ever did.
func TestAbandonedVMKeepsItsShareOfDescriptors(t *testing.T) {
	d, signals, result := startInProcess(t, twoBesideControl...)
	d.fleet.files = 500
	v := d.fleet.named("a")
	lift := hang(t, v)
	v.giveUp()
	if _, err := d.fleet.dismiss(v); err == nil {
		t.Error("removed")
	}
	limit := func() int64 { return d.fleet.named("b").stats.maxConnections.Load() }
	if n := limit(); n != 106 { // (500 - 64 - 2*112) / 2
		t.Errorf("limit %d beside it", n)
	}
	lift()
	waitFor(t, func() bool { return limit() == 324 }) // 500 - 64 - 112
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
}

// A reload that removes a stuck VM does the rest, and one that wants it back has it
// begin anew when the hang ends.
func TestReloadRemovesAStuckVM(t *testing.T) {
	tracedA := traced(fileA, "ta")
	d, signals, result := filedBesideControl(t, tracedA+","+fileB)
	a := d.fleet.named("a")
	lift := hang(t, a)
	d.reloadVMs(t, fileC)
	expectStates(t, d, "a: failed, c: waiting")
	d.reloadVMs(t, fileC+",{name: d, socket: sd, uds-path: ua}") // in the way of a's
	expectStates(t, d, "a: failed, c: waiting, d: failed")
	d.reloadVMs(t, tracedA+","+fileC)
	d.reloadVMs(t, tracedA+","+fileC) // and once more
	writeVMs(t, d.cfg.File, traced(fileC, "ta"))
	if d.reload(); d.stats.refused.Load() != 1 {
		t.Error("another VM gets its trace")
	}
	expectStates(t, d, "a: failed, c: waiting")
	expectFiles(t, "control", "sc", "ta", "uc", "uc_seqpacket")

	lift()
	waitFor(t, func() bool { return states(d) == "c: waiting, a: waiting" })
	if b := d.fleet.named("a"); b == a || b.origin != control.FromConfig {
		t.Errorf("a is not new, or came from %q", b.origin)
	}
	expectFiles(t, "control", "sa", "sc", "ta", "ta.old", "ua", "ua_seqpacket", "uc", "uc_seqpacket")
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
	expectFiles(t, "ta", "ta.old")
}

// A stuck VM that was wanted back, and then was not, does not come back. One that
// failed for its sake does.
func TestReloadAfterAnAbandonedVM(t *testing.T) {
	d, signals, result := filedBesideControl(t, fileA)
	lift := hang(t, d.fleet.named("a"))
	d.reloadVMs(t, "")
	d.reloadVMs(t, fileA)
	const inTheWay = "{name: d, socket: sd, uds-path: ua}"
	d.reloadVMs(t, inTheWay)
	expectStates(t, d, "a: failed, d: failed")
	lift()
	waitFor(t, func() bool { return states(d) == "d: waiting" })
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
	expectFiles(t)
}

// One that was added is not taken for one that stays.
func TestReloadForgetsAnAbandonedVMThatWasAdded(t *testing.T) {
	d, signals, result := filedBesideControl(t, fileB)
	c := newClient(t)
	if _, err := c.Add(t.Context(), control.Keys(keysC)); err != nil {
		t.Fatal(err)
	}
	lift := hang(t, d.fleet.named("c"))
	expectStatus(t, c.Remove(t.Context(), "c"), http.StatusServiceUnavailable, "abandoned")
	d.reloadVMs(t, fileB)
	expectStates(t, d, "b: waiting, c: failed")
	lift()
	waitFor(t, func() bool { return states(d) == "b: waiting" })
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
}

// A VM whose loop hangs after it let its frontend go, to be replaced.
func TestReplacementOfAStuckVM(t *testing.T) {
	d, signals, result := filedBesideControl(t, fileA)
	a := d.fleet.named("a")
	d.fleet.changing.Lock()
	cfg := a.cfg
	cfg.Packed = true
	a.replaceBy(&cfg, []string{"packed"}) // nobody is there
	lift := hang(t, a)
	d.fleet.changing.Unlock()
	waitFor(t, func() bool { return states(d) == "a: failed" })
	lift()
	waitFor(t, func() bool { return states(d) == "a: waiting" })
	if !d.fleet.named("a").cfg.Packed {
		t.Error("it is what it was")
	}
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
}

// A VM that has nothing more to do and cannot end either.
func TestEndOfAStuckVM(t *testing.T) {
	d, signals, result := startInProcess(t, twoBesideControl...)
	a := d.fleet.named("a")
	lift := hang(t, a)
	a.giveUp()
	a.isOver()
	waitFor(t, func() bool { return states(d) == "a: failed, b: waiting" })
	lift()
	waitFor(t, func() bool { return states(d) == "b: waiting" })
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
	expectFiles(t)
}

// The program does not wait for a loop that hangs, nor for a drain of its VM.
func TestDaemonEndsBesideAStuckVM(t *testing.T) {
	d, signals, result := startInProcess(t, twoBesideControl...)
	a := d.fleet.named("a")
	lift := hang(t, a)
	if _, err := d.fleet.drain(a, 0); err != nil {
		t.Fatal(err)
	}
	signals <- unix.SIGTERM
	expectEnd(t, result, errAbandoned)
	expectFiles(t)
	lift()
	<-a.done
}

// A reload that has a stuck VM's packets recorded elsewhere goes on, and no trace stays
// open when the hang ends.
func TestReloadTracesAStuckVM(t *testing.T) {
	d, signals, result := filedBesideControl(t, traced(fileA, "t1"))
	lift := hang(t, d.fleet.named("a"))
	d.reloadVMs(t, traced(fileA, "t2")+","+fileB)
	expectStates(t, d, "a: waiting, b: waiting")
	lift()
	signals <- unix.SIGTERM
	expectEnd(t, result, nil)
	expectFiles(t, "t1", "t2")
}
