package muxer_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// The CONNECT line is the first message, alone, with or without its newline; what
// follows is payload, also when it was sent before the OK.
func TestConnectMessages(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"CONNECT 1234\n", "CONNECT 1234", "connect 1234\r\n", "CONNECT 1234\r", "CONNECT 0000000000000000001234 ", "CONNECT 0000000000000000001234 \n"} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			v := newVM(t, options{seqpacket: true})
			l := v.guest().ListenSeqpacket(1234)
			s := v.messageClient(line)
			s.send([]byte("CONNECT 1\n"))
			s.send(nil)
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			guestSends(t, c, []byte("from the guest"))
			if port := s.wantOK(); port != int(c.HostPort()) {
				t.Errorf("OK %d, want %d", port, c.HostPort())
			}
			s.want([]byte("from the guest")) // a message of its own, though nobody read the OK before
			wantGuestMessage(t, c, []byte("CONNECT 1\n"))
			wantGuestMessage(t, c, nil)
			c.Close()
			s.wantEOF()
			v.idle()
		})
	}
}

func TestBadConnectMessages(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true})
	v.guest().ListenSeqpacket(52)
	lines := []string{
		"", "\n", "CONNECT", "CONNECT ", "CONNECT\n", "CONNECT 52\nhello", "CONNECT 52\n\n", "CONNECT 52 x", "CONNECT 4294967296",
		"CONNECT -1", "GET / HTTP/1.1\r\n\r\n", "CONNECT 52" + strings.Repeat(" ", 23), string(pattern(200 << 10)),
	}
	for _, line := range lines {
		s := v.messageClient(line)
		s.wantEOF()
	}
	v.count("bad lines", &v.stats.Handshakes[muxer.HandshakeBadLine], uint64(len(lines)))
	v.idle()
}

func TestSilentMessageClients(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true})
	dial := func() *messageSock {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: v.path + "_seqpacket", Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		return newMessageSock(t, c)
	}
	dial().Close()
	v.count("gone", &v.stats.Handshakes[muxer.HandshakeGone], 1)
	begin := time.Now()
	dial().wantEOF()
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("closed after %v, want 2 s", took)
	}
	v.count("timeouts", &v.stats.Handshakes[muxer.HandshakeTimeout], 1)
	v.idle()
}

// A driver without SEQPACKET gets no REQUEST for one (virtio v1.4 §5.10.3), and its
// own is reset; streams are not touched by that.
func TestGuestWithoutSeqpacket(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, g := v.listen(52), v.guest()
	l := g.Listen(53)
	v.listenMessages(54)
	v.messageClient("CONNECT 53\n").wantEOF()
	v.count("no_seqpacket", &v.stats.Handshakes[muxer.HandshakeNoSeqpacket], 1)
	if _, err := g.DialSeqpacket(54); err != muxertest.ErrReset {
		t.Fatalf("guest connects: %v, want RST", err)
	}
	v.count("type", &v.stats.Resets[muxer.ResetType], 1)
	c, s := v.dial(g, p, 52)
	c.Close()
	s.wantEOF()
	c, s = v.call(l, 53)
	c.Close()
	s.wantEOF()
	v.idle()
}

// A guest that has connections of messages alone: streams are reset, and only they.
func TestGuestWithoutStreams(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	v.do(func() { v.m.Negotiated(1<<1 | 1<<2) })
	p, g := v.listenMessages(52), v.guest()
	v.listen(53)
	if _, err := g.Dial(53); err != muxertest.ErrReset {
		t.Fatalf("a stream of the guest: %v, want RST", err)
	}
	c, s := v.dialMessages(g, p, 52)
	guestSends(t, c, []byte("hello"))
	s.want([]byte("hello"))
}

// The two types are two worlds: whoever connects to the wrong one is refused.
func TestTypesDoNotMeet(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true})
	v.listen(52)
	v.listenMessages(53)
	g := v.guest()
	g.Listen(54)
	g.ListenSeqpacket(55)
	if _, err := g.DialSeqpacket(52); err != muxertest.ErrReset {
		t.Errorf("messages to a stream's port: %v, want RST", err)
	}
	if _, err := g.Dial(53); err != muxertest.ErrReset {
		t.Errorf("a stream to a port of messages: %v, want RST", err)
	}
	v.count("refused by the host", &v.stats.Resets[muxer.ResetRefused], 2)
	v.messageClient("CONNECT 54\n").wantEOF()
	v.client("CONNECT 55\n").wantEOF()
	v.count("refused by the guest", &v.stats.Handshakes[muxer.HandshakeRefused], 2)
	v.idle()
}

// A packet of the wrong type is reset and harms nobody (virtio v1.4 §5.10.6.4).
func TestStreamPacketForMessages(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true})
	p, d := v.listenMessages(52), v.driver
	s := v.openMessages(p, 1000, 52)
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("x"))
	if rst := d.Expect(csm.OpRST); rst.Type != csm.TypeStream {
		t.Fatalf("RST of type %d", rst.Type)
	}
	d.Send(v.messageHeader(1001, 52, csm.OpRW), []byte("x"))
	if rst := d.ExpectFor(1001, 52, csm.OpRST); rst.Type != csm.TypeSeqpacket {
		t.Fatalf("RST of type %d", rst.Type)
	}
	v.sendPiece(1000, 52, []byte("mine"), true)
	s.want([]byte("mine"))
	v.count("type", &v.stats.Resets[muxer.ResetType], 1)
}

// Both listeners count against the same limit of connections.
func TestMessageClientsCountAgainstTheLimit(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true, Config: muxer.Config{MaxConnections: 2}})
	g := v.guest()
	l, lm := g.Listen(52), g.ListenSeqpacket(53)
	v.call(l, 52)
	c, s := v.callMessages(lm, 53)
	v.messageClient("CONNECT 53\n").wantEOF()
	v.client("CONNECT 52\n").wantEOF()
	v.count("limit", &v.stats.Handshakes[muxer.HandshakeLimit], 2)
	c.Close()
	s.wantEOF()
	s.Close()
	v.eventually("room for one", func() bool { return v.connections() == 1 })
	v.callMessages(lm, 53)
}

// Waiting host programs of both kinds come to their guest when it is up.
func TestMessageClientBeforeTheDriver(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true, paused: true})
	l := v.guest().ListenSeqpacket(52)
	early, gone := v.messageClient("CONNECT 52\n"), v.messageClient("CONNECT 52\n")
	gone.Close()
	v.count("gone", &v.stats.Handshakes[muxer.HandshakeGone], 1)
	v.resume()
	early.wantOK()
	if _, err := l.Accept(); err != nil {
		t.Fatal(err)
	}
}

// A program that has sent its messages and closed before its OK is served.
func TestMessageClientLeavesBeforeItsOK(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true, driver: muxertest.Options{}})
	d := v.driver
	s := v.messageClient("CONNECT 52\n")
	s.send(nil)
	s.send([]byte("hello"))
	s.Close()
	port := d.Expect(csm.OpRequest).SrcPort
	d.Send(v.messageHeader(52, port, csm.OpResponse), nil)
	for _, want := range []string{"", "hello"} {
		if p := d.Expect(csm.OpRW); string(p.Payload) != want || p.Flags != csm.SeqEOM {
			t.Fatalf("received %q with flags %d, want the message %q", p.Payload, p.Flags, want)
		}
	}
	if p := d.Expect(csm.OpShutdown); p.Flags != csm.ShutdownBoth {
		t.Fatalf("SHUTDOWN %d", p.Flags)
	}
	d.Send(v.messageHeader(52, port, csm.OpRST), nil)
	v.idle()

	s = v.messageClient("CONNECT 53\n")
	port = d.Expect(csm.OpRequest).SrcPort
	s.Close() // with nothing to say
	v.count("gone", &v.stats.Handshakes[muxer.HandshakeGone], 2)
	d.Send(v.messageHeader(53, port, csm.OpResponse), nil)
	d.ExpectFor(53, port, csm.OpRST)
	v.idle()
}

// The OK's number is chosen as for streams.
func TestOKMessagePorts(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{seqpacket: true, Config: muxer.Config{OKPort: muxer.OKGuest}})
	v.guest().ListenSeqpacket(52)
	s := v.messageClient(fmt.Sprintf("CONNECT %d\n", 52))
	if port := s.wantOK(); port != 52 {
		t.Errorf("OK %d, want the guest's port", port)
	}
}
