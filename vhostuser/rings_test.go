package vhostuser_test

import (
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

func TestRingPlacement(t *testing.T) {
	b := newBackend(t)
	f, guest, peer := b.pausedPeer()
	region := guest.Regions()[0]
	end := region.UserAddr + region.Size
	good := vhostuser.VringAddr{Desc: region.UserAddr, Avail: region.UserAddr + 0x10000, Used: region.UserAddr + 0x20000}
	for _, c := range []struct {
		name   string
		change func(a *vhostuser.VringAddr)
		ok     bool
	}{
		{"good", func(*vhostuser.VringAddr) {}, true},
		{"log flag", func(a *vhostuser.VringAddr) { a.Flags = 1; a.Log = ^uint64(0) }, true},
		{"desc+8", func(a *vhostuser.VringAddr) { a.Desc += 8 }, false},
		{"avail+1", func(a *vhostuser.VringAddr) { a.Avail++ }, false},
		{"used+2", func(a *vhostuser.VringAddr) { a.Used += 2 }, false},
		{"avail+2 is aligned", func(a *vhostuser.VringAddr) { a.Avail += 2 }, true},
		{"desc unmapped", func(a *vhostuser.VringAddr) { a.Desc = 0x1000 }, false},
		{"avail unmapped", func(a *vhostuser.VringAddr) { a.Avail = 0x1000 }, false},
		{"used unmapped", func(a *vhostuser.VringAddr) { a.Used = 0x1000 }, false},
		{"guest addresses", func(a *vhostuser.VringAddr) { a.Desc = region.GuestAddr }, false},
		{"desc ends with the region", func(a *vhostuser.VringAddr) { a.Desc = end - 256*16 }, true},
		{"desc straddles the end", func(a *vhostuser.VringAddr) { a.Desc = end - 255*16 }, false},
		{"avail straddles the end", func(a *vhostuser.VringAddr) { a.Avail = end - 512 }, false},
		{"used straddles the end", func(a *vhostuser.VringAddr) { a.Used = end - 2048 }, false},
		{"unknown flag", func(a *vhostuser.VringAddr) { a.Flags = 2 }, false},
	} {
		addr := good
		c.change(&addr)
		if code := f.Ack(vhostuser.MsgSetVringAddr, addr.AppendTo(nil)); (code == 0) != c.ok {
			t.Errorf("%s: acknowledged with %d", c.name, code)
		}
	}
	_ = peer
}

// A ring that grows beyond its memory after it was placed cannot run, and does
// once it is placed well.
func TestRingOutgrowsItsMemory(t *testing.T) {
	b := newBackend(t)
	f, guest, peer := b.pausedPeer()
	region := guest.Regions()[0]
	f.SetVringAddr(vhostuser.VringAddr{
		Desc: region.UserAddr + region.Size - 256*16, Avail: region.UserAddr, Used: region.UserAddr + 0x10000,
	})
	f.SetVringNum(rx, 512)
	f.SetVringKick(rx, guest.Rx().KickFd())
	f.SetVringEnable(rx, true)
	b.expect()
	f.SetVringEnable(rx, false)
	peer.Resume()
	f.Barrier()
	b.traffic(guest, "placed well")
}

func TestRunningRingsKeepTheirPlace(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	c := guest.Tx().Config()
	same := vhostuser.VringAddr{
		Index: tx,
		Desc:  virtqueuetest.UserAddr(c.Desc),
		Avail: virtqueuetest.UserAddr(c.Avail),
		Used:  virtqueuetest.UserAddr(c.Used),
	}
	f.SetVringAddr(same)
	same.Flags, same.Log = 1, c.Used // how dirty logging is switched on
	f.SetVringAddr(same)
	other := same
	other.Desc += 0x1000
	for _, m := range []bad{
		{"other addresses", vhostuser.MsgSetVringAddr, other.AppendTo(nil), nil},
		{"other size", vhostuser.MsgSetVringNum, vhostusertest.State(tx, 128), nil},
		{"other base", vhostuser.MsgSetVringBase, vhostusertest.State(tx, 7), nil},
	} {
		if f.Ack(m.request, m.payload) == 0 {
			t.Errorf("%s: acknowledged with success", m.name)
		}
	}
	b.expect()
	b.traffic(guest, "unchanged")
}

func TestEnableBeforeAnything(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	f.NeedReply = true
	for i := range uint32(3) {
		f.SetVringEnable(i, true)
	}
	guest := vhostusertest.NewGuest(t, vhostusertest.GuestOptions{})
	peer := vhostusertest.OpenVMM(f, guest)
	peer.Init()
	peer.Start()
	f.Barrier()
	b.expect("attach", "negotiated", "start 0", "start 1", "start 2")
	b.traffic(guest, "enabled early")
}

// Without VHOST_USER_F_PROTOCOL_FEATURES there is no VHOST_USER_SET_VRING_ENABLE:
// a ring runs as soon as it has a kick descriptor.
func TestRingsWithoutProtocolFeatures(t *testing.T) {
	b := newBackend(t)
	f := b.dial()
	guest := vhostusertest.NewGuest(t, vhostusertest.GuestOptions{})
	ring := virtqueuetest.NewRing(t, guest.Memory, virtqueuetest.Options{EventIdx: true, Indirect: true})
	c := ring.Config()
	f.SetOwner()
	f.SetFeatures(offered)
	f.SetMemTable(guest.Regions(), guest.Fds(), 0)
	f.SetVringNum(tx, uint32(c.Size))
	f.SetVringBase(tx, 0)
	f.SetVringAddr(vhostuser.VringAddr{
		Index: tx,
		Desc:  virtqueuetest.UserAddr(c.Desc), Avail: virtqueuetest.UserAddr(c.Avail), Used: virtqueuetest.UserAddr(c.Used),
	})
	f.Barrier()
	b.expect("attach", "negotiated")
	f.SetVringKick(tx, ring.KickFd())
	f.Barrier()
	b.expect("start 1")
	// To take the feature after all means that nothing was enabled.
	f.SetFeatures(offered | vhostuser.FeatureProtocolFeatures)
	f.Barrier()
	b.expect("stop 1")
	f.SetVringEnable(tx, true)
	f.Barrier()
	b.expect("start 1")
}

func TestGetVringBase(t *testing.T) {
	b := newBackend(t)
	f, guest, peer := b.runningPeer()
	b.traffic(guest, "one more")
	want := uint32(guest.Tx().AvailIdx())
	for range 3 {
		if got := f.GetVringBase(tx); got != want {
			t.Errorf("base %d, want %d", got, want)
		}
	}
	b.expect("stop 1")
	// The number in the request is to be ignored.
	f.Write(vhostusertest.Message(vhostuser.MsgGetVringBase, 0, vhostusertest.State(tx, 4711)))
	if got := vhostuser.ParseVringState(f.Reply(vhostuser.MsgGetVringBase)); got.Num != want {
		t.Errorf("base %d, want %d", got.Num, want)
	}
	// Enabled as it is, the ring needs a new kick descriptor to run again.
	f.SetVringEnable(tx, true)
	b.expect()
	peer.Stop()
	peer.Resume()
	f.Barrier()
	b.traffic(guest, "again")
}

func TestGetVringBaseOfARingThatNeverRan(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	if got := f.GetVringBase(event); got != 0 {
		t.Errorf("base %d", got)
	}
	f.SetVringBase(event, 0xabcd)
	for range 2 {
		if got := f.GetVringBase(event); got != 0xabcd {
			t.Errorf("base 0x%x", got)
		}
	}
}

// The descriptors of a stopped ring: kick and call are closed, err is kept.
func TestGetVringBaseClosesDescriptors(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	before := openFds()
	f.SetVringKick(0, eventfd(t))
	f.SetVringCall(0, eventfd(t))
	f.SetVringErr(0, eventfd(t))
	f.Barrier()
	if n := openFds(); n != before+6 {
		t.Errorf("%d descriptors came", n-before-3)
	}
	f.GetVringBase(0)
	if n := openFds(); n != before+4 {
		t.Errorf("%d descriptors are left", n-before-3)
	}
}

func TestBrokenRing(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	f.NeedReply = true
	errors := eventfd(t)
	f.SetVringErr(tx, errors)
	guest.Tx().SetAvailIdx(guest.Tx().AvailIdx() + 1000)
	guest.Tx().ForceKick()
	b.waitFor("ring broken", func() bool { return b.stats.Queues[tx].Errors[vhostuser.FaultAvailIdx].Load() == 1 })
	if n := count(t, errors); n != 1 {
		t.Errorf("VRING_ERR was signalled %d times", n)
	}
	// The other ring is unharmed, and the broken one begins again with a new kick
	// descriptor.
	guest.Tx().Publish() // takes the lie back
	guest.Rx().Add(guest.Memory.In(10))
	guest.Rx().Publish()
	b.do(func() {
		if !b.send("unharmed") {
			t.Error("the rx ring is broken too")
		}
	})
	guest.Rx().Used()
	b.expect()
	f.SetVringKick(tx, guest.Tx().KickFd())
	b.expect("stop 1", "start 1") // where it broke: no reset
	guest.Tx().Interrupts()
	guest.Rx().Interrupts()
	b.traffic(guest, "mended")
}
