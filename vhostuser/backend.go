package vhostuser

import (
	"errors"
	"math/bits"

	"golang.org/x/sys/unix"
)

// BackendRequest says what a message to the frontend asks for.
type BackendRequest uint32

// The requests sent; VHOST_USER_BACKEND_ and the upper-case name in the
// specification.
const (
	BackendConfigChangeMsg BackendRequest = 2
	BackendVringCall       BackendRequest = 4
	BackendVringErr        BackendRequest = 5
)

// backend is the channel for requests to the frontend, which
// VHOST_USER_SET_BACKEND_REQ_FD passes. Nothing here waits: a frontend may serve
// the channel only while it waits for a reply of ours, or not at all. So what is
// to be said is kept as what is due, once for each kind and ring, until the
// descriptor takes it.
//
// No request asks for a reply, and nothing is ever read from the channel. It
// stays open when it fails: UML takes its end for the end of the device.
type backend struct {
	session *session
	fd      int  // owned, -1 if there is none; non-blocking
	failed  bool // fd takes nothing any more
	polled  bool // the loop tells when fd takes more

	calls, faults uint32 // due; bit n stands for ring n
	config        bool   // due

	out    [HeaderSize + vringStateSize]byte
	latest []byte // the latest request, in out
	unsent []byte // what fd has not taken of it
}

func newBackend(s *session) backend { return backend{session: s, fd: -1} }

// set takes ownership of fd, which is non-blocking, and closes the former one.
// What is due goes to the new one.
func (b *backend) set(fd int) {
	b.close()
	b.fd, b.failed = fd, false
	if len(b.unsent) > 0 {
		b.unsent = b.latest // from its start
	}
	b.flush()
}

// close closes the descriptor.
func (b *backend) close() {
	b.unpoll()
	if b.fd >= 0 {
		unix.Close(b.fd)
		b.fd = -1
	}
}

// configChanged sends VHOST_USER_BACKEND_CONFIG_CHANGE_MSG. A frontend without a
// channel asks when it wants to know.
func (b *backend) configChanged() {
	const needs = ProtocolBackendReq | ProtocolConfig
	if b.fd >= 0 && b.session.protocol&needs == needs {
		b.config = true
		b.flush()
	}
}

// call sends VHOST_USER_BACKEND_VRING_CALL for ring index.
func (b *backend) call(index int) {
	b.calls |= 1 << index
	b.flush()
}

// fault sends VHOST_USER_BACKEND_VRING_ERR for ring index.
func (b *backend) fault(index int) {
	b.faults |= 1 << index
	b.flush()
}

// forget drops the call that is due for ring index, which stops: while it does
// nothing may be told of it, and when it goes on it calls anyway.
func (b *backend) forget(index int) { b.calls &^= 1 << index }

// HandleEvents goes on when the descriptor takes more.
func (b *backend) HandleEvents(uint32) { b.flush() }

// flush sends what is due, as far as the descriptor takes it.
func (b *backend) flush() {
	if b.fd < 0 || b.failed {
		return
	}
	for len(b.unsent) > 0 || b.next() {
		switch n, err := unix.Write(b.fd, b.unsent); {
		case err == nil:
			b.unsent = b.unsent[n:]
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			b.poll()
			return
		case noMemory(err):
			b.unpoll() // it is ready all the while
			b.session.awaitMemory()
			return
		default:
			b.failed = true
			b.unpoll()
			return
		}
	}
	b.unpoll()
}

// next makes the next request that is due the latest one, if there is any.
func (b *backend) next() bool {
	switch {
	case b.faults != 0:
		b.latest = b.vring(BackendVringErr, &b.faults)
	case b.calls != 0:
		b.latest = b.vring(BackendVringCall, &b.calls)
	case b.config && !b.session.suspended():
		b.config = false
		b.latest = b.header(BackendConfigChangeMsg, 0)
	default:
		return false
	}
	b.unsent = b.latest
	b.session.server.stats.BackendRequests.Inc()
	return true
}

// vring returns a request about the first of rings, which is then no longer due.
func (b *backend) vring(request BackendRequest, rings *uint32) []byte {
	first := VringState{Index: uint32(bits.TrailingZeros32(*rings))}
	*rings &= *rings - 1
	return first.AppendTo(b.header(request, vringStateSize))
}

// header returns the start of a request. It has no NEED_REPLY: QEMU
// would have to ask for the config space before it could answer.
func (b *backend) header(request BackendRequest, size uint32) []byte {
	return Header{Request: Request(request), Flags: FlagVersion, Size: size}.AppendTo(b.out[:0])
}

// poll asks the loop to tell when the descriptor takes more. That fails for want
// of kernel memory only; then the next request tries again.
func (b *backend) poll() {
	if !b.polled {
		b.polled = b.session.server.loop.Add(b.fd, unix.EPOLLOUT, b) == nil
	}
}

func (b *backend) unpoll() {
	if b.polled {
		b.polled = false
		b.session.server.loop.Remove(b.fd) // fails for an unknown one only
	}
}
