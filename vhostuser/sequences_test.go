package vhostuser_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// life is what the device sees of a guest in each step of a Peer.
type life struct{ init, start, stop, resume, reset, restart, shutdown string }

var lives = map[string]life{
	"QEMU 7.2": {
		init:     "attach",
		start:    "negotiated, start 0, start 1",
		stop:     "stop 0, stop 1",
		resume:   "start 0, start 1",
		reset:    "stop 0, stop 1",
		restart:  "reset, start 0, start 1",
		shutdown: "stop 0, stop 1, detach",
	},
	"QEMU 10": {
		init:     "attach",
		start:    "negotiated, start 0, start 1",
		stop:     "stop 0, stop 1",
		resume:   "start 0, start 1",
		reset:    "stop 0, stop 1, reset",
		restart:  "negotiated, start 0, start 1",
		shutdown: "stop 0, stop 1, detach",
	},
	"UML": {
		init:     "attach",
		start:    "negotiated, start 0, start 1, start 2",
		stop:     "stop 0, stop 1, stop 2",
		resume:   "start 0, start 1, start 2",
		reset:    "stop 2, stop 1, stop 0",
		restart:  "reset, start 0, start 1, start 2",
		shutdown: "stop 2, stop 1, stop 0, detach",
	},
	"cloud-hypervisor": {
		init:     "attach",
		start:    "negotiated, start 0, start 1, start 2",
		stop:     "stop 0, stop 1, stop 2",
		resume:   "start 0, start 1, start 2",
		reset:    "stop 0, stop 1, stop 2",
		restart:  "reset, start 0, start 1, start 2",
		shutdown: "stop 0, stop 1, stop 2, detach",
	},
	"OpenVMM": {
		init:     "attach",
		start:    "negotiated, start 0, start 1, start 2",
		stop:     "stop 0, stop 1, stop 2",
		resume:   "start 0, start 1, start 2",
		reset:    "stop 0, stop 1, stop 2, reset",
		restart:  "negotiated, start 0, start 1, start 2",
		shutdown: "stop 0, stop 1, stop 2, detach",
	},
	"crosvm": {
		init:     "attach",
		start:    "negotiated, start 0, start 1, start 2",
		stop:     "stop 0, stop 1, stop 2",
		resume:   "start 0, start 1, start 2",
		reset:    "stop 0, stop 1, stop 2",
		restart:  "reset, start 0, start 1, start 2",
		shutdown: "stop 0, stop 1, stop 2, detach",
	},
}

// variants are the backends and guests that every frontend is played with.
var variants = []struct {
	name    string
	backend []func(*vhostuser.Config)
	guest   vhostusertest.GuestOptions
}{
	{name: "plain"},
	{name: "rings move", guest: vhostusertest.GuestOptions{MoveRings: true}},
	{name: "packed", backend: []func(*vhostuser.Config){packed}, guest: vhostusertest.GuestOptions{Packed: true}},
	{name: "packed rings move", backend: []func(*vhostuser.Config){packed},
		guest: vhostusertest.GuestOptions{Packed: true, MoveRings: true}},
	{name: "packed, in-band", backend: []func(*vhostuser.Config){packed, inBand},
		guest: vhostusertest.GuestOptions{Packed: true}},
	{name: "in-band", backend: []func(*vhostuser.Config){inBand}},
}

// splitOnly are the frontends that do not pass RING_PACKED on.
var splitOnly = map[string]bool{"cloud-hypervisor": true, "crosvm": true}

// Every frontend's life of a guest, message by message, with traffic in between.
func TestPeers(t *testing.T) {
	for _, peer := range vhostusertest.Peers {
		for _, v := range variants {
			t.Run(peer.Name+"/"+v.name, func(t *testing.T) {
				b := newBackend(t, v.backend...)
				f := b.dial()
				guest := vhostusertest.NewGuest(t, v.guest)
				p := peer.New(f, guest)
				want := lives[peer.Name]

				p.Init()
				f.Barrier()
				b.expect(script(want.init)...)

				p.Start()
				f.Barrier()
				b.expect(script(want.start)...)
				if packed := v.guest.Packed && !splitOnly[peer.Name]; guest.Tx().Config().Packed != packed {
					t.Fatalf("packed rings: %v", !packed)
				}
				b.traffic(guest, "first")

				p.Stop()
				f.Barrier()
				b.expect(script(want.stop)...)
				// The driver goes on for a moment. Nobody looks, and nobody will kick
				// once the ring runs again.
				guest.Tx().Add(guest.Memory.Out([]byte("while it stands still")))
				guest.Tx().Publish()
				f.Barrier()
				if got := b.taken(); got != nil {
					t.Fatalf("a stopped ring was read: %q", got)
				}

				p.Resume()
				f.Barrier()
				b.expect(script(want.resume)...)
				if got := b.taken(); !slices.Equal(got, []string{"while it stands still"}) {
					t.Fatalf("after the pause came %q", got)
				}
				guest.Tx().Used()
				b.traffic(guest, "second")

				p.Reset()
				f.Barrier()
				b.expect(script(want.reset)...)

				p.Start()
				f.Barrier()
				b.expect(script(want.restart)...)
				b.traffic(guest, "third")

				p.Shutdown()
				if err := b.waitEnd(); err != nil {
					t.Errorf("the session ended with %v", err)
				}
				b.expect(script(want.shutdown)...)
				if n := b.stats.Malformed.Load(); n != 0 {
					t.Errorf("%d messages were refused", n)
				}
			})
		}
	}
}

// The sizes at both ends of what virtio allows, and of a packed ring any between.
func TestRingSizes(t *testing.T) {
	for _, o := range []vhostusertest.GuestOptions{
		{RingSize: 1}, {RingSize: 2}, {RingSize: 32768},
		{RingSize: 1, Packed: true}, {RingSize: 3, Packed: true}, {RingSize: 32767, Packed: true}, {RingSize: 32768, Packed: true},
	} {
		t.Run(fmt.Sprintf("%d, packed=%v", o.RingSize, o.Packed), func(t *testing.T) {
			b := newBackend(t, packed)
			guest := vhostusertest.NewGuest(t, o)
			peer := vhostusertest.OpenVMM(b.dial(), guest)
			peer.Init()
			peer.Start()
			for i := range 5 {
				b.traffic(guest, fmt.Sprint(i))
			}
			peer.Shutdown()
			if err := b.waitEnd(); err != nil {
				t.Error(err)
			}
		})
	}
}

// traffic moves a chain each way, with kick and interrupt.
func (b *backend) traffic(guest *vhostusertest.Guest, p string) {
	b.t.Helper()
	guest.Tx().ArmInterrupt()
	guest.Tx().Add(guest.Memory.Out([]byte(p + " tx")))
	guest.Kick(tx) // for nothing: it is not published
	guest.Tx().Publish()
	guest.Kick(tx)
	b.waitFor("chain taken", func() bool {
		return guest.Tx().UsedIdx() == guest.Tx().AvailIdx()
	})
	if got := b.taken(); !slices.Equal(got, []string{p + " tx"}) {
		b.t.Fatalf("taken %q", got)
	}
	if _, ok := guest.Tx().Used(); !ok {
		b.t.Fatal("the chain did not come back")
	}
	if !guest.WaitInterrupt(tx, timeout) {
		b.t.Fatal("no tx interrupt")
	}

	buffer := guest.Memory.In(64)
	guest.Rx().ArmInterrupt()
	guest.Rx().Add(buffer)
	guest.Rx().Publish()
	b.do(func() {
		if !b.send(p + " rx") {
			b.t.Error("the rx ring is empty")
		}
	})
	elem, ok := guest.Rx().Used()
	if got := string(guest.Memory.Read(buffer.Addr, uint64(elem.Len))); !ok || got != p+" rx" {
		b.t.Fatalf("the guest received %q", got)
	}
	if !guest.WaitInterrupt(rx, timeout) {
		b.t.Fatal("no rx interrupt")
	}
}

// cloud-hypervisor reconnects to a backend that was restarted and says that the
// rings go on where the driver's available index is. What was published before
// and never used must not be skipped (spec: base rule of virtqueue.New).
func TestCloudHypervisorReconnects(t *testing.T) {
	b := newBackend(t)
	guest := vhostusertest.NewGuest(t, vhostusertest.GuestOptions{})
	peer := vhostusertest.NewCloudHypervisor(b.dial(), guest)
	peer.Init()
	peer.Start()
	b.traffic(guest, "first")
	peer.Close()
	b.waitEnd()
	b.events()

	guest.Tx().Add(guest.Memory.Out([]byte("in between")))
	guest.Tx().Publish()
	peer.Reconnect(b.dial())
	peer.Barrier()
	if got := b.taken(); !slices.Equal(got, []string{"in between"}) {
		t.Errorf("taken %q", got)
	}
	b.expect("attach", "negotiated", "inherit", "start 0", "start 1", "start 2")
}

// QEMU without CONFIGURE_MEM_SLOTS sends the whole table before every start;
// without REPLY_ACK it asks for the features after every ENABLE.
func TestQEMUWithFewProtocolFeatures(t *testing.T) {
	b := newBackend(t)
	f := b.dial()
	guest := vhostusertest.NewGuest(t, vhostusertest.GuestOptions{})
	peer := vhostusertest.QEMUWith(f, guest, vhostuser.ProtocolConfig)
	peer.Init()
	peer.Start()
	b.traffic(guest, "first")
	peer.Stop()
	peer.Resume()
	b.traffic(guest, "second")
	peer.Shutdown()
	b.waitEnd()
	b.expect(script("attach, negotiated, start 0, start 1, stop 0, stop 1, start 0, start 1, stop 0, stop 1, detach")...)
}
