package tests

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
)

// What other backends fell into.
func TestAdversarialTraps(t *testing.T) {
	t.Parallel()
	confront(t, newHost(t), trapInputs)
}

// trapInputs has the traps that no other input stands for.
var trapInputs = []input{
	harmless("T6 disable while a kick blocks", func(b *board) {
		blocking := file(func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) })
		b.frontend.SetVringKick(tx, blocking(b.t))
		for range 10 {
			b.frontend.SetVringEnable(tx, false)
			b.frontend.Barrier()
			b.frontend.SetVringEnable(tx, true)
		}
		b.frontend.SetVringKick(tx, b.memory.Tx().KickFd())
	}),
	harmless("T7 descriptors of regions", func(b *board) {
		files := b.host.descriptors()
		for range 100 {
			b.frontend.SetMemTable(b.memory.Regions(), b.memory.Fds(), 0)
		}
		b.frontend.Barrier()
		if n := b.host.descriptors(); n > files+2 {
			b.t.Errorf("%d descriptors before, %d after", files, n)
		}
	}),
	{"T11 regions that fill the address space", func(h *host) {
		b := h.boot(h.t)
		g, c := b.dial()
		everything := memory(1 << 47)(h.t)
		add := func(r guestmem.Region) bool {
			return b.frontend.Ack(vhostuser.MsgAddMemReg, single(r), everything) == 0
		}
		r := guestmem.Region{GuestAddr: 1 << 48, UserAddr: 1 << 48}
		for r.Size = 1 << 46; r.Size >= page; {
			if !add(r) {
				r.Size /= 2
				continue
			}
			r.GuestAddr += r.Size
			r.UserAddr += r.Size
		}
		if got := r.GuestAddr - 1<<48; got < 8<<40 || got > 16<<40 {
			b.t.Errorf("%d TiB are mapped", got>>40)
		}
		b.mustWorkAsBefore(g, c)
		b.powerOff()
	}},
	{"T10 no call descriptor", func(h *host) {
		k := h.talk(muxertest.Options{})
		c := k.open(lastWordsPort)
		k.frontend.SetVringCall(tx, -1)
		k.frontend.SetVringCall(rx, -1)
		k.frontend.Barrier()
		k.mustCarry(lastWordsPort, c)
		mustWrite(h.t, c, []byte("polled for"))
		vm.Eventually(h.t, patience, "the guest finds it", func() bool {
			p, ok := k.driver.TryRecv()
			return ok && string(p.Payload) == "polled for"
		})
	}},
}
