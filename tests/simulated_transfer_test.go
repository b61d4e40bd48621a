package tests

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// framings are the ways in which drivers lay packets out in descriptors, and
// rings in memory.
var framings = []struct {
	name     string
	features uint64 // 0: those of Linux
	size     int    // entries of a ring; 0: what the frontend uses
	muxertest.Framing
}{
	{name: "Linux 6.12.117"}, // 44 + 32768 + 32768, indirect; 3776 to receive
	{name: "Linux, direct", Framing: muxertest.Framing{Direct: -1}},
	{name: "Linux 6.1", Framing: muxertest.Framing{Tx: muxertest.CutAt(44), Rx: []int{44, 4096}}},
	{name: "one descriptor", Framing: muxertest.Framing{Tx: muxertest.OnePiece, Rx: []int{4096}}},
	{name: "header in pieces", Framing: muxertest.Framing{Tx: muxertest.CutAt(1, 20, 43, 45, 5000), Rx: []int{1, 19, 23, 2, 3000}, Gap: 3, Direct: 2}},
	{name: "eighteen descriptors", Framing: muxertest.Framing{Tx: muxertest.Pieces(18), Direct: 3}, size: 256},
	{name: "small buffers", Framing: muxertest.Framing{Rx: []int{45}}},
	{name: "large buffers", Framing: muxertest.Framing{Rx: []int{44 + 64*kib}}},
	{name: "no EVENT_IDX", features: vhostuser.FeatureVersion1 | vhostuser.FeatureIndirectDesc},
	{name: "no INDIRECT_DESC", features: vhostuser.FeatureVersion1 | vhostuser.FeatureEventIdx},
	{name: "neither", features: vhostuser.FeatureVersion1, size: 1024},
	{name: "tiny rings", size: 4},
}

func TestSimulatedFramings(t *testing.T) {
	t.Parallel()
	for _, f := range framings {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			b := newHost(t).plug(t, vhostusertest.QEMU72, vhostusertest.GuestOptions{Features: f.features, RingSize: f.size})
			b.options.Framing = f.Framing
			b.start()
			size := int64(2 * mib)
			if f.name == "small buffers" {
				size = 64 * kib // a byte each
			}
			b.mustWork(size)
			g, h := b.dial()
			for range 200 { // small ones share writes and buffers
				mustWrite(t, g, []byte("to the host"))
				mustWrite(t, h, []byte("to the guest"))
			}
			for range 200 {
				mustReadJust(t, h, []byte("to the host"))
				mustReadJust(t, g, []byte("to the guest"))
			}
			if n := b.host.metric("bad_chains_total"); n != 0 {
				t.Errorf("%d chains were bad", n)
			}
		})
	}
}

// 64 MiB each way, in packets of 64 KiB from the guest.
func TestSimulatedBulk(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.boot(t)
	g, c := b.dial()
	converse(t, c, g, sendBulk(bulk), []script.Step{{Do: script.Drain}})
	c, g = b.call()
	converse(t, c, g, []script.Step{{Do: script.Drain}}, sendBulk(bulk))
	if n := h.metric("packets_total", `direction="tx"`, `op="rw"`); n > bulk/(48*kib) {
		t.Errorf("the guest sent %d packets: not such large ones as it was to", n)
	}
}

func TestSimulatedSixteenAtOnce(t *testing.T) {
	t.Parallel()
	b := newHost(t).boot(t)
	var all sync.WaitGroup
	for i := range byte(8) {
		g, h := b.dial()
		all.Go(func() { converse(t, h, g, both(2*mib, 2*i), both(2*mib, 2*i+1)) })
		h2, g2 := b.call()
		all.Go(func() { converse(t, h2, g2, both(2*mib, 100+2*i), both(2*mib, 101+2*i)) })
	}
	all.Wait()
	b.host.mustForget()
}

// Who does not read, on either side, holds up nobody else, and loses nothing.
func TestSimulatedStalledReaders(t *testing.T) {
	t.Parallel()
	const size = 3 * mib
	h := newHost(t)
	b := h.boot(t)
	up, slowHost := b.dial()
	down, slowGuest := b.call()
	sent := []script.Step{{Do: script.Send, Bytes: size, Seed: 9}}
	fromGuest := background(func() script.Report { return script.Run(up, sent, nil) })
	fromHost := background(func() script.Report { return script.Run(down, sent, nil) })
	vm.Eventually(t, patience, "both stall", func() bool {
		s := h.Scrape(t)
		return s.Sum("vhost_user_vsock_host_stalls_total") > 0 && slowGuest.Unread() >= window-csmPacket
	})
	for range 3 {
		b.mustWork(mib)
	}
	h.mustIdle()
	for _, end := range []struct {
		conn script.Conn
		sent func() script.Report
	}{{slowHost, fromGuest}, {slowGuest, fromHost}} {
		got := script.Run(end.conn, []script.Step{{Do: script.Drain}}, nil)
		if r := end.sent(); r.Err() != nil || got.Err() != nil || got.ReceivedSum != script.Sum(9, size) {
			t.Errorf("%d bytes of %d: %v, %v", got.Received, r.Sent, got.Err(), r.Err())
		}
	}
}

// csmPacket is the largest payload of a packet to the guest here.
const csmPacket = muxertest.LinuxRxBuffer

// The host has no program for a port, or something else under its name: the guest
// hears of it at once.
func TestSimulatedRefusals(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.boot(t)
	stale := newPort()
	if err := unix.Mknod(fmt.Sprintf("%s_%d", h.UDS, stale), unix.S_IFREG|0o600, 0); err != nil {
		t.Fatal(err)
	}
	closed, l := b.listen()
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, port := range []uint32{newPort(), stale, closed, 0, 1<<32 - 1} {
		if _, err := b.guest.Dial(port); err != muxertest.ErrReset {
			t.Errorf("port %d: %v", port, err)
		}
	}
	mustEndAt(t, h.client(t, fmt.Sprintf("CONNECT %d\n", newPort())))
	h.await(1, "handshakes_total", `result="refused"`)
	b.mustWork(kib)
}

func TestSimulatedConnectionLimit(t *testing.T) {
	t.Parallel()
	h := newHost(t, "--max-connections", "4")
	b := h.boot(t)
	port, programs := b.listen()
	serve := newPort()
	guest := b.guest.Listen(serve)
	for range 3 {
		g, c := b.dial()
		defer c.Close()
		b.dial()
		c2, g2 := b.call()
		b.call()

		if _, err := b.guest.Dial(port); err != muxertest.ErrReset {
			t.Errorf("the guest's fifth connection: %v", err)
		}
		mustEndAt(t, h.client(t, fmt.Sprintf("CONNECT %d\n%s", serve, bytesOf(40*kib))))

		g.Close()
		mustEndAt(t, c)
		h.await(3, "connections")
		again, err := h.Dial(serve)
		if err != nil {
			t.Fatal("with one connection fewer:", err)
		}
		again.Close()
		mustAccept(t, guest).Close()
		mustWrite(t, c2, []byte("alive"))
		mustReadJust(t, g2, []byte("alive"))
		b.reset() // all are over
		b.start()
		guest = b.guest.Listen(serve)
		h.mustForget()
	}
	programs.Close()
	if n := h.metric("resets_total", `reason="limit"`); n != 3 {
		t.Errorf("%d RSTs for the limit", n)
	}
	if n := h.metric("handshakes_total", `result="limit"`); n != 3 {
		t.Errorf("%d clients refused for the limit", n)
	}
}

// At the cap on buffered bytes the guest's transmit ring waits. What flows the
// other way goes on, and when programs read nothing is missing.
func TestSimulatedBufferLimit(t *testing.T) {
	t.Parallel()
	const conns, size = 24, mib
	h := newHost(t, "--max-buffered", "1MiB")
	b := h.boot(t)
	down, reader := b.call()
	var guests []guestConn
	var programs []*net.UnixConn
	for range conns {
		g, c := b.dial()
		guests, programs = append(guests, g), append(programs, c)
	}
	var sent []func() script.Report
	for i, g := range guests {
		steps := []script.Step{{Do: script.Send, Bytes: size, Seed: byte(i)}}
		sent = append(sent, background(func() script.Report { return script.Run(g, steps, nil) }))
	}
	vm.Eventually(t, patience, "the ring stalls", func() bool {
		return h.metric("ring_stalls_total", `queue="tx"`, `reason="buffered_limit"`) > 0
	})
	if n := h.metric("buffered_bytes"); n > mib+mib/2 {
		t.Errorf("%d bytes are buffered", n)
	}
	mustWrite(t, down, bytesOf(100*kib))
	mustReadJust(t, reader, bytesOf(100*kib))
	h.mustIdle()
	var received []func() script.Report // all at once: bytes for one wait behind those for others
	for _, c := range programs {
		received = append(received, background(func() script.Report { return script.Run(c, []script.Step{{Do: script.Drain}}, nil) }))
	}
	for i := range sent {
		got := received[i]()
		if r := sent[i](); r.Err() != nil || got.Err() != nil || got.ReceivedSum != script.Sum(byte(i), size) {
			t.Errorf("%d bytes of %d: %v, %v", got.Received, r.Sent, got.Err(), r.Err())
		}
	}
	if n := h.metric("resets_total", `reason="violation"`); n != 0 {
		t.Errorf("%d connections were reset", n)
	}
	down.Close()
	reader.Close()
	h.mustForget()
}

// A program that is slow to accept has its backlog full. The guest's REQUESTs wait
// for it, and nobody waits for them.
func TestSimulatedFullBacklog(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.boot(t)
	port, l := b.listen()
	narrow(t, l)
	const n = 12
	var dials []func() error
	for range n {
		dials = append(dials, background(func() error {
			c, err := b.guest.Dial(port)
			if err == nil {
				_, err = io.WriteString(c, "hello")
				c.Shutdown(csm.ShutdownSend)
			}
			return err
		}))
	}
	h.await(n-2, "dials") // a backlog of 1 takes two
	b.mustWork(64 * kib)
	for range n {
		mustRead(t, acceptFrom(t, l), []byte("hello"))
	}
	for _, dial := range dials {
		if err := dial(); err != nil {
			t.Error(err)
		}
	}
	h.await(0, "dials")

	// And when nobody accepts, RST before the guest's own two seconds are over.
	for _, dial := range []func() error{
		background(func() error { _, err := b.guest.Dial(port); return err }),
		background(func() error { _, err := b.guest.Dial(port); return err }),
		background(func() error { _, err := b.guest.Dial(port); return err }),
	} {
		if err := dial(); err != nil && err != muxertest.ErrReset {
			t.Error(err)
		}
	}
	h.await(1, "resets_total", `reason="backlog"`)
}

// narrow gives a listener a backlog of 1.
func narrow(t *testing.T, l *net.UnixListener) {
	t.Helper()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if ctl := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 1) }); ctl != nil || err != nil {
		t.Fatal("listen:", ctl, err)
	}
}
