package vhostuser_test

import (
	"bytes"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

const page = 4096

// migrating returns cloud-hypervisor and its guest, whose rings run and lie on
// pages of their own.
func (b *backend) migrating() (*vhostusertest.CloudHypervisor, *vhostusertest.Guest) {
	b.t.Helper()
	guest := vhostusertest.NewGuest(b.t, vhostusertest.GuestOptions{})
	ch := vhostusertest.NewCloudHypervisor(b.dial(), guest)
	ch.Init()
	ch.Start()
	ch.Barrier()
	b.events()
	return ch, guest
}

// memory returns a copy of the guest's memory.
func memory(guest *vhostusertest.Guest) []byte {
	return bytes.Clone(guest.Memory.Bytes(virtqueuetest.DefaultExtent.GuestAddr, virtqueuetest.DefaultExtent.Size))
}

// changed returns the pages that differ, by guest address.
func changed(before, after []byte) map[uint64]bool {
	pages := make(map[uint64]bool)
	for i := 0; i < len(before); i += page {
		if !bytes.Equal(before[i:i+page], after[i:i+page]) {
			pages[virtqueuetest.DefaultExtent.GuestAddr+uint64(i)] = true
		}
	}
	return pages
}

// rxBuffers publishes n buffers on the rx ring, each on pages of its own that it
// begins in the middle of, and returns the address of the last one.
func rxBuffers(guest *vhostusertest.Guest, n, size int) (addr uint64) {
	for range n {
		addr = guest.Memory.Alloc(uint64(size)+page, page) + page/2
		guest.Rx().Add(virtqueuetest.Segment{Addr: addr, Len: uint32(size), Write: true})
	}
	guest.Rx().Publish()
	return addr
}

// What the device writes between two looks at memory is in the log: the buffers,
// the used rings, avail_event.
func TestDirtyLogHoldsWhatWasWritten(t *testing.T) {
	b := newBackend(t)
	ch, guest := b.migrating()
	ch.StartDirtyLog()
	ch.DirtyLog() // what writing began with
	for _, c := range []struct {
		name string
		most int // pages that may be marked
		act  func()
	}{
		{"nothing", 0, func() {}},
		{"received", 5, func() { b.do(func() { b.send(strings.Repeat("x", 2*page)) }) }}, // 3 of the buffer
		{"sent", 1, func() { b.do(func() { b.server.Kick(tx) }) }},
		{"stopped and started", 3, func() { ch.Stop(); ch.Resume() }},
		{"with a queue made anew", 4, func() {
			ch.SetVringEnable(rx, false)
			base := ch.GetVringBase(rx)
			ch.SetVringBase(rx, base)
			ch.SetVringKick(rx, guest.Rx().KickFd())
			ch.SetVringEnable(rx, true)
			b.do(func() { b.send("x") })
		}},
	} {
		rxBuffers(guest, 1, 3*page)
		guest.Tx().Add(guest.Memory.Out([]byte("x")))
		guest.Tx().Publish()
		before := memory(guest)
		c.act()
		ch.Barrier()
		after := memory(guest)
		marked := ch.DirtyLog()
		for addr := range changed(before, after) {
			if !marked[addr] {
				t.Errorf("%s: page 0x%x was written and is not marked", c.name, addr)
			}
		}
		if len(marked) > c.most {
			t.Errorf("%s: %d pages are marked: %#x", c.name, len(marked), slices.Sorted(maps.Keys(marked)))
		}
	}
}

// The log is replaced while the device writes: each write is in one of them, and
// none goes to a log that was replaced.
func TestDirtyLogIsReplacedUnderTraffic(t *testing.T) {
	b := newBackend(t)
	ch, guest := b.migrating()
	ch.StartDirtyLog()
	const chains = 100
	rxBuffers(guest, chains, page)
	before := memory(guest)
	sent := make(chan int)
	go func() {
		n := 0
		for range chains {
			done := make(chan bool)
			b.loop.Do(func() { done <- b.send(strings.Repeat("x", page)) })
			if <-done {
				n++
			}
		}
		sent <- n
	}()
	marked := make(map[uint64]bool)
	logs, n := 0, -1
	for n < 0 {
		for addr := range ch.DirtyLog() {
			marked[addr] = true
		}
		logs++
		select {
		case n = <-sent:
		default:
		}
	}
	if n != chains {
		t.Fatalf("%d of %d chains were sent", n, chains)
	}
	for addr := range ch.DirtyLog() {
		marked[addr] = true
	}
	written := changed(before, memory(guest))
	if len(written) < 2*chains {
		t.Fatalf("only %d pages were written", len(written))
	}
	for addr := range written {
		if !marked[addr] {
			t.Errorf("page 0x%x was written and is in none of %d logs", addr, logs)
		}
	}
	if len(marked) > len(written)+1 {
		t.Errorf("%d pages are marked, %d were written", len(marked), len(written))
	}
}

// What is logged is what was asked for: buffers by the feature, used rings by the
// rings' flag, nothing without a log and nothing any more once it was switched off.
func TestDirtyLogSwitches(t *testing.T) {
	b := newBackend(t)
	ch, guest := b.migrating()
	const features = offered | vhostuser.FeatureProtocolFeatures
	used := guest.Rx().Config().Used
	flag := func(flags uint32, log uint64) {
		t.Helper()
		c := guest.Rx().Config()
		ch.SetVringAddr(vhostuser.VringAddr{
			Index: rx, Flags: flags, Log: log,
			Desc: virtqueuetest.UserAddr(c.Desc), Avail: virtqueuetest.UserAddr(c.Avail), Used: virtqueuetest.UserAddr(c.Used),
		})
	}
	ch.SetFeatures(features | vhostuser.FeatureLogAll) // before there is a log
	flag(vhostuser.VringFlagLog, used)
	rxBuffers(guest, 1, page)
	b.do(func() { b.send("logged by nobody") })

	ch.SetLogFd(eventfd(t)) // which nobody needs
	for _, c := range []struct {
		name          string
		features      uint64
		flags         uint32
		at            uint64
		buffers, ring bool
	}{
		{"both", vhostuser.FeatureLogAll, vhostuser.VringFlagLog, used, true, true},
		{"buffers", vhostuser.FeatureLogAll, 0, math.MaxUint64, true, false},
		{"ring", 0, vhostuser.VringFlagLog, used, false, true},
		{"ring elsewhere", 0, vhostuser.VringFlagLog, 0x1000, false, true},
		{"none", 0, 0, used, false, false},
	} {
		log := vhostusertest.NewDirtyLog(t, 1024, 100)
		ch.SetLogBase(log)
		ch.SetFeatures(features | c.features)
		flag(c.flags, c.at)
		buffer := rxBuffers(guest, 1, page) &^ (page - 1)
		b.do(func() { b.send(strings.Repeat("x", page)) })
		want := make(map[uint64]bool)
		if c.buffers {
			want[buffer], want[buffer+page] = true, true
		}
		if c.ring {
			want[c.at] = true
		}
		if got := log.Pages(); !maps.Equal(got, want) {
			t.Errorf("%s: marked %#x, want %#x", c.name, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
	}
	// Rings did not notice.
	b.expect()
	if n := b.stats.Malformed.Load(); n != 0 {
		t.Errorf("%d messages were refused", n)
	}
}

// A reset device logs nothing by itself, and a ring that begins anew is not
// logged until it is said to be.
func TestResetDeviceEndsLogging(t *testing.T) {
	b := newBackend(t)
	f, guest, peer := b.runningPeer()
	log := vhostusertest.NewDirtyLog(t, 1024, 0)
	f.SetLogBase(log)
	f.SetFeatures(offered | vhostuser.FeatureProtocolFeatures | vhostuser.FeatureLogAll)
	f.ResetDevice()
	peer.Start()
	b.traffic(guest, "unlogged")
	if pages := log.Pages(); len(pages) > 0 {
		t.Errorf("marked: %#x", slices.Sorted(maps.Keys(pages)))
	}
}

// Pages that a log has no bit for are lost to it, and nothing else is harmed.
func TestDirtyLogTooSmall(t *testing.T) {
	b := newBackend(t)
	ch, guest := b.migrating()
	ch.StartDirtyLog()
	b.logs.take()
	small := vhostusertest.NewDirtyLog(t, 1, 0)
	ch.SetLogBase(small)
	b.traffic(guest, "unlogged")
	ch.SetLogBase(vhostusertest.NewDirtyLog(t, 1024, 0))
	b.traffic(guest, "logged")
	if len(small.Pages()) != 0 {
		t.Errorf("marked: %#x", slices.Sorted(maps.Keys(small.Pages())))
	}
	if b.stats.LogPagesLost.Load() == 0 {
		t.Error("the lost pages are not counted")
	}
	b.wantLog("warning: dirty log is smaller than the guest's memory map[pages:")
}

// A log that vanishes ends the session alone, wherever that is noticed.
func TestDirtyLogIsTakenAway(t *testing.T) {
	for _, c := range []struct {
		name   string
		notice func(ch *vhostusertest.CloudHypervisor, guest *vhostusertest.Guest, b *backend)
	}{
		{"at a kick", func(_ *vhostusertest.CloudHypervisor, guest *vhostusertest.Guest, b *backend) {
			guest.Tx().Add(guest.Memory.Out([]byte("x")))
			guest.Tx().Publish()
			guest.Kick(tx)
		}},
		{"when the session ends", func(ch *vhostusertest.CloudHypervisor, guest *vhostusertest.Guest, _ *backend) {
			guest.Tx().Add(guest.Memory.Out([]byte("x")))
			guest.Tx().Publish()
			ch.Close()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			ch, guest := b.migrating()
			ch.StartDirtyLog()
			log := vhostusertest.NewDirtyLog(t, 1024, 0)
			ch.SetLogBase(log)
			log.Shrink(t)
			c.notice(ch, guest, b)
			b.fadesAway()
		})
	}
}

// What cannot be a log ends the session: the frontend waits for another reply
// than an acknowledgement. The former log is let go of as well.
func TestDirtyLogRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		region vhostuser.LogRegion
		fds    []int
		want   error
	}{
		{"empty", vhostuser.LogRegion{}, []int{memfd(t, page)}, guestmem.ErrEmptyLog},
		{"beyond the file", vhostuser.LogRegion{Size: 2, Offset: page - 1}, []int{memfd(t, page)}, guestmem.ErrBeyondFile},
		{"offset beyond the file", vhostuser.LogRegion{Size: 1, Offset: page}, []int{memfd(t, page)}, guestmem.ErrBeyondFile},
		{"wraps", vhostuser.LogRegion{Size: 2, Offset: math.MaxUint64}, []int{memfd(t, page)}, guestmem.ErrBeyondFile},
		{"huge", vhostuser.LogRegion{Size: math.MaxUint64}, []int{memfd(t, page)}, guestmem.ErrBeyondFile},
		{"pipe", vhostuser.LogRegion{Size: 1}, []int{pipe(t)[0]}, guestmem.ErrNotAFile},
		{"directory", vhostuser.LogRegion{Size: 1}, []int{directory(t)}, guestmem.ErrNotAFile},
		{"no descriptor", vhostuser.LogRegion{Size: 1}, nil, nil},
		{"two descriptors", vhostuser.LogRegion{Size: 1}, []int{memfd(t, page), memfd(t, page)}, nil},
		{"read-only", vhostuser.LogRegion{Size: 1}, []int{readOnly(t)}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			ch, _ := b.migrating()
			ch.StartDirtyLog()
			before := openFds()
			ch.Write(vhostusertest.Message(vhostuser.MsgSetLogBase, vhostuser.FlagNeedReply, c.region.AppendTo(nil)), c.fds...)
			ch.WaitClosed()
			var refused *vhostuser.MessageError
			if err := b.waitEnd(); !errors.As(err, &refused) || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("the session ended with %v", err)
			}
			if n := openFds(); n >= before {
				t.Errorf("%d descriptors were open before, %d are now", before, n)
			}
			if left := logMappings(); len(left) > 1 { // the test's own
				t.Errorf("still mapped: %v", left)
			}
			b.works()
		})
	}
}
