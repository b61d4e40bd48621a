package cloudhypervisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// Connections can be lost behind the guest's back: when the daemon starts anew under a
// running machine, and when a machine goes on from a snapshot or in another place. The
// event ring tells the guest then (virtio v1.4 §5.10.6.7), which drops them; new ones work.

// open makes connections of both kinds, all of which carry bytes.
func (l lab) open(t *testing.T) []*net.UnixConn {
	t.Helper()
	var conns []*net.UnixConn
	for range 5 {
		conns = append(conns, l.dial(t, echo), l.dialled(t))
	}
	for _, c := range conns {
		mustPing(t, c)
	}
	return conns
}

// lost waits until the guest was told for the n-th time, and returns how many connections
// it lost by that; its address is cid then.
func (l lab) lost(t *testing.T, n, cid int) (conns int) {
	t.Helper()
	got := l.AwaitLine(t, "guest: transport reset", n)
	var now int
	if _, err := fmt.Sscanf(got, "guest: transport reset, cid %d, %d connections lost", &now, &conns); err != nil || now != cid {
		t.Errorf("the guest says %q, want cid %d", got, cid)
	}
	return conns
}

// mustHaveLost is for a guest that sent nothing meanwhile.
func (l lab) mustHaveLost(t *testing.T, n, conns, cid int) {
	t.Helper()
	if got := l.lost(t, n, cid); got != conns {
		t.Errorf("the guest lost %d connections, want %d", got, conns)
	}
}

// mustBeLost is for a guest some of whose connections were reset one by one before:
// because it sent on them, or because it may have opened them just then.
func (l lab) mustBeLost(t *testing.T, n, conns, cid int) {
	t.Helper()
	if got := l.lost(t, n, cid); got > conns {
		t.Errorf("the guest lost %d connections of %d", got, conns)
	}
}

// load is transfers that do not come to their end.
type load struct {
	conns int
	ended chan error
}

func (l lab) load(t *testing.T) load {
	t.Helper()
	const endless = 4 << 20 // on each, the guest takes minutes
	bytes, echoes := pattern(endless), l.open(t)
	var discards []*net.UnixConn
	for range echoes {
		discards = append(discards, l.dial(t, discard))
	}
	conns := len(echoes) + len(discards)
	ld := load{conns, make(chan error, conns)}
	for _, c := range echoes {
		go func() { ld.ended <- exchange(c, bytes) }()
	}
	for _, c := range discards {
		go func() {
			_, err := c.Write(bytes)
			ld.ended <- err
		}()
	}
	return ld
}

// mustEnd fails unless each transfer was broken off.
func (ld load) mustEnd(t *testing.T) {
	t.Helper()
	for range ld.conns {
		if err := <-ld.ended; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection of before: %v", err)
		}
	}
}

// cloud-hypervisor has a ring whose driver took VIRTIO_F_IN_ORDER go on at the used index,
// and else at the available one, behind what is in flight.
func TestCloudHypervisorOutlivesTheDaemon(t *testing.T) {
	for name, words := range map[string]string{"base is the available index": "", "base is the used index": "in-order"} {
		t.Run(name, func(t *testing.T) {
			program := cloudHypervisor(t)
			d := vm.StartDaemon(t)
			l := lab{d, vm.BootCloudHypervisor(t, d, program, "--cmdline", words).Guest}
			for n := range 3 {
				load := l.load(t)
				l.Restart(t)
				load.mustEnd(t)
				l.mustBeLost(t, n+1, load.conns, vm.GuestCID)
				l.mustWork(t)
			}
		})
	}
}

// A paused one finds the new daemon as it goes on.
func TestCloudHypervisorOutlivesTheDaemonPaused(t *testing.T) {
	program := cloudHypervisor(t)
	d := vm.StartDaemon(t)
	l := lab{d, vm.BootCloudHypervisor(t, d, program).Guest}
	old := l.open(t)
	l.Stop(t)
	l.Restart(t)
	l.Continue(t)
	l.mustHaveLost(t, 1, len(old), vm.GuestCID)
	l.mustWork(t)
}

// A snapshot leaves the machine and its connections as they were.
func TestCloudHypervisorGoesOn(t *testing.T) {
	program := cloudHypervisor(t)
	d := vm.StartDaemon(t)
	c := vm.BootCloudHypervisor(t, d, program)
	l := lab{d, c.Guest}
	old := l.open(t)
	l.Stop(t)
	c.Snapshot(t, t.TempDir())
	l.Continue(t)
	for _, c := range old {
		mustEcho(t, c, pattern(100_000))
	}
	l.mustWork(t)
}

// A machine is restored from its snapshot twice: by the daemon that served it before,
// and by a new one, which gives it another address.
func TestCloudHypervisorRestored(t *testing.T) {
	const newCID = vm.GuestCID + 1
	program := cloudHypervisor(t)
	d := vm.StartDaemon(t)
	c := vm.BootCloudHypervisor(t, d, program)
	old := lab{d, c.Guest}.open(t)
	dir := t.TempDir()
	c.Stop(t)
	c.Snapshot(t, dir)
	c.Kill()
	for _, c := range old {
		mustEnd(t, c)
	}

	c = vm.RestoreCloudHypervisor(t, d, program, dir)
	l := lab{d, c.Guest}
	l.mustHaveLost(t, 1, len(old), vm.GuestCID)
	l.mustWork(t)
	c.Kill()

	d.Restart(t, "--guest-cid", strconv.Itoa(newCID))
	l = lab{d, vm.RestoreCloudHypervisor(t, d, program, dir).Guest}
	l.mustHaveLost(t, 1, len(old), newCID)
	l.mustWork(t)
}

// A machine that migrates while bytes flow both ways finds in its new place what the
// daemon wrote in the old one: a ring or a packet that stayed behind would stop it.
func TestCloudHypervisorMigrates(t *testing.T) {
	program := cloudHypervisor(t)
	d := vm.StartDaemon(t)
	c := vm.BootCloudHypervisor(t, d, program)
	l := lab{d, c.Guest}
	load := l.load(t)
	chains := func() float64 { return l.Scrape(t).Sum("vhost_user_vsock_chains_total", `queue="rx"`) }
	c = c.Migrate(t, program, func() {
		const twiceRound = 2 * 128
		before := chains()
		vm.Eventually(t, limit, "the daemon writes what was copied", func() bool {
			return chains() >= before+twiceRound
		})
	})
	load.mustEnd(t)
	l.Guest = c.Guest
	l.mustBeLost(t, 1, load.conns, vm.GuestCID)
	l.mustWork(t)
}

// Memory that is handed over needs no log.
func TestCloudHypervisorHandsOver(t *testing.T) {
	program := cloudHypervisor(t)
	d := vm.StartDaemon(t)
	c := vm.BootCloudHypervisor(t, d, program)
	for range 2 {
		load := lab{d, c.Guest}.load(t)
		c = c.HandOver(t, program)
		load.mustEnd(t)
		l := lab{d, c.Guest}
		l.mustBeLost(t, 1, load.conns, vm.GuestCID)
		l.mustWork(t)
	}
}

// A new address reaches the guest with what it loses by it, while it runs.
func TestCloudHypervisorChangesCID(t *testing.T) {
	const newCID = vm.GuestCID + 1
	program := cloudHypervisor(t)
	file := filepath.Join(t.TempDir(), "cid")
	write := func(cid int) {
		if err := os.WriteFile(file, fmt.Appendln(nil, cid), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(vm.GuestCID)
	d := vm.StartDaemon(t, "--guest-cid", file)
	l := lab{d, vm.BootCloudHypervisor(t, d, program).Guest}
	old := l.open(t)
	write(newCID)
	d.Reload()
	for _, c := range old {
		mustEnd(t, c)
	}
	l.mustBeLost(t, 1, len(old), newCID)
	l.mustWork(t)
}
