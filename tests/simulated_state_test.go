package tests

import (
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// plugCloudHypervisor makes a board of cloud-hypervisor's with so many queues, and a
// guest that reads its CID from cid.
func (h *host) plugCloudHypervisor(t testing.TB, queues int, cid *atomic.Uint64) (*board, *vhostusertest.CloudHypervisor) {
	t.Helper()
	var ch *vhostusertest.CloudHypervisor
	b := h.plug(t, func(f *vhostusertest.Frontend, g *vhostusertest.Guest) vhostusertest.Peer {
		ch = vhostusertest.NewCloudHypervisor(f, g)
		ch.Queues = queues
		return ch
	}, vhostusertest.GuestOptions{})
	b.options.ReadCID = cid.Load
	b.start()
	return b, ch
}

func guestCID(cid uint64) *atomic.Uint64 {
	var a atomic.Uint64
	a.Store(cid)
	return &a
}

// open opens n connections, half of them by either side, and returns the host's ends.
func (b *board) open(n int) (programs []*net.UnixConn) {
	b.t.Helper()
	port, l := b.listen()
	inGuest := newPort()
	services := b.guest.Listen(inGuest)
	defer services.Close()
	for range n / 2 {
		if _, err := b.guest.Dial(port); err != nil {
			b.t.Fatal(err)
		}
		programs = append(programs, acceptFrom(b.t, l))
		c, err := b.host.Dial(inGuest)
		if err != nil {
			b.t.Fatal(err)
		}
		mustAccept(b.t, services)
		programs = append(programs, c)
	}
	return programs
}

// move has the guest go on behind another daemon, from a state.
func (b *board) move(ch *vhostusertest.CloudHypervisor, to *host, state []byte, bases []uint32) {
	b.t.Helper()
	b.frontend.Close()
	b.host, b.frontend = to, to.frontend(b.t)
	ch.Restore(b.frontend, state, bases)
}

// mustLose waits until the guest has no connection. It must have been told by one
// TRANSPORT_RESET where it has the ring for it, else by an RST for each.
func (b *board) mustLose(conns, queues int) {
	b.t.Helper()
	vm.Eventually(b.t, patience, "the guest has lost its connections", func() bool { return b.guest.Conns() == 0 })
	resets, events := conns, 0
	if queues == 3 {
		resets, events = 0, 1
	}
	if b.guest.Resets() != resets || b.guest.TransportResets() != events {
		b.t.Errorf("%d RSTs and %d TRANSPORT_RESETs, want %d and %d", b.guest.Resets(), b.guest.TransportResets(), resets, events)
	}
}

// A guest that goes on behind another daemon is told of all that it lost. The address
// that the new daemon gives it is valid once it knows of it.
func TestSimulatedStateMoves(t *testing.T) {
	t.Parallel()
	const conns, otherCID = 1000, 9
	for _, queues := range []int{2, 3} {
		t.Run(fmt.Sprint(queues, " queues"), func(t *testing.T) {
			t.Parallel()
			cid := guestCID(vm.GuestCID)
			b, ch := newHost(t).plugCloudHypervisor(t, queues, cid)
			programs := b.open(conns)
			state, bases := ch.Snapshot()
			cid.Store(otherCID)
			b.move(ch, newHost(t, "--guest-cid", fmt.Sprint(otherCID)), state, bases)
			b.mustLose(conns, queues)
			for _, c := range programs {
				mustEndAt(t, c)
			}
			b.mustWork(64 * kib)

			state, bases = ch.Snapshot() // nothing is left to lose
			b.move(ch, newHost(t, "--guest-cid", fmt.Sprint(otherCID)), state, bases)
			b.mustWork(64 * kib)
		})
	}
}

// A snapshot takes nothing from a machine that goes on where it is.
func TestSimulatedSnapshotIsHarmless(t *testing.T) {
	t.Parallel()
	b, ch := newHost(t).plugCloudHypervisor(t, 3, guestCID(vm.GuestCID))
	g, c := b.dial()
	c2, g2 := b.call()
	for range 3 {
		_, bases := ch.Snapshot()
		ch.Continue(bases)
		mustWrite(t, g, []byte("still"))
		mustReadJust(t, c, []byte("still"))
		mustWrite(t, c2, []byte("there"))
		mustReadJust(t, g2, []byte("there"))
	}
	if n := b.guest.TransportResets(); n != 0 {
		t.Errorf("%d TRANSPORT_RESETs", n)
	}
	b.mustWork(64 * kib)
}

// A state that is none is refused, and harms nobody.
func TestSimulatedStateIsRefused(t *testing.T) {
	t.Parallel()
	b, ch := newHost(t).plugCloudHypervisor(t, 3, guestCID(vm.GuestCID))
	b.open(10)
	state, bases := ch.Snapshot()
	b.frontend.Close()
	b.host = newHost(t)
	bad := map[string][]byte{
		"nothing": {}, "garbage": bytesOf(100), "half": state[:len(state)/2],
		"more": append(slices.Clone(state), 0), "long garbage": bytesOf(64 * kib),
	}
	for i := range state {
		other := slices.Clone(state)
		other[i] ^= 0x10
		bad[fmt.Sprint("other byte ", i)] = other
	}
	b.frontend = b.host.frontend(t)
	ch.Frontend = b.frontend
	ch.Init()
	for name, p := range bad {
		if code := b.frontend.LoadState(p); code == 0 {
			t.Errorf("%s: loaded", name)
		}
	}
	b.frontend.Barrier()
	b.move(ch, b.host, state, bases)
	b.mustLose(10, 3)
	b.mustWork(64 * kib)
	b.host.mustIdle()
}

// cloud-hypervisor finds another process where its backend was. What that one does not
// know of, it says when the guest speaks of it.
func TestSimulatedDaemonRestarts(t *testing.T) {
	t.Parallel()
	for _, queues := range []int{2, 3} {
		t.Run(fmt.Sprint(queues, " queues"), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			b, ch := h.plugCloudHypervisor(t, queues, guestCID(vm.GuestCID))
			for range 3 {
				g, c := b.dial()
				c2, g2 := b.call()
				h.Restart(t)
				h.pid = listenerOf(t, h.UDS)
				b.frontend = h.frontend(t)
				ch.Reconnect(b.frontend)
				mustEnd(t, c)
				mustEnd(t, c2)
				if queues == 2 {
					io.WriteString(g, "anybody?")
					io.WriteString(g2, "anybody?")
				}
				mustBeReset(t, g)
				mustBeReset(t, g2)
				b.mustWork(64 * kib)
			}
		})
	}
}
