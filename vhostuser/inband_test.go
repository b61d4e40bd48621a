package vhostuser_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// inBandPeer returns UML without descriptors, and its guest, whose rings run.
func (b *backend) inBandPeer() (*vhostusertest.Frontend, *vhostusertest.Guest) {
	b.t.Helper()
	f := b.dial()
	guest := vhostusertest.NewGuest(b.t, vhostusertest.GuestOptions{})
	peer := vhostusertest.UML(f, guest)
	peer.Init()
	peer.Start()
	f.Barrier()
	b.expect("attach", "negotiated", "start 0", "start 1", "start 2")
	return f, guest
}

// untended reports whether the server looks at rings from time to time.
func (b *backend) untended() (yes bool) {
	b.t.Helper()
	b.do(func() { _, yes = b.server.Deadline() })
	return yes
}

// Rings that are kicked by message need nobody to look at them.
func TestInBandRingsAreNotPatrolled(t *testing.T) {
	b := newBackend(t, inBand)
	f, guest := b.inBandPeer()
	b.traffic(guest, "kicked by message")
	if b.untended() {
		t.Error("rings are looked at for nothing")
	}
	f.SetVringKick(tx, -1) // says that nobody will kick
	f.Barrier()
	if !b.untended() {
		t.Error("the ring is not looked at")
	}
	f.SetVringKick(tx, guest.Tx().KickFd())
	f.Barrier()
	if b.untended() {
		t.Error("the ring is looked at although it can be kicked")
	}
	// Stopped, it is forgotten how the ring was kicked.
	f.SetVringKick(tx, -1)
	f.SetVringBase(tx, f.GetVringBase(tx))
	f.SetVringEnable(tx, true)
	f.Barrier()
	if b.untended() {
		t.Error("the ring is looked at although it is kicked by message")
	}
	b.traffic(guest, "kicked by message again")
}

// UML waits for the acknowledgement of its kick with interrupts off: it does not
// read its channel meanwhile.
func TestInBandKicksAreAcknowledgedBesideAFullChannel(t *testing.T) {
	b := newBackend(t, inBand)
	f, guest := b.inBandPeer()
	const chains = 1000 // the channel takes some 300 calls
	for range chains {
		guest.Tx().ArmInterrupt()
		guest.Tx().Add(guest.Memory.Out([]byte("x")))
		guest.Tx().Publish()
		guest.Kick(tx) // waits for the acknowledgement
		if _, ok := guest.Tx().Used(); !ok {
			t.Fatal("acknowledged before the chain was taken")
		}
	}
	if n := len(b.taken()); n != chains {
		t.Errorf("%d of %d chains were taken", n, chains)
	}
	calls := 0
	for f.Requested() {
		f.Request()
		calls++
		f.Barrier()
	}
	if calls < 2 || calls >= chains {
		t.Errorf("%d calls for %d chains", calls, chains)
	}
	b.traffic(guest, "after it")
}

// A frontend that declines an interrupt polls, and wants no message instead.
func TestInBandCallsAreDeclined(t *testing.T) {
	b := newBackend(t, inBand)
	f, guest := b.inBandPeer()
	f.SetVringCall(tx, -1)
	f.SetVringErr(tx, -1)
	f.Barrier()
	guest.Tx().ArmInterrupt()
	guest.Tx().Add(guest.Memory.Out([]byte("x")))
	guest.Tx().Publish()
	guest.Kick(tx)
	guest.Tx().SetAvailIdx(1000) // breaks the ring
	guest.Kick(tx)
	if f.Requested() {
		request, _ := f.Request()
		t.Errorf("request %d came", request)
	}
}

// QEMU acknowledges the feature and passes descriptors all the same.
func TestInBandDescriptorsAreUsed(t *testing.T) {
	b := newBackend(t, inBand)
	f := b.dial()
	guest := vhostusertest.NewGuest(t, vhostusertest.GuestOptions{})
	peer := vhostusertest.QEMU10(f, guest)
	peer.Init()
	peer.Start()
	b.traffic(guest, "by descriptors")
	if f.Requested() {
		t.Error("a message came as well")
	}
	peer.Stop()
	f.Barrier()
	b.events()
	if f.Requested() {
		t.Error("a message came when the rings stopped")
	}
	// GET_VRING_BASE stopped the rings: they do not start by themselves.
	f.Barrier()
	b.expect()
}

// A ring that VHOST_USER_GET_VRING_BASE stopped while it was enabled runs again
// with the next kick.
func TestInBandKickStartsTheRing(t *testing.T) {
	b := newBackend(t, inBand)
	f, guest := b.inBandPeer()
	base := f.GetVringBase(tx)
	f.Barrier()
	b.expect("stop 1")
	f.SetVringBase(tx, base)
	f.Barrier()
	b.expect()
	guest.Kick(tx)
	b.expect("start 1")
	b.traffic(guest, "again")
}

// What was to be told of a ring that stops is not told any more; it calls when it
// goes on, however it stopped.
func TestInBandCallsOfAStoppedRing(t *testing.T) {
	for _, c := range []struct {
		name     string
		stop, on func(f *vhostusertest.Frontend)
	}{
		{"disabled",
			func(f *vhostusertest.Frontend) { f.SetVringEnable(tx, false) },
			func(*vhostusertest.Frontend) {}},
		{"disabled, and placed again",
			func(f *vhostusertest.Frontend) { f.SetVringEnable(tx, false) },
			func(f *vhostusertest.Frontend) { f.SetVringNum(tx, 256) }},
		{"asked for its base",
			func(f *vhostusertest.Frontend) { f.SetVringBase(tx, f.GetVringBase(tx)) },
			func(*vhostusertest.Frontend) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t, inBand)
			f, guest := b.inBandPeer()
			b.traffic(guest, "of before")
			b.do(func() {
				for range 1000 {
					b.queues[rx].Interrupt() // fills the channel
				}
				b.queues[tx].Interrupt()
			})
			f.NeedReply = true
			c.stop(f)
			for f.Requested() {
				if request, payload := f.Request(); request != vhostuser.BackendVringCall || vhostuser.ParseVringState(payload).Index != rx {
					t.Fatalf("request %d of 0x%x", request, payload)
				}
				f.Barrier()
			}
			c.on(f)
			f.SetVringEnable(tx, true)
			if !guest.WaitInterrupt(tx, timeout) {
				t.Error("no call when the ring went on")
			}
		})
	}
}

// A new channel hears of every ring that runs: what went into the former one may
// be lost.
func TestInBandCallsGoToTheNewChannel(t *testing.T) {
	b := newBackend(t, inBand)
	f, _ := b.inBandPeer()
	f.SetBackendReqFd()
	f.Barrier()
	for want := range uint32(3) {
		request, payload := f.Request()
		if request != vhostuser.BackendVringCall || vhostuser.ParseVringState(payload).Index != want {
			t.Errorf("request %d of 0x%x, want a call of ring %d", request, payload, want)
		}
	}
	if f.Requested() {
		t.Error("there is a further request")
	}
}

func TestInBandNeedsOtherFeatures(t *testing.T) {
	const both = vhostuser.ProtocolBackendReq | vhostuser.ProtocolReplyAck
	for _, with := range []vhostuser.ProtocolFeatures{0, vhostuser.ProtocolBackendReq, vhostuser.ProtocolReplyAck} {
		t.Run(with.String(), func(t *testing.T) {
			b := newBackend(t, inBand)
			f := b.dial()
			f.SetProtocolFeatures(with | vhostuser.ProtocolInBandNotifications)
			f.WaitClosed()
			b.endsWith(vhostuser.EndProtocol)
		})
	}
	b := newBackend(t, inBand)
	f := b.dial()
	f.SetProtocolFeatures(both | vhostuser.ProtocolInBandNotifications)
	f.Barrier()
	// Refused with an acknowledgement the session goes on with what it had.
	if f.Ack(vhostuser.MsgSetProtocolFeatures, vhostusertest.U64(uint64(vhostuser.ProtocolReplyAck|vhostuser.ProtocolInBandNotifications))) == 0 {
		t.Error("acknowledged with success")
	}
	f.NeedReply = true
	f.VringKick(tx)
	for _, index := range []uint32{3, 255, ^uint32(0)} {
		if f.Ack(vhostuser.MsgVringKick, vhostusertest.State(index, 0)) == 0 {
			t.Errorf("a kick for ring %d was acknowledged with success", index)
		}
	}
}

// Offered only where it is asked for: UML passes no descriptors whenever it can.
func TestInBandIsOfferedOnDemand(t *testing.T) {
	for _, c := range []struct {
		options []func(*vhostuser.Config)
		want    bool
	}{{nil, false}, {[]func(*vhostuser.Config){inBand}, true}} {
		f := newBackend(t, c.options...).dial()
		if got := f.GetProtocolFeatures()&vhostuser.ProtocolInBandNotifications != 0; got != c.want {
			t.Errorf("offered: %v, want %v", got, c.want)
		}
	}
}

// Descriptors that nothing can be written to are no channel, or a dead one.
func TestChannelDescriptors(t *testing.T) {
	b := newBackend(t, inBand)
	f, guest := b.inBandPeer()
	if f.Ack(vhostuser.MsgSetBackendReqFd, nil, memfd(t, 10)) == 0 {
		t.Error("a file was accepted")
	}
	for name, fd := range map[string]int{"pipe": pipe(t)[0], "eventfd": eventfd(t)} {
		if f.Ack(vhostuser.MsgSetBackendReqFd, nil, fd) != 0 {
			t.Errorf("%s was refused", name)
		}
		b.changeConfig(4)
		guest.Kick(tx)
	}
	var got [8]byte
	if n, _, err := unix.Recvfrom(f.Channel(), got[:], unix.MSG_DONTWAIT); n != 0 || err != nil {
		t.Errorf("the former channel is open: %v", err)
	}
}
