package vhostusertest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
)

// timeout bounds every wait: long enough for a loaded machine, short enough for
// a test that hangs to say where.
const timeout = 10 * time.Second

// Frontend is one connection to a backend.
type Frontend struct {
	// NeedReply sets NEED_REPLY on every message that the typed methods send.
	// Whether an acknowledgement is then due depends on what was negotiated.
	NeedReply bool
	// Piecewise sends every byte by itself, with the descriptors on the first.
	Piecewise bool

	tb      testing.TB
	fd      int // owned
	acks    bool
	channel int          // our end of the backend's request channel, owned, -1
	called  map[int]bool // rings whose call came over the channel and was not waited for
}

// Dial connects to the backend that listens at path. The connection ends with
// the test.
func Dial(tb testing.TB, path string) *Frontend {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal("socket:", err)
	}
	f := New(tb, fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		tb.Fatalf("connect to %s: %v", path, err)
	}
	return f
}

// New returns a frontend on the connected socket fd, whose ownership it takes.
func New(tb testing.TB, fd int) *Frontend {
	f := &Frontend{tb: tb, fd: fd, channel: -1, called: make(map[int]bool)}
	tb.Cleanup(f.Close)
	return f
}

// Close ends the connection. Closing twice is harmless.
func (f *Frontend) Close() {
	for _, fd := range []*int{&f.fd, &f.channel} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// CloseWrite ends what the frontend sends, and goes on receiving.
func (f *Frontend) CloseWrite() { unix.Shutdown(f.fd, unix.SHUT_WR) }

// Write sends raw bytes, with the descriptors on the first of them.
func (f *Frontend) Write(p []byte, fds ...int) {
	f.tb.Helper()
	if f.Piecewise {
		f.Dribble(p, fds...)
		return
	}
	if err := f.TryWrite(p, fds...); err != nil {
		f.tb.Fatal("send:", err)
	}
}

// TryWrite is Write for a backend that may have closed the connection.
func (f *Frontend) TryWrite(p []byte, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for deadline := time.Now().Add(timeout); len(p) > 0; {
		n, err := unix.SendmsgN(f.fd, p, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			p, oob = p[n:], nil
		case errors.Is(err, unix.EAGAIN):
			if !poll(f.fd, unix.POLLOUT, deadline) {
				return fmt.Errorf("%d bytes not taken: %w", len(p), errTimeout)
			}
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
	return nil
}

// Dribble sends raw bytes one at a time, with the descriptors on the first.
func (f *Frontend) Dribble(p []byte, fds ...int) {
	f.tb.Helper()
	for i := range p {
		if err := f.TryWrite(p[i:i+1], fds...); err != nil {
			f.tb.Fatalf("send byte %d: %v", i, err)
		}
		fds = nil
	}
}

// Message returns the bytes of a message. FlagVersion is the only flag it adds.
func Message(request vhostuser.Request, flags vhostuser.Flags, payload []byte) []byte {
	h := vhostuser.Header{Request: request, Flags: vhostuser.FlagVersion | flags, Size: uint32(len(payload))}
	return append(h.AppendTo(nil), payload...)
}

// Tell sends a message that is neither answered nor acknowledged.
func (f *Frontend) Tell(request vhostuser.Request, payload []byte, fds ...int) {
	f.tb.Helper()
	f.Write(Message(request, 0, payload), fds...)
}

// Ask sends a message with NEED_REPLY and returns the payload of the reply.
func (f *Frontend) Ask(request vhostuser.Request, payload []byte, fds ...int) []byte {
	f.tb.Helper()
	f.Write(Message(request, vhostuser.FlagNeedReply, payload), fds...)
	return f.Reply(request)
}

// Ack sends a message with NEED_REPLY and returns its acknowledgement: 0 is
// success.
func (f *Frontend) Ack(request vhostuser.Request, payload []byte, fds ...int) uint64 {
	f.tb.Helper()
	return f.u64(request, f.Ask(request, payload, fds...))
}

// Read receives exactly n raw bytes.
func (f *Frontend) Read(n int) []byte {
	f.tb.Helper()
	p, err := f.receive(n)
	if err != nil {
		f.tb.Fatalf("receive %d bytes: %v", n, err)
	}
	return p
}

// Reply receives the reply to request and returns its payload. Like QEMU and UML
// it wants the flags to be exactly version 1 and REPLY.
func (f *Frontend) Reply(request vhostuser.Request) []byte {
	f.tb.Helper()
	raw, err := f.receive(vhostuser.HeaderSize)
	if err != nil {
		f.tb.Fatalf("reply to %v: %v", request, err)
	}
	h := vhostuser.ParseHeader(raw)
	want := vhostuser.Header{Request: request, Flags: vhostuser.FlagVersion | vhostuser.FlagReply, Size: h.Size}
	if h != want || h.Size > vhostuser.MaxPayload {
		f.tb.Fatalf("reply to %v has the header %+v", request, h)
	}
	payload, err := f.receive(int(h.Size))
	if err != nil {
		f.tb.Fatalf("payload of the reply to %v: %v", request, err)
	}
	return payload
}

func (f *Frontend) u64(request vhostuser.Request, payload []byte) uint64 {
	f.tb.Helper()
	if len(payload) != 8 {
		f.tb.Fatalf("reply to %v has %d bytes, not 8", request, len(payload))
	}
	return binary.NativeEndian.Uint64(payload)
}

// WaitClosed waits until the backend has closed the connection, and fails when
// it sends anything before.
func (f *Frontend) WaitClosed() {
	f.tb.Helper()
	p, err := f.receive(1)
	switch {
	case err == nil:
		f.tb.Fatalf("backend sent 0x%x instead of closing the connection", p)
	case errors.Is(err, errTimeout):
		f.tb.Fatal("backend did not close the connection")
	}
}

// Barrier returns when every message sent before has taken effect, and fails if
// a reply to one of them is under way.
func (f *Frontend) Barrier() {
	f.tb.Helper()
	f.Write(Message(vhostuser.MsgGetFeatures, 0, nil))
	f.u64(vhostuser.MsgGetFeatures, f.Reply(vhostuser.MsgGetFeatures))
}

var errTimeout = errors.New("no answer in time")

// receive reads exactly n bytes from the connection.
func (f *Frontend) receive(n int) ([]byte, error) { return receive(f.fd, n) }

// receive reads exactly n bytes from the socket fd.
func receive(fd, n int) ([]byte, error) {
	p := make([]byte, n)
	for have, deadline := 0, time.Now().Add(timeout); have < n; {
		if !poll(fd, unix.POLLIN, deadline) {
			return nil, errTimeout
		}
		got, _, err := unix.Recvfrom(fd, p[have:], unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		case err != nil:
			return nil, err
		case got == 0:
			return nil, io.EOF
		default:
			have += got
		}
	}
	return p, nil
}

// poll waits for events and reports whether any came before the deadline.
func poll(fd int, events int16, deadline time.Time) bool {
	for {
		left := time.Until(deadline)
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(fds, int(max(left, 0)/time.Millisecond)+1)
		switch {
		case n > 0:
			return true
		case errors.Is(err, unix.EINTR) && left > 0:
		case left <= 0 || err != nil && !errors.Is(err, unix.EINTR):
			return false
		}
	}
}

// equal fails when a reply is not what it must be.
func (f *Frontend) equal(what string, got, want []byte) {
	f.tb.Helper()
	if !bytes.Equal(got, want) {
		f.tb.Fatalf("%s is 0x%x, want 0x%x", what, got, want)
	}
}
