package tests

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// messaging are the features of a Linux driver, which takes SEQPACKET.
const messaging = vhostuser.FeatureVersion1 | vhostuser.FeatureEventIdx | vhostuser.FeatureIndirectDesc | 1<<1

// bootMessaging makes a board of QEMU's whose guest has SOCK_SEQPACKET.
func (h *host) bootMessaging(t testing.TB) *board {
	t.Helper()
	b := h.plug(t, vhostusertest.QEMU10, vhostusertest.GuestOptions{Features: messaging})
	b.start()
	return b
}

// listenSeqpacket serves a port of the host.
func (b *board) listenSeqpacket() (port uint32, l *net.UnixListener) {
	b.t.Helper()
	port = newPort()
	return port, b.host.ListenSeqpacket(b.t, port)
}

// dialSeqpacket opens a connection from the guest.
func (b *board) dialSeqpacket() (guestConn, *net.UnixConn) {
	b.t.Helper()
	port, l := b.listenSeqpacket()
	defer l.Close()
	g, err := b.guest.DialSeqpacket(port)
	if err != nil {
		b.t.Fatalf("the guest connects to port %d: %v", port, err)
	}
	c := acceptFrom(b.t, l)
	if err := vm.PrepareAccepted(c); err != nil {
		b.t.Fatal(err)
	}
	return guestConn{g}, c
}

// callSeqpacket opens a connection from the host.
func (b *board) callSeqpacket() (*net.UnixConn, guestConn) {
	b.t.Helper()
	port := newPort()
	l := b.guest.ListenSeqpacket(port)
	defer l.Close()
	c := b.mustDialSeqpacket(port)
	return c, mustAccept(b.t, l)
}

func (b *board) mustDialSeqpacket(port uint32) *net.UnixConn {
	b.t.Helper()
	c, err := b.host.DialSeqpacket(port)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c
}

// exchange sends messages of these sizes both ways at once, and closes both ends.
func exchange(t testing.TB, host *net.UnixConn, guest guestConn, sizes []int) {
	t.Helper()
	h := background(func() script.Report {
		return script.Run(host, []script.Step{{Do: script.DuplexMessages, Sizes: sizes, Seed: 1}}, nil)
	})
	sent := background(func() error {
		for _, n := range sizes {
			if err := guest.WriteMessage(bytesOf(n)); err != nil {
				return fmt.Errorf("message of %d bytes: %w", n, err)
			}
		}
		return guest.CloseWrite()
	})
	var received []int
	for {
		p, err := guest.ReadMessage()
		if err != nil {
			if err != io.EOF {
				t.Errorf("the guest receives: %v", err)
			}
			break
		}
		received = append(received, len(p))
	}
	if err := sent(); err != nil {
		t.Errorf("the guest sends: %v", err)
	}
	guest.Close()
	r := h()
	if r.Err() != nil || !slices.Equal(r.ReceivedMessages, sizes) {
		t.Errorf("the host received messages of %v bytes: %v", r.ReceivedMessages, r.Err())
	}
	if !slices.Equal(received, sizes) {
		t.Errorf("the guest received messages of %v bytes, want %v", received, sizes)
	}
}

// Messages of every size, empty ones too, however a driver lays them out in its ring.
func TestSimulatedMessages(t *testing.T) {
	t.Parallel()
	withEmpties := []int{0, 1, 0, 0, 3732, 3733, 64 * kib, 0, 64*kib + 1, 212960, 0, script.MaxMessage, 0}
	for _, f := range framings {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			features := f.features
			if features == 0 {
				features = messaging
			}
			b := newHost(t).plug(t, vhostusertest.QEMU72, vhostusertest.GuestOptions{Features: features | messaging&7, RingSize: f.size})
			b.options.Framing = f.Framing
			b.start()
			sizes := withEmpties
			if f.name == "small buffers" {
				sizes = []int{0, 1, 100, 0} // a byte each, and the guest takes some 400 packets
			}
			g, c := b.dialSeqpacket()
			exchange(t, c, g, sizes)
			c, g = b.callSeqpacket()
			exchange(t, c, g, sizes)
			b.host.mustForget()
			b.host.mustIdle()
		})
	}
}

// A guest whose driver did not take SEQPACKET has none: its requests are reset, and
// programs that want it are sent away.
func TestSimulatedMessagesNotNegotiated(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.boot(t)
	port, l := b.listenSeqpacket()
	defer l.Close()
	if _, err := b.guest.DialSeqpacket(port); !errors.Is(err, muxertest.ErrReset) {
		t.Errorf("the guest connects: %v, want a reset", err)
	}
	if c, err := h.DialSeqpacket(newPort()); !errors.Is(err, io.EOF) {
		t.Errorf("a program connects: %v, %v, want end of file", c, err)
	}
	b.mustWork(kib)
	h.mustForget()
}

// seqpacketHeader returns a header on a connection of messages.
func seqpacketHeader(d *muxertest.Driver, guestPort, hostPort uint32, op csm.Op, flags uint32) csm.Header {
	h := d.Header(guestPort, hostPort, op)
	h.Type, h.Flags = csm.TypeSeqpacket, flags
	return h
}

// hostileMessagesOfGuest break the rules of messages on the connection of
// lastWordsPort, whose program does not read meanwhile.
var hostileMessagesOfGuest = []struct {
	name string
	do   func(d *muxertest.Driver, hostPort uint32)
	// reason is why the connection is reset. Without one it goes on: at the end the
	// program gets these messages.
	reason   string
	messages []int
}{
	{"a message without end", func(d *muxertest.Driver, port uint32) {
		for range window / csm.MaxPayload {
			d.Send(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, 0), bytesOf(csm.MaxPayload))
		}
	}, "violation", nil},
	{"a message longer than the window", func(d *muxertest.Driver, port uint32) {
		for i := range window/csm.MaxPayload + 1 {
			d.Send(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, uint32(i/(window/csm.MaxPayload))), bytesOf(csm.MaxPayload))
		}
	}, "violation", nil},
	{"bytes without end, one by one", func(d *muxertest.Driver, port uint32) {
		for range 1000 {
			d.Add(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, 0), []byte{1})
		}
		d.Send(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, csm.SeqEOM), []byte{1})
	}, "", []int{1001}},
	{"a flood of empty messages", func(d *muxertest.Driver, port uint32) {
		for range 100 {
			for range 100 {
				d.Add(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, csm.SeqEOM), nil)
			}
			d.Barrier() // takes the RSTs, of which there are many in the end
		}
	}, "violation", nil},
	{"packets without bytes and end", func(d *muxertest.Driver, port uint32) {
		for range 3 * 4096 {
			d.Add(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, 0), nil)
		}
		d.Send(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, csm.SeqEOM), []byte("end"))
	}, "", []int{3}},
	{"flags nobody knows", func(d *muxertest.Driver, port uint32) {
		d.Send(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, math.MaxUint32), []byte("whole"))
		d.Send(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, math.MaxUint32&^csm.SeqEOM), []byte("half"))
		d.Send(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, csm.SeqEOM), []byte("whole"))
	}, "", []int{5, 9}},
	{"a stream's bytes between", func(d *muxertest.Driver, port uint32) {
		d.Send(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, 0), []byte("half"))
		d.Send(d.Header(lastWordsPort, port, csm.OpRW), []byte("of another type"))
		p := d.Expect(csm.OpRST)
		if p.Type != csm.TypeStream {
			panic("the wrong type was reset") // the connection is gone then, and the test fails
		}
		d.Send(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, csm.SeqEOM), []byte("whole"))
	}, "", []int{9}},
	{"no end before the end", func(d *muxertest.Driver, port uint32) {
		d.Send(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, csm.SeqEOM), []byte("whole"))
		d.Send(seqpacketHeader(d, lastWordsPort, port, csm.OpRW, 0), []byte("half"))
		d.Send(seqpacketHeader(d, lastWordsPort, port, csm.OpShutdown, csm.ShutdownSend), nil)
	}, "", []int{5}},
}

// Whatever a guest makes of messages: programs get whole ones or none, and those
// beside them never notice.
func TestSimulatedHostileMessagesOfGuest(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, m := range hostileMessagesOfGuest {
		t.Run(m.name, func(t *testing.T) {
			h.t = t
			b, d := h.bareWith(t, vhostusertest.GuestOptions{Features: messaging}, muxertest.Options{})
			port, l := b.listenSeqpacket()
			open := func(guestPort uint32) *net.UnixConn {
				d.Send(seqpacketHeader(d, guestPort, port, csm.OpRequest, 0), nil)
				d.Expect(csm.OpResponse)
				return acceptFrom(t, l)
			}
			other, c := open(1), open(lastWordsPort)
			reason := `reason="` + m.reason + `"`
			resets := h.metric("resets_total", reason)
			m.do(d, port)
			if m.reason != "" {
				h.await(resets+1, "resets_total", reason)
			}
			d.Send(seqpacketHeader(d, 1, port, csm.OpRW, csm.SeqEOM), []byte("unharmed"))
			if r := script.Run(keepOpen{other}, []script.Step{receiving(1)}, nil); r.Received != 8 {
				t.Errorf("the other connection: %d bytes, %v", r.Received, r.Err())
			}
			d.Barrier()
			b.frontend.Close()
			r := script.Run(c, []script.Step{drainingMessages}, nil)
			got := slices.DeleteFunc(r.ReceivedMessages, func(n int) bool { return m.reason != "" && n == 0 })
			if r.Err() != nil || !slices.Equal(got, m.messages) {
				t.Errorf("messages of %v bytes arrived, want %v: %v", got, m.messages, r.Err())
			}
			h.mustForget()
			h.mustIdle()
		})
	}
	h.t = t
}

// Messages that are begun and not ended may take half of the memory for bytes that
// wait. Those who begin more lose their connections; streams go on.
func TestSimulatedMessagesBegunEverywhere(t *testing.T) {
	t.Parallel()
	const begun, each = 40, 192 * kib // of 4 MiB
	h := newHost(t, "--max-buffered", "4MiB")
	b, d := h.bareWith(t, vhostusertest.GuestOptions{Features: messaging}, muxertest.Options{})
	port, l := b.listenSeqpacket()
	for i := range uint32(begun) {
		d.Send(seqpacketHeader(d, 5000+i, port, csm.OpRequest, 0), nil)
		acceptFrom(t, l)
		for range each / csm.MaxPayload {
			d.Add(seqpacketHeader(d, 5000+i, port, csm.OpRW, 0), bytesOf(csm.MaxPayload))
		}
		d.Kick()
		for range d.Barrier() { // RESPONSE, and RST
		}
	}
	if n := h.metric("resets_total", `reason="shortage"`); n < begun/2 || n > begun-8 {
		t.Errorf("%d of %d connections were reset", n, begun)
	}
	if n := h.metric("buffered_bytes"); n > 3*mib {
		t.Errorf("%d bytes are buffered", n)
	}
	port, streams := b.listen()
	d.Send(d.Header(1, port, csm.OpRequest), nil)
	d.Expect(csm.OpResponse)
	c := acceptFrom(t, streams)
	d.Send(d.Header(1, port, csm.OpRW), []byte("unharmed"))
	mustReadJust(t, c, []byte("unharmed"))
	b.frontend.Close()
	h.mustForget()
	h.mustIdle()
}

// Programs that misuse the socket for messages are sent away.
func TestSimulatedBadSeqpacketClients(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.bootMessaging(t)
	l := b.guest.ListenSeqpacket(1234)
	for _, line := range []string{
		"", "\n", "CONNECT", "CONNECT 1234\nhello", "CONNECT 1234\n\n", "CONNECT 4294967296\n", "connect", "GET / HTTP/1.1\r\n\r\n", string(make([]byte, 300)),
	} {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: h.UDS + "_seqpacket"}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Send(fd, []byte(line), 0); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		n, err := unix.Read(fd, make([]byte, 100))
		if n > 0 || err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%q is answered by %d bytes, %v", line, n, err)
		}
		unix.Close(fd)
	}
	for _, line := range []string{"CONNECT 1234", "CONNECT 1234\n", "connect 1234\n"} { // and these are right
		c := b.mustSay(line)
		exchange(t, c, mustAccept(t, l), []int{1, 5})
	}
	h.mustForget()
}

// mustSay connects a program whose first message is line, which must be answered by OK.
func (b *board) mustSay(line string) *net.UnixConn {
	b.t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: b.host.UDS + "_seqpacket", Net: "unixpacket"})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	mustWrite(b.t, c, []byte(line))
	p := make([]byte, 100)
	if n, err := c.Read(p); err != nil || n < 5 || string(p[:3]) != "OK " || p[n-1] != '\n' {
		b.t.Fatalf("%q is answered by %q, %v", line, p[:n], err)
	}
	return c
}
