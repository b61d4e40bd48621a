package tests

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/scarce"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// scarceHost is a host whose kernel runs out of memory when a test wants.
type scarceHost struct {
	*host
	kernel *scarce.Kernel
	errno  unix.Errno // what the kernel says then
}

func newScarceHost(t testing.TB, errno unix.Errno, args ...string) *scarceHost {
	t.Helper()
	k := scarce.New(t)
	return &scarceHost{newHostBy(t, k.Script(), args...), k, errno}
}

// without runs f while these calls fail on these descriptors; some must have, and the
// daemon must come to rest over it.
func (h *scarceHost) without(calls []uintptr, of func(fd int) bool, f func()) {
	h.t.Helper()
	h.kernel.Begin(scarce.Shortage{Calls: calls, Errno: h.errno, Of: of})
	f()
	h.mustIdle()
	if h.kernel.End() == 0 {
		h.t.Error("the daemon did not meet the shortage")
	}
}

// anything is every descriptor.
func anything(int) bool { return true }

// programs are the sockets that lead to host programs.
func (h *scarceHost) programs(fd int) bool { return named(fd, filepath.Base(h.UDS)) }

// frontends are those that lead to frontends.
func (h *scarceHost) frontends(fd int) bool { return named(fd, filepath.Base(h.Socket)) }

// nameless are ends of socket pairs: what a frontend passes.
func nameless(fd int) bool {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	return err == nil && domain == unix.AF_UNIX && !named(fd, "/")
}

// named reports whether either end of a socket has a name that contains part. What
// accepts had a temporary one when it was bound.
func named(fd int, part string) bool {
	for _, end := range []func(int) (unix.Sockaddr, error){unix.Getsockname, unix.Getpeername} {
		addr, err := end(fd)
		if at, ok := addr.(*unix.SockaddrUnix); err == nil && ok && strings.Contains(at.Name, part) {
			return true
		}
	}
	return false
}

// stalls waits until the daemon has met the shortage, once more.
func (h *scarceHost) stalls(peer string) {
	h.t.Helper()
	before := h.metric("memory_stalls_total", peer)
	vm.Eventually(h.t, patience, "the stall is counted", func() bool { return h.metric("memory_stalls_total", peer) > before })
}

const (
	overPrograms  = `peer="host_program"`
	overFrontends = `peer="frontend"`
)

// A kernel that has no memory for a while refuses what is new, which is counted, and has
// what goes on wait: no byte is lost, nothing spins, and all is well when there is some
// again. Linux says ENOBUFS where a socket buffer cannot be had, else ENOMEM.
func TestAdversarialNoMemory(t *testing.T) {
	t.Parallel()
	for _, errno := range []unix.Errno{unix.ENOBUFS, unix.ENOMEM} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			t.Parallel()
			h := newScarceHost(t, errno, inBand)
			for _, s := range memoryShortages {
				t.Run(s.name, func(t *testing.T) {
					within(t, h.host, func() { s.meet(h) })
					h.mustServe(t)
					h.mustForget()
					h.mustIdle()
				})
			}
		})
	}
}

// memoryShortages are named after what there is no memory for.
var memoryShortages = []struct {
	name string
	meet func(*scarceHost)
}{
	{"to accept and for sockets", func(h *scarceHost) {
		h.mustOutlast(func() (restore func()) {
			h.kernel.Begin(scarce.Shortage{Calls: slices.Concat(scarce.Accept, scarce.Socket), Errno: h.errno, Of: h.listening})
			return func() { h.kernel.End() }
		})
	}},
	{"to connect", func(h *scarceHost) { h.mustRefuseGuests(scarce.Connect) }},
	{"to watch what was connected", func(h *scarceHost) { h.mustRefuseGuests(scarce.Watch) }},
	{"to watch what was accepted", func(h *scarceHost) { h.mustRefusePrograms(scarce.Watch) }},
	{"for an OK", func(h *scarceHost) { h.mustRefusePrograms(scarce.Send) }},
	{"to send to programs", (*scarceHost).keepsWhatGuestsSend},
	{"to send the last to programs", (*scarceHost).keepsLastWords},
	{"to receive from programs", (*scarceHost).leavesWhatProgramsSend},
	{"now and then", (*scarceHost).carriesAllTheSame},
	{"to map a guest's", func(h *scarceHost) {
		h.mustRefuseMemory(func() (restore func()) {
			h.kernel.Begin(scarce.Shortage{Calls: scarce.Map, Errno: h.errno})
			return func() { h.kernel.End() }
		})
	}},
	{"for replies to frontends", (*scarceHost).repliesLater},
	{"for interrupts by sockets", (*scarceHost).interruptsBySockets},
	{"for interrupts by messages", (*scarceHost).interruptsByMessages},
}

// listening are the sockets that accept.
func (h *scarceHost) listening(fd int) bool {
	yes, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && yes == 1 && named(fd, "/")
}

// mustRefuseGuests wants a guest's REQUEST to be reset at once.
func (h *scarceHost) mustRefuseGuests(calls []uintptr) {
	h.t.Helper()
	b := h.boot(h.t)
	g, c := b.dial()
	port, l := b.listen()
	defer l.Close()
	resets := h.metric("resets_total", `reason="shortage"`)
	h.without(calls, anything, func() {
		if _, err := b.guest.Dial(port); !errors.Is(err, muxertest.ErrReset) {
			h.t.Errorf("a REQUEST ended by %v", err)
		}
	})
	if n := h.metric("resets_total", `reason="shortage"`) - resets; n != 1 {
		h.t.Errorf("%d resets for shortage", n)
	}
	c.SetDeadline(time.Now().Add(patience)) // since the daemon had to rest
	mustWrite(h.t, g, []byte("all the same"))
	mustReadJust(h.t, c, []byte("all the same"))
	b.mustWork(64 * kib)
	b.powerOff()
}

// mustRefusePrograms wants a program's CONNECT to end without OK, and without trace in
// the guest.
func (h *scarceHost) mustRefusePrograms(calls []uintptr) {
	h.t.Helper()
	b := h.boot(h.t)
	port := newPort()
	b.guest.Listen(port)
	refused := h.metric("handshakes_total", `result="shortage"`)
	h.without(calls, func(fd int) bool { return h.programs(fd) && !h.listening(fd) }, func() {
		c := rawDial(h.t, h.UDS)
		defer unix.Close(c)
		unix.Write(c, fmt.Appendf(nil, "CONNECT %d\n", port)) // which may find it closed
		if n, err := unix.Read(c, make([]byte, 64)); n > 0 || err != nil && err != unix.ECONNRESET {
			h.t.Errorf("the program reads %d bytes, %v", n, err)
		}
	})
	if n := h.metric("handshakes_total", `result="shortage"`) - refused; n != 1 {
		h.t.Errorf("%d handshakes ended for shortage", n)
	}
	vm.Eventually(h.t, patience, "the guest has no connection", func() bool { return b.guest.Conns() == 0 })
	b.mustWork(64 * kib)
	b.powerOff()
}

// pair is both ends of a connection, of bytes or of messages.
type pair struct {
	t        testing.TB
	program  *net.UnixConn
	guest    guestConn
	messages bool
}

// pairs opens a connection of each kind, by either side.
func (b *board) pairs() []pair {
	b.t.Helper()
	g1, c1 := b.dial()
	c2, g2 := b.call()
	g3, c3 := b.dialSeqpacket()
	c4, g4 := b.callSeqpacket()
	return []pair{{b.t, c1, g1, false}, {b.t, c2, g2, false}, {b.t, c3, g3, true}, {b.t, c4, g4, true}}
}

func (p pair) guestSends(data []byte) {
	p.t.Helper()
	if !p.messages {
		mustWrite(p.t, p.guest, data)
	} else if err := p.guest.WriteMessage(data); err != nil {
		p.t.Fatal("the guest sends:", err)
	}
}

func (p pair) programReads(data []byte) {
	p.t.Helper()
	p.program.SetDeadline(time.Now().Add(patience)) // since when it was opened the daemon had to rest
	if !p.messages {
		mustReadJust(p.t, p.program, data)
		return
	}
	got := make([]byte, len(data)+1)
	if n, err := p.program.Read(got); err != nil || !bytes.Equal(got[:n], data) {
		p.t.Errorf("the program reads a message of %d bytes, not that of %d: %v", n, len(data), err)
	}
}

func (p pair) guestReads(data []byte) {
	p.t.Helper()
	if !p.messages {
		mustReadJust(p.t, p.guest, data)
	} else if got, err := p.guest.ReadMessage(); err != nil || !bytes.Equal(got, data) {
		p.t.Errorf("the guest reads a message of %d bytes, not that of %d: %v", len(got), len(data), err)
	}
}

// mustCarry has bytes go both ways, and the connection end well.
func (p pair) mustCarry(data []byte) {
	p.t.Helper()
	p.guestSends(data)
	p.programReads(data)
	mustWrite(p.t, p.program, data)
	p.guestReads(data)
	p.guest.CloseWrite()
	mustEndAt(p.t, p.program)
	p.program.CloseWrite()
	mustEndAt(p.t, p.guest)
}

// What a guest sends to a connection waits, and what follows it does.
func (h *scarceHost) keepsWhatGuestsSend() {
	b := h.bootMessaging(h.t)
	first, second := bytesOf(100*kib), bytesOf(90*kib)
	pairs := b.pairs()
	h.without(scarce.Send, h.programs, func() {
		for _, p := range pairs {
			p.guestSends(first)
			h.stalls(overPrograms)
			p.guestSends(second)
		}
	})
	for _, p := range pairs {
		p.programReads(first)
		p.programReads(second)
		p.mustCarry(first)
	}
	b.powerOff()
}

// It also waits where the guest has gone on: it closes, resets, or is gone itself.
func (h *scarceHost) keepsLastWords() {
	for _, end := range []func(*board, guestConn){
		func(_ *board, g guestConn) { g.Close() },
		func(_ *board, g guestConn) { g.Reset() },
		func(b *board, _ guestConn) { b.frontend.Close() },
	} {
		b := h.bootMessaging(h.t)
		data := bytesOf(100 * kib)
		pairs := b.pairs()
		h.without(scarce.Send, h.programs, func() {
			for _, p := range pairs {
				p.guestSends(data)
				h.stalls(overPrograms)
			}
			for _, p := range pairs {
				end(b, p.guest)
			}
			h.stalls(overPrograms)
		})
		for _, p := range pairs {
			p.programReads(data)
			mustEndAt(h.t, p.program)
		}
		b.powerOff()
		b.frontend.Close()
	}
}

// What a program sends stays in its socket.
func (h *scarceHost) leavesWhatProgramsSend() {
	b := h.bootMessaging(h.t)
	data := bytesOf(100 * kib)
	pairs := b.pairs()
	h.without(scarce.Receive, h.programs, func() {
		for _, p := range pairs {
			mustWrite(h.t, p.program, data)
			h.stalls(overPrograms)
			if n := p.guest.Unread(); n > 0 {
				h.t.Errorf("the guest has %d bytes all the same", n)
			}
		}
	})
	for _, p := range pairs {
		p.guestReads(data)
		p.mustCarry(data)
	}
	b.powerOff()
}

// Transfers in which calls fail now and then carry every byte, and every message once.
func (h *scarceHost) carriesAllTheSame() {
	sizes := []int{1, 3732, 3733, 64 * kib, 0, 64*kib + 1, 200 * kib, script.MaxMessage, 200 * kib, 1}
	for _, n := range []int{2, 3, 5} {
		b := h.bootMessaging(h.t)
		pairs := b.pairs()
		h.kernel.Begin(scarce.Shortage{Calls: slices.Concat(scarce.Send, scarce.Receive), Errno: h.errno, Of: h.programs, OneIn: n})
		var done []func() any
		for _, p := range pairs {
			done = append(done, background(func() any {
				if p.messages {
					exchange(h.t, p.program, p.guest, sizes)
				} else {
					converse(h.t, p.program, p.guest, both(mib, 1), both(mib, 2))
				}
				return nil
			}))
		}
		for _, wait := range done {
			wait()
		}
		if calls := h.kernel.End(); calls < 60 {
			h.t.Errorf("only %d calls were made", calls)
		}
		b.powerOff()
		b.frontend.Close()
	}
}

// A frontend gets its replies when there is memory for them, if it is still there.
func (h *scarceHost) repliesLater() {
	const asked = 40 // more than are served in one turn
	for _, waits := range []bool{true, false} {
		b := h.boot(h.t)
		g, c := b.dial()
		h.without(scarce.Send, h.frontends, func() {
			for range asked {
				b.frontend.Write(getFeatures)
			}
			h.stalls(overFrontends)
			mustWrite(h.t, g, []byte("all the same"))
			mustReadJust(h.t, c, []byte("all the same"))
			if !waits {
				b.frontend.Close()
				h.await(0, "frontend_attached")
			}
		})
		if waits {
			for range asked {
				b.frontend.Reply(vhostuser.MsgGetFeatures)
			}
			b.frontend.Barrier()
			b.mustWork(64 * kib)
		}
		b.powerOff()
		b.frontend.Close()
	}
}

// interruptsBySockets has a frontend whose call descriptor is an end of a socket pair, as
// User-Mode Linux has.
func (h *scarceHost) interruptsBySockets() {
	b := h.plug(h.t, vhostusertest.QEMU10, vhostusertest.GuestOptions{})
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { unix.Close(ends[0]); unix.Close(ends[1]) })
	b.peer.Start()
	b.frontend.SetVringCall(rx, ends[1])
	h.interruptsLater(b, func() bool {
		n, _, err := unix.Recvfrom(ends[0], make([]byte, 64), unix.MSG_DONTWAIT)
		return err == nil && n > 0
	})
}

// interruptsByMessages has one with INBAND_NOTIFICATIONS.
func (h *scarceHost) interruptsByMessages() {
	b := h.plug(h.t, vhostusertest.UML, vhostusertest.GuestOptions{})
	b.peer.Start()
	h.interruptsLater(b, func() bool { return b.memory.WaitInterrupt(rx, 0) })
}

// interruptsLater wants no interrupt to be lost. interrupted takes those that came.
func (h *scarceHost) interruptsLater(b *board, interrupted func() bool) {
	d := b.driver()
	port, l := b.listen()
	d.Send(d.Header(1, port, csm.OpRequest), nil)
	b.memory.Kick(rx)
	b.memory.Kick(tx)
	c := acceptFrom(h.t, l)
	take := func() (p muxertest.Packet) {
		vm.Eventually(h.t, patience, "a packet is there", func() (ok bool) {
			p, ok = d.TryRecv()
			return ok
		})
		return p
	}
	take()
	for range 3 {
		h.mustIdle()
		for interrupted() {
		}
		if b.memory.Rx().ArmInterrupt() {
			h.t.Fatal("there are more packets")
		}
		h.without(scarce.Send, nameless, func() {
			c.SetDeadline(time.Now().Add(patience)) // since the daemon had to rest
			mustWrite(h.t, c, []byte("hello"))
			h.stalls(overFrontends)
			if interrupted() {
				h.t.Error("there is an interrupt all the same")
			}
		})
		vm.Eventually(h.t, patience, "the interrupt comes", interrupted)
		if p := take(); string(p.Payload) != "hello" {
			h.t.Errorf("the packet carries %q", p.Payload)
		}
	}
	b.frontend.Close()
}
