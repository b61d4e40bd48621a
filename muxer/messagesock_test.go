package muxer_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// messageSock is a host program's end of a connection of messages; its calls fail
// the test.
type messageSock struct {
	t testing.TB
	*net.UnixConn
	buf []byte
}

func newMessageSock(t testing.TB, c *net.UnixConn) *messageSock {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	s := &messageSock{t, c, make([]byte, csm.MaxMessage+1)}
	s.option(unix.SO_PASSCRED, 1)
	s.option(unix.SO_SNDBUF, 1<<20) // for more than a message may have
	return s
}

func (s *messageSock) option(name, value int) {
	s.t.Helper()
	s.control(func(fd int) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, name, value); err != nil {
			s.t.Fatal("setsockopt:", err)
		}
	})
}

func (s *messageSock) control(f func(fd int)) {
	raw, err := s.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { f(int(fd)) }); err != nil {
		s.t.Fatal(err)
	}
}

func (s *messageSock) send(p []byte) {
	s.t.Helper()
	if err := s.trySend(p); err != nil {
		s.t.Fatal("host program sends:", err)
	}
}

// trySend writes a message, an empty one too.
func (s *messageSock) trySend(p []byte) error {
	s.SetWriteDeadline(time.Now().Add(patience))
	n, _, err := s.WriteMsgUnix(p, nil, nil)
	if err == nil && n != len(p) {
		err = fmt.Errorf("%d of %d bytes", n, len(p))
	}
	return err
}

// recv returns the next message; io.EOF tells of the end.
func (s *messageSock) recv() ([]byte, error) {
	var control [64]byte
	s.SetReadDeadline(time.Now().Add(patience))
	n, controlN, _, _, err := s.ReadMsgUnix(s.buf, control[:])
	if controlN > 0 && errors.Is(err, io.EOF) { // Go takes no bytes for the end of file
		err = nil
	}
	return s.buf[:max(n, 0)], err
}

func (s *messageSock) want(p []byte) {
	s.t.Helper()
	switch got, err := s.recv(); {
	case err != nil:
		s.t.Fatalf("host program waits for a message of %d bytes: %v", len(p), err)
	case !bytes.Equal(got, p):
		s.t.Fatalf("host program receives %d bytes, want %d; they differ from byte %d on", len(got), len(p), mismatch(got, p))
	}
}

func (s *messageSock) wantEOF() {
	s.t.Helper()
	if p, err := s.recv(); !errors.Is(err, io.EOF) {
		s.t.Fatalf("host program receives %d bytes, %v; want end of file", len(p), err)
	}
}

// wantOK reads an OK message and returns its number.
func (s *messageSock) wantOK() int {
	s.t.Helper()
	p, err := s.recv()
	var port int
	if err == nil {
		_, err = fmt.Sscanf(string(p), "OK %d\n", &port)
	}
	if err != nil || string(p) != "OK "+strconv.Itoa(port)+"\n" {
		s.t.Fatalf("host program receives %q, %v; want OK", p, err)
	}
	return port
}

// messageProgram is a host program's listener for messages.
type messageProgram struct {
	t testing.TB
	*net.UnixListener
}

func (v *vm) listenMessages(port uint32) *messageProgram {
	v.t.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: v.portPath(port), Net: "unixpacket"})
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { l.Close() })
	return &messageProgram{v.t, l}
}

func (p *messageProgram) accept() *messageSock {
	p.t.Helper()
	p.SetDeadline(time.Now().Add(patience))
	c, err := p.AcceptUnix()
	if err != nil {
		p.t.Fatal("host program:", err)
	}
	return newMessageSock(p.t, c)
}

// messageClient connects a host program and sends its first message.
func (v *vm) messageClient(line string) *messageSock {
	v.t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: v.path + "_seqpacket", Net: "unixpacket"})
	if err != nil {
		v.t.Fatal("host program:", err)
	}
	s := newMessageSock(v.t, c)
	s.send([]byte(line))
	return s
}

// dialMessages opens a connection from the guest and returns both ends.
func (v *vm) dialMessages(g *muxertest.Guest, p *messageProgram, port uint32) (*muxertest.Conn, *messageSock) {
	v.t.Helper()
	c, err := g.DialSeqpacket(port)
	if err != nil {
		v.t.Fatal("guest connects:", err)
	}
	return c, p.accept()
}

// callMessages opens a connection from the host and returns both ends.
func (v *vm) callMessages(l *muxertest.Listener, port uint32) (*muxertest.Conn, *messageSock) {
	v.t.Helper()
	s := v.messageClient(fmt.Sprintf("CONNECT %d\n", port))
	s.wantOK()
	c, err := l.Accept()
	if err != nil {
		v.t.Fatal("guest accepts:", err)
	}
	return c, s
}

// wantGuestMessage reads one message at the guest's end.
func wantGuestMessage(t testing.TB, c *muxertest.Conn, p []byte) {
	t.Helper()
	switch got, err := c.ReadMessage(); {
	case err != nil:
		t.Fatalf("guest waits for a message of %d bytes: %v", len(p), err)
	case !bytes.Equal(got, p):
		t.Fatalf("guest receives %d bytes, want %d; they differ from byte %d on", len(got), len(p), mismatch(got, p))
	}
}

func wantGuestMessageEOF(t testing.TB, c *muxertest.Conn) {
	t.Helper()
	if p, err := c.ReadMessage(); err != io.EOF {
		t.Fatalf("guest receives %d bytes, %v; want end of file", len(p), err)
	}
}

func guestSends(t testing.TB, c *muxertest.Conn, p []byte) {
	t.Helper()
	if err := c.WriteMessage(p); err != nil {
		t.Fatalf("guest sends a message of %d bytes: %v", len(p), err)
	}
}

// messageHeader is Driver.Header for a connection of messages.
func (v *vm) messageHeader(guestPort, hostPort uint32, op csm.Op) csm.Header {
	h := v.driver.Header(guestPort, hostPort, op)
	h.Type = csm.TypeSeqpacket
	return h
}

// openMessages opens a guest-initiated connection by raw packets and returns the
// host program's end.
func (v *vm) openMessages(p *messageProgram, guestPort, hostPort uint32) *messageSock {
	v.t.Helper()
	v.driver.Send(v.messageHeader(guestPort, hostPort, csm.OpRequest), nil)
	v.driver.ExpectFor(guestPort, hostPort, csm.OpResponse)
	return p.accept()
}

// sendPiece sends a piece of a message by a raw packet, whatever credit allows.
func (v *vm) sendPiece(guestPort, hostPort uint32, p []byte, end bool) {
	v.t.Helper()
	h := v.messageHeader(guestPort, hostPort, csm.OpRW)
	if end {
		h.Flags = csm.SeqEOM
	}
	v.driver.Send(h, p)
}

// messagePair runs a test once over a guest-initiated and once over a
// host-initiated connection of messages.
func messagePair(t *testing.T, f func(t *testing.T, v *vm, c *muxertest.Conn, s *messageSock)) {
	t.Run("guest-initiated", func(t *testing.T) {
		t.Parallel()
		v := newVM(t, options{seqpacket: true})
		p, g := v.listenMessages(52), v.guest()
		c, s := v.dialMessages(g, p, 52)
		f(t, v, c, s)
	})
	t.Run("host-initiated", func(t *testing.T) {
		t.Parallel()
		v := newVM(t, options{seqpacket: true})
		c, s := v.callMessages(v.guest().ListenSeqpacket(52), 52)
		f(t, v, c, s)
	})
}
