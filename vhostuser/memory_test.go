package vhostuser_test

import (
	"slices"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

func TestMemTableOfNothing(t *testing.T) {
	b := newBackend(t)
	f, _, peer := b.pausedPeer()
	f.SetMemTable(nil, nil, 0)
	f.Write(vhostusertest.Message(vhostuser.MsgGetFeatures, 0, nil))
	f.Reply(vhostuser.MsgGetFeatures)
	b.expect()
	// A ring without memory cannot be placed.
	if f.Ack(vhostuser.MsgSetVringAddr, vhostuser.VringAddr{}.AppendTo(nil)) == 0 {
		t.Error("a ring was placed in no memory")
	}
	_ = peer
}

func TestMemTableWithPaddingOfUML(t *testing.T) {
	b := newBackend(t)
	f, guest, peer := b.pausedPeer()
	f.SetMemTable(guest.Regions(), guest.Fds(), 32)
	f.SetMemTable(guest.Regions(), guest.Fds(), 7)
	peer.Resume()
	f.Barrier()
	b.traffic(guest, "padded")
}

func TestMemTableOf32Regions(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	f.NeedReply = true
	fd := memfd(t, 32*4096)
	var regions []guestmem.Region
	var fds []int
	for i := range uint64(32) {
		regions = append(regions, guestmem.Region{GuestAddr: i << 20, Size: 4096, UserAddr: i << 30, Offset: i * 4096})
		fds = append(fds, fd)
	}
	f.SetMemTable(regions, fds, 0)
}

func TestMemorySlots(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	f.NeedReply = true
	fd := memfd(t, 4096)
	region := func(i uint64) guestmem.Region {
		return guestmem.Region{GuestAddr: i << 20, Size: 4096, UserAddr: i << 30}
	}
	for i := range uint64(509) {
		f.AddMemReg(region(i), fd)
	}
	add := func(i uint64) uint64 {
		return f.Ack(vhostuser.MsgAddMemReg, vhostuser.SingleMemRegion(region(i)).AppendTo(nil), fd)
	}
	if add(509) == 0 {
		t.Error("region 510 was added")
	}
	f.RemMemReg(region(7))
	if add(8) == 0 {
		t.Error("a region was added twice")
	}
	f.AddMemReg(region(509), fd)
	// A descriptor that comes with the removal is closed.
	before := openFds()
	if f.Ack(vhostuser.MsgRemMemReg, vhostuser.SingleMemRegion(region(3)).AppendTo(nil), fd) != 0 {
		t.Error("a removal with a descriptor failed")
	}
	if n := openFds(); n != before {
		t.Errorf("%d descriptors before, %d after", before, n)
	}
}

// The offset does not take part when a region to remove is looked up.
func TestRemoveMemoryUnderRunningRings(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	f.NeedReply = true
	guest := vhostusertest.NewGuest(t, vhostusertest.GuestOptions{Extents: []virtqueuetest.Extent{
		{GuestAddr: 0x100000, Size: 1 << 20}, {GuestAddr: 0x800000, Size: 1 << 20},
	}})
	peer := vhostusertest.OpenVMM(f, guest)
	peer.Init()
	f.SetProtocolFeatures(f.GetProtocolFeatures())
	peer.Start()
	b.traffic(guest, "first")
	b.events()

	other := guest.Regions()[1] // no ring is there
	other.Offset = 12345
	f.RemMemReg(other)
	b.expect()
	b.traffic(guest, "second")

	unknown := guest.Regions()[0] // the rings are there
	unknown.GuestAddr += 4096
	if f.Ack(vhostuser.MsgRemMemReg, vhostuser.SingleMemRegion(unknown).AppendTo(nil)) == 0 {
		t.Error("a region that is not there was removed")
	}
	b.expect()
	b.traffic(guest, "third")

	guest.Tx().Add(guest.Memory.Out([]byte("last words")))
	guest.Tx().Publish()
	f.RemMemReg(guest.Regions()[0])
	b.expect("stop 0", "stop 1", "stop 2")
	if got := b.taken(); !slices.Equal(got, []string{"last words"}) {
		t.Errorf("taken %q", got)
	}
	guest.Tx().Used()

	f.AddMemReg(guest.Regions()[1], guest.Fds()[1])
	b.expect()
	f.AddMemReg(guest.Regions()[0], guest.Fds()[0])
	b.expect("start 0", "start 1", "start 2") // where they were: no reset
	guest.Tx().Interrupts()
	b.traffic(guest, "third")
}

func TestMemTableWhileRunning(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	f.NeedReply = true
	for range 200 {
		f.SetMemTable(guest.Regions(), guest.Fds(), 0)
		guest.Tx().Add(guest.Memory.Out([]byte("before, ")))
		guest.Tx().Kick()
		f.SetMemTable(guest.Regions(), guest.Fds(), 0)
		guest.Tx().Add(guest.Memory.Out([]byte("after")))
		guest.Tx().Kick()
		b.waitFor("both taken", func() bool { return guest.Tx().UsedIdx() == guest.Tx().AvailIdx() })
		if got := b.taken(); !slices.Equal(got, []string{"before, ", "after"}) {
			t.Fatalf("taken %q", got)
		}
		guest.Tx().Used()
		guest.Tx().Used()
	}
	b.expect() // no ring stopped
}

// The new table ends in the middle of the tx ring. Its last chain is served while
// the old one is still there.
func TestMemoryShrinksUnderARunningRing(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	f.NeedReply = true
	guest.Tx().Add(guest.Memory.Out([]byte("last words")))
	guest.Tx().Publish()
	shrunk := slices.Clone(guest.Regions())
	used := guest.Tx().Config().Used
	shrunk[0].Size = used + 64 - shrunk[0].GuestAddr
	f.SetMemTable(shrunk, guest.Fds(), 0)
	b.expect("stop 1", "stop 2") // the rx ring is in front of it
	if got := b.taken(); !slices.Equal(got, []string{"last words"}) {
		t.Errorf("taken %q", got)
	}
	if elem, ok := guest.Tx().Used(); !ok {
		t.Errorf("the chain did not come back: %+v", elem)
	}
}

// The same memory at another guest address: what the rings say means something
// else now, so they start again, where they were.
func TestMemoryMovesUnderRunningRings(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	f.NeedReply = true
	moved := slices.Clone(guest.Regions())
	moved[0].GuestAddr += 1 << 30
	guest.Tx().Add(guest.Memory.Out([]byte("last words")))
	guest.Tx().Publish()
	f.SetMemTable(moved, guest.Fds(), 0)
	if got := b.taken(); !slices.Equal(got, []string{"last words"}) {
		t.Errorf("taken %q", got)
	}
	b.expect("stop 0", "stop 1", "stop 2", "start 0", "start 1", "start 2")
}

func TestAddrBeforeMemTable(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	if f.Ack(vhostuser.MsgSetVringAddr, vhostuser.VringAddr{Desc: 0x1000, Avail: 0x2000, Used: 0x3000}.AppendTo(nil)) == 0 {
		t.Error("a ring was placed in no memory")
	}
	f.Barrier()
}
