package tests

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// onEachPeer runs a test on a board of each frontend, with a guest that is up; twice
// where it can have packed rings.
func onEachPeer(t *testing.T, test func(*testing.T, *board, newPeer)) {
	for _, peer := range vhostusertest.Peers {
		t.Run(peer.Name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, packed)
			for _, o := range []vhostusertest.GuestOptions{{}, {Packed: true}} {
				b := h.plug(t, peer.New, o)
				b.relayed = peer.Name == "UML"
				b.start()
				if o.Packed && !b.memory.Tx().Config().Packed {
					break // the frontend hides them from its guest
				}
				test(t, b, peer.New)
				b.powerOff()
				b.frontend.Close()
			}
		})
	}
}

func TestSimulatedFrontends(t *testing.T) {
	t.Parallel()
	onEachPeer(t, func(t *testing.T, b *board, again newPeer) {
		b.mustWork(2 * mib)
		for range 2 {
			rebootWithConnections(t, b)
			b.mustWork(64 * kib)
		}
		b.powerOff()
		b.peer.Shutdown()
		b.connect(again)
		b.start()
		b.mustWork(2 * mib)
		b.host.mustForget()
		b.host.mustIdle()
	})
}

// rebootWithConnections reboots a guest: host programs get every byte that it had
// sent, and end of file. Not every frontend says that a driver has ended; then
// the next one shows it.
func rebootWithConnections(t *testing.T, b *board) {
	t.Helper()
	data := bytesOf(200 * kib)
	g, dialled := b.dial()
	called, g2 := b.call()
	mustWrite(t, g, data)
	mustWrite(t, g2, data)
	b.reset()
	b.start()
	mustRead(t, dialled, data)
	mustRead(t, called, data)
}

// A pause in mid-transfer, again and again, ends no connection, loses no byte and
// repeats none.
func TestSimulatedFrontendsPause(t *testing.T) {
	t.Parallel()
	const pauses, size = 5, 6 * mib
	onEachPeer(t, func(t *testing.T, b *board, _ newPeer) {
		g, h := b.dial()
		h2, g2 := b.call()
		dialled := background(func() error { converse(t, h, g, both(size, 1), both(size, 2)); return nil })
		called := background(func() error { converse(t, h2, g2, both(size, 3), both(size, 4)); return nil })
		for i := range pauses {
			vm.Eventually(t, patience, "bytes flow", func() bool {
				return b.host.metric("payload_bytes_total") >= (i+1)*4*size/(pauses+2)
			})
			b.peer.Stop()
			b.frontend.Barrier()
			before := b.host.metric("payload_bytes_total")
			b.host.mustBeAlive()
			if now := b.host.metric("payload_bytes_total"); now != before {
				t.Errorf("%d bytes flowed while the machine stood still", now-before)
			}
			b.peer.Resume()
		}
		dialled()
		called()
		b.host.mustForget()
	})
}

// While a machine stands still a connection neither ends nor moves; what was
// written to it meanwhile comes after the pause, in both directions.
func TestSimulatedFrontendsKeepWhatWaits(t *testing.T) {
	t.Parallel()
	onEachPeer(t, func(t *testing.T, b *board, _ newPeer) {
		h, g := b.call()
		question, answer := bytesOf(100*kib), bytesOf(50*kib)
		b.peer.Stop()
		b.frontend.Barrier()
		mustWrite(t, h, question)
		mustWrite(t, g, answer)
		b.host.mustIdle()
		if n := g.Unread(); n != 0 {
			t.Errorf("%d bytes came to a guest that stood still", n)
		}
		b.peer.Resume()
		mustReadJust(t, g, question)
		mustReadJust(t, h, answer)
		h.CloseWrite()
		mustEndAt(t, g)
		g.Close()
		mustEndAt(t, h)
	})
}

// cloud-hypervisor finds its backend again and goes on with the rings as they
// are. The guest is told that its connections have ended.
func TestSimulatedCloudHypervisorReconnects(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.plug(t, func(f *vhostusertest.Frontend, g *vhostusertest.Guest) vhostusertest.Peer {
		return vhostusertest.NewCloudHypervisor(f, g)
	}, vhostusertest.GuestOptions{})
	b.start()
	g, c := b.dial()
	for i := range 3 {
		b.peer.(*vhostusertest.CloudHypervisor).Reconnect(h.frontend(t))
		mustEndAt(t, c)
		mustBeReset(t, g)
		b.mustWork(mib)
		if n := b.guest.TransportResets(); n != i+1 {
			t.Errorf("%d TRANSPORT_RESETs, want %d", n, i+1)
		}
		g, c = b.dial()
	}
}

// Half-closed connections of either side, as sd_notify and "nc -N" make them.
func TestSimulatedHalfClose(t *testing.T) {
	t.Parallel()
	b := newHost(t).boot(t)
	question := []script.Step{{Do: script.Send, Bytes: 300 * kib, Seed: 5}, {Do: script.CloseWrite}, {Do: script.Drain}}
	answer := []script.Step{{Do: script.Drain}, {Do: script.Send, Bytes: 300 * kib, Seed: 6}}
	g, h := b.dial()
	converse(t, h, g, answer, question)
	g, h = b.dial()
	converse(t, h, g, question, answer)
	h, g = b.call()
	converse(t, h, g, answer, question)
	h, g = b.call()
	converse(t, h, g, question, answer)
	b.host.mustForget()
}
