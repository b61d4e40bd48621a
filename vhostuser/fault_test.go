package vhostuser_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// fadesAway waits for a session that ends because its memory is gone.
func (b *backend) fadesAway() {
	b.t.Helper()
	err := b.waitEnd()
	var fault *vhostuser.MemoryFault
	if !errors.As(err, &fault) || fault.Addr == 0 {
		b.t.Errorf("the session ended with %v", err)
	}
	if n := b.stats.SessionsEnded[vhostuser.EndMemory].Load(); n != 1 {
		b.t.Errorf("%d sessions ended for it", n)
	}
	b.events()
	b.taken()
	b.works()
}

// The frontend shrinks the file under the guest's memory. Wherever that is
// noticed, the session ends and the daemon goes on.
func TestMemoryIsTakenAway(t *testing.T) {
	for _, c := range []struct {
		name   string
		notice func(f *vhostusertest.Frontend, guest *vhostusertest.Guest, b *backend)
	}{
		{"at a kick", func(_ *vhostusertest.Frontend, guest *vhostusertest.Guest, _ *backend) {
			guest.Tx().ForceKick()
		}},
		{"when the device looks", func(_ *vhostusertest.Frontend, _ *vhostusertest.Guest, b *backend) {
			b.do(func() {
				b.look = func() bool { return !b.queues[tx].Empty() }
				b.server.Look()
				b.look = nil
			})
		}},
		{"when the device rests", func(_ *vhostusertest.Frontend, _ *vhostusertest.Guest, b *backend) {
			b.do(func() {
				b.rest = func() bool { return b.queues[tx].ArmKick() }
				b.server.Rest()
				b.rest = nil
			})
		}},
		{"when a ring stops", func(f *vhostusertest.Frontend, _ *vhostusertest.Guest, _ *backend) {
			f.Tell(vhostuser.MsgSetVringEnable, vhostusertest.State(tx, 0))
		}},
		{"when the session ends", func(f *vhostusertest.Frontend, _ *vhostusertest.Guest, _ *backend) {
			f.Close()
		}},
		{"when the memory is replaced", func(f *vhostusertest.Frontend, guest *vhostusertest.Guest, _ *backend) {
			f.Tell(vhostuser.MsgSetMemTable, vhostuser.MemRegions{}.AppendTo(nil))
		}},
		{"when memory comes that has a part of the rings", func(f *vhostusertest.Frontend, guest *vhostusertest.Guest, b *backend) {
			part := guest.Regions()[0]
			part.Size = guest.Tx().Config().Desc - part.GuestAddr // the rx ring is in front of it
			f.Tell(vhostuser.MsgSetMemTable, vhostuser.MemRegions{part}.AppendTo(nil), memfd(b.t, int64(part.Size)))
		}},
		{"when the memory is removed", func(f *vhostusertest.Frontend, guest *vhostusertest.Guest, _ *backend) {
			f.Tell(vhostuser.MsgRemMemReg, vhostuser.SingleMemRegion(guest.Regions()[0]).AppendTo(nil))
		}},
		{"when the device is reset", func(f *vhostusertest.Frontend, _ *vhostusertest.Guest, _ *backend) {
			f.Tell(vhostuser.MsgResetDevice, nil)
		}},
		{"by a ring nobody kicks for", func(f *vhostusertest.Frontend, _ *vhostusertest.Guest, _ *backend) {
			f.Tell(vhostuser.MsgSetVringKick, vhostusertest.U64(tx|1<<8))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			f, guest, _ := b.runningPeer()
			before := len(mappings())
			if err := guest.Memory.Shrink(0, 0); err != nil {
				t.Fatal(err)
			}
			c.notice(f, guest, b)
			b.fadesAway()
			if n := len(mappings()); n > before {
				t.Errorf("%d mappings before, %d after", before, n)
			}
		})
	}
}

// The file is as long as the region when it is mapped and gone before a ring
// starts, which reads the ring.
func TestMemoryIsTakenAwayBeforeTheStart(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.pausedPeer()
	if err := guest.Memory.Shrink(0, 0); err != nil {
		t.Fatal(err)
	}
	f.Tell(vhostuser.MsgSetVringKick, vhostusertest.U64(tx), guest.Tx().KickFd())
	f.Tell(vhostuser.MsgSetVringEnable, vhostusertest.State(tx, 1))
	b.fadesAway()
}

// Close after the loop has ended: the goroutine that calls it is guarded as well.
func TestMemoryIsTakenAwayBeforeClose(t *testing.T) {
	b := newBackend(t)
	_, guest, _ := b.runningPeer()
	if err := guest.Memory.Shrink(0, 0); err != nil {
		t.Fatal(err)
	}
	b.loop.Stop() // and the end of the test closes the server
}

// A panic that has another cause is a bug, which the guard must not hide.
func TestOtherPanicsGoOn(t *testing.T) {
	const page = 4096
	fd := memfd(t, page)
	truncated, err := unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(truncated)
	if err := unix.Ftruncate(fd, 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		panic func()
	}{
		{"plain", func() { panic("a bug") }},
		{"index", func() { _ = []int{}[len(t.Name())] }},
		{"nil pointer", func() { var p *int; *p = 1 }},
		{"fault elsewhere", func() { clear(truncated) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			_, guest, _ := b.runningPeer()
			recovered := make(chan any, 1)
			b.do(func() {
				b.device.fault = func() { b.device.fault = nil; c.panic() }
				defer func() { recovered <- recover() }()
				b.server.Guard(func() error { b.device.Kick(tx); return nil })
			})
			if v := <-recovered; v == nil {
				t.Error("the panic was swallowed")
			}
			b.traffic(guest, "not ended")
		})
	}
}

// What the device finds when it looks or rests is what the loop is told.
func TestDeviceLooksAndRests(t *testing.T) {
	b := newBackend(t)
	b.do(func() {
		for _, found := range []bool{true, false} {
			b.look = func() bool { return found }
			b.rest = func() bool { return !found }
			if b.server.Look() != found || b.server.Rest() == found {
				t.Error("the loop is told something else")
			}
		}
		b.look, b.rest = nil, nil
	})
}
