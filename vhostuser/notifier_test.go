package vhostuser_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// A program that is started meanwhile must not inherit them, and nothing may
// block on them.
func TestReceivedDescriptorsAreOurOwn(t *testing.T) {
	b := newBackend(t)
	f := b.negotiated()
	sent := eventfd(t)
	if _, err := unix.FcntlInt(uintptr(sent), unix.F_SETFL, 0); err != nil {
		t.Fatal(err)
	}
	got := int(lowestFree(t))
	f.SetVringCall(0, sent)
	f.Barrier()
	if flags, err := unix.FcntlInt(uintptr(got), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags 0x%x, %v", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(got), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("status flags 0x%x, %v", flags, err)
	}
}

func TestKickDescriptors(t *testing.T) {
	socket, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket[0])
	defer unix.Close(socket[1])
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epoll)
	orphan, p := pipe(t), pipe(t)
	unix.Close(orphan[1])
	write := func(fd int) func() {
		return func() { unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }
	}
	nothing := func() {}
	for _, c := range []struct {
		name   string
		fd     int
		kick   func()
		served bool
	}{
		{"pipe", p[0], write(p[1]), true},
		{"socket", socket[0], write(socket[1]), true},
		// Nobody can kick for these rings, so they are looked at from time to time.
		{"pipe without a writer", orphan[0], nothing, true},
		{"none", -1, nothing, true},
		// Here somebody could and never does.
		{"epoll", epoll, nothing, false},
		{"write end of a pipe", p[1], nothing, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			f, guest, _ := b.runningPeer()
			f.NeedReply = true
			f.SetVringKick(tx, c.fd)
			for range 3 {
				guest.Tx().Add(guest.Memory.Out([]byte("x")))
				guest.Tx().Publish()
				c.kick()
				if c.served {
					b.waitFor("chain taken", func() bool { return guest.Tx().UsedIdx() == guest.Tx().AvailIdx() })
				}
			}
			// A loop that spins on the descriptor would count thousands.
			if n := b.stats.Queues[tx].Kicks.Load(); n > 20 {
				t.Errorf("%d kicks for three chains", n)
			}
			f.SetVringKick(tx, guest.Tx().KickFd())
			if n := len(b.taken()); n != 3 {
				t.Errorf("%d of three chains were taken", n)
			}
			for range 3 {
				guest.Tx().Used()
			}
			guest.Tx().Interrupts()
			b.traffic(guest, "with an eventfd again")
		})
	}
}

func TestKickWithDescriptorAndNoFdBit(t *testing.T) {
	b := newBackend(t)
	f, _, _ := b.runningPeer()
	before := openFds()
	if f.Ack(vhostuser.MsgSetVringCall, vhostusertest.U64(0|1<<8), eventfd(t)) != 0 {
		t.Error("refused")
	}
	// The ring's former one and the one that came are closed; ours is open.
	if n := openFds(); n != before {
		t.Errorf("%d descriptors before, %d after", before, n)
	}
}

func TestCallDescriptors(t *testing.T) {
	socket, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket[0])
	fill(t, socket[0])
	full, orphan := pipe(t), pipe(t)
	fill(t, full[1])
	unix.Close(orphan[0])
	gone, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(gone[0])
	unix.Close(gone[1])
	defer unix.Close(socket[1])
	for _, c := range []struct {
		name string
		fd   int
	}{
		{"full socket", socket[0]},
		{"full pipe", full[1]},
		{"pipe without a reader", orphan[1]},
		{"socket without a peer", gone[0]},
		{"read end of a pipe", full[0]},
		{"none", -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			f, guest, _ := b.runningPeer()
			f.NeedReply = true
			f.SetVringCall(tx, c.fd)
			f.SetVringErr(tx, c.fd)
			for range 3 {
				guest.Tx().Add(guest.Memory.Out([]byte("x")))
				guest.Tx().ArmInterrupt()
				guest.Tx().Publish()
				guest.Tx().ForceKick()
				b.waitFor("chain taken", func() bool { return guest.Tx().UsedIdx() == guest.Tx().AvailIdx() })
				guest.Tx().Used()
			}
			b.taken()
			f.SetVringCall(tx, guest.Tx().CallFd())
			b.traffic(guest, "with an eventfd again")
		})
	}
}

// A descriptor whose other side is gone is closed with the first attempt.
func TestDeadCallDescriptorIsDropped(t *testing.T) {
	b := newBackend(t)
	f, _, _ := b.runningPeer()
	f.NeedReply = true
	p := pipe(t)
	unix.Close(p[0])
	f.SetVringCall(tx, -1)
	before := openFds()
	f.SetVringCall(tx, p[1]) // is signalled at once, for the ring runs
	if n := openFds(); n != before {
		t.Errorf("%d descriptors before, %d after", before, n)
	}
}

// fill writes until nothing more fits.
func fill(t *testing.T, fd int) {
	t.Helper()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := unix.Write(fd, make([]byte, 4096)); err != nil {
			break
		}
	}
	for {
		if _, err := unix.Write(fd, make([]byte, 1)); err != nil {
			break
		}
	}
	if err := unix.SetNonblock(fd, false); err != nil { // as UML's is
		t.Fatal(err)
	}
}

// QEMU sets the final call descriptor after it has enabled the ring, and swaps it
// when the guest masks its interrupt. What went to the old one may be lost, so
// the new one is signalled once.
func TestNewCallDescriptorIsSignalled(t *testing.T) {
	b := newBackend(t)
	f, _, peer := b.runningPeer()
	f.NeedReply = true
	call := eventfd(t)
	f.SetVringCall(tx, call)
	if n := count(t, call); n != 1 {
		t.Errorf("signalled %d times while the ring runs", n)
	}
	peer.Stop()
	f.SetVringCall(tx, call)
	if n := count(t, call); n != 0 {
		t.Errorf("signalled %d times while the ring is stopped", n)
	}
}

// count reads an eventfd.
func count(t *testing.T, fd int) byte {
	t.Helper()
	var p [8]byte
	unix.Read(fd, p[:])
	return p[0]
}

// A ring that is switched off and on goes on with the same state. An interrupt
// may have been lost in between.
func TestPausedRingIsSignalledWhenItGoesOn(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	f.NeedReply = true
	guest.Tx().Interrupts()
	f.SetVringEnable(tx, false)
	if n := guest.Tx().Interrupts(); n != 0 {
		t.Errorf("%d interrupts when it stopped", n)
	}
	f.SetVringEnable(tx, true)
	if n := guest.Tx().Interrupts(); n != 1 {
		t.Errorf("%d interrupts when it went on", n)
	}
	b.expect("stop 1", "start 1")
}

func TestMessageFlood(t *testing.T) {
	b := newBackend(t)
	f, guest, _ := b.runningPeer()
	before := openFds()
	call := guest.Tx().CallFd()
	const n = 20_000
	for range n {
		f.SetVringCall(tx, call)
	}
	f.Barrier()
	if n := openFds(); n != before {
		t.Errorf("%d descriptors before, %d after", before, n)
	}
	b.traffic(guest, "after the flood")
}
