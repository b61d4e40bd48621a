package muxer

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// maxEmpties is how many empty messages may wait for a host program: they take no
// credit, so nothing else bounds them.
const maxEmpties = 4096

// messages is the flow of messages between a SOCK_SEQPACKET socket and the guest
// (virtio v1.4 §5.10.6.6). Every one stays whole: what the guest sends in pieces
// leaves for the host program at once, and what is larger than the credit of the
// moment stays in the host socket until its last piece is with the guest.
type messages struct {
	c   *conn
	out csm.MessageBuf

	// The message that goes to the guest in pieces, and how much of it has gone; 0
	// while none does.
	size, sent int
}

// newMessages returns the flow of a conn from whose socket nothing was read. It
// gives the socket room for the longest message, for it takes none beyond its
// SO_SNDBUF, by default less than that; and has credentials come with every
// message, which tell an empty one from end of file.
func newMessages(c *conn) *messages {
	unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, csm.MaxMessage) //nolint:errcheck // the kernel lowers it to its own limit
	unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)            //nolint:errcheck
	return &messages{c: c}
}

// takeLine takes the first message, which is the CONNECT line alone.
func (f *messages) takeLine() (port uint32, ok bool, err error) {
	n, message, err := f.peek()
	switch {
	case err == unix.EAGAIN:
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case !message:
		return 0, false, io.EOF
	case n > maxConnectLine:
		return 0, false, errConnectLength
	}
	line := f.c.m.line[:n]
	if _, err := readRetry(f.c.fd, line); err != nil {
		return 0, false, err
	}
	port, err = parseConnectMessage(line)
	return port, err == nil, err
}

// sayOK needs not wait until the line is read: messages do not merge.
func (f *messages) sayOK(line []byte) error {
	_, err := writeRetry(f.c.fd, line)
	return err
}

func (f *messages) mayWrite() bool { return true }

func (f *messages) write(from, to int, end bool) bool {
	c, b := f.c, &f.c.m.txBufs
	if !end || to-from > txBatchRanges {
		return false
	}
	if err := b.SendTo(c.fd, from, to); err != nil {
		c.m.hostRefuses(c, from, to, err)
		return false
	}
	c.Forwarded(int(b.Bytes(from, to)))
	return true
}

// keep also bounds what no host program can make room for: messages that the
// guest begins on many connections and ends on none, and such without bytes.
func (f *messages) keep(from, to int, end bool) {
	c, m := f.c, f.c.m
	f.out.AppendFrom(&m.pool, &m.txBufs, from, to, end)
	switch _, empties := f.out.Messages(); {
	case empties > maxEmpties:
		c.reason = ResetViolation
		c.Kill()
	case m.pool.Begun() > m.cfg.MaxBuffered/2:
		c.reason = ResetShortage
		c.Kill()
	case end && !c.blocked:
		m.flushHost(c)
	}
}

func (f *messages) empty() bool { return !f.waits() && !f.out.Begun() }

func (f *messages) waits() bool {
	n, _ := f.out.Messages()
	return n > 0
}

func (f *messages) flush() (int, error) { return f.out.WriteTo(&f.c.m.pool, f.c.fd) }

func (f *messages) dropBegun() int { return f.out.DropBegun(&f.c.m.pool) }

func (f *messages) release() int { return f.out.Release(&f.c.m.pool) }

// pump sends the next message to the guest, or as much of it as there is credit
// and receive buffers for.
func (f *messages) pump() (packets, bytes int) {
	c, m := f.c, f.c.m
	size := f.size
	if size == 0 {
		var ok bool
		if size, ok = f.next(); !ok {
			return 0, 0
		}
	}
	switch space, _ := c.RxSpace(); {
	case size > c.MessageLimit():
		m.sites.host.Warn(m.log, m.loop.Now(), "a host program's message is too long", fmt.Errorf("%d bytes, where the guest takes %d", size, c.MessageLimit()))
		m.kill(c, ResetMessageSize)
		return 0, 0
	case space == 0:
		m.stall(c)
		return 0, 0
	case size == 0:
		return f.sendEmpty(), 0
	default:
		return f.send(size, min(space, size-f.sent))
	}
}

// next returns the size of the next message in the socket. Without one it acts on
// what is there instead.
func (f *messages) next() (size int, ok bool) {
	switch n, message, err := f.peek(); {
	case err != nil:
		f.c.m.readFailed(f.c, err)
	case !message:
		f.c.m.hostEnded(f.c)
	default:
		return n, true
	}
	return 0, false
}

// send moves up to n more bytes of a message of size bytes, as many as there are
// receive buffers for.
func (f *messages) send(size, n int) (packets, bytes int) {
	c, m := f.c, f.c.m
	if n = m.reserve(n, rxBatchChains); n == 0 {
		m.schedule(c)
		return 0, 0
	}
	if err := f.receive(n, size); err != nil {
		m.rx.Unpop(len(m.rxTake))
		m.readFailed(c, err)
		return 0, 0
	}
	packets = m.fill(c, n, f.size == 0)
	if f.size == 0 {
		m.stats.RxMessages.Inc()
	}
	m.settle(c)
	return packets, n
}

// receive fills the reserved buffers with the next n bytes of a message of size
// bytes. A message that does not go at once is looked at, piece by piece, and
// taken off the socket with the last.
func (f *messages) receive(n, size int) error {
	c, b := f.c, &f.c.m.rxBufs
	if n == size {
		_, _, err := b.ReceiveFrom(c.fd, 0, c.m.reserved())
		return err
	}
	if f.sent == 0 {
		peekFrom(c.fd, 0)
	}
	if _, _, err := b.PeekFrom(c.fd, 0, c.m.reserved()); err != nil {
		if f.sent == 0 {
			peekFrom(c.fd, -1)
		}
		return err
	}
	if f.sent+n < size {
		f.size, f.sent = size, f.sent+n
		return nil
	}
	peekFrom(c.fd, -1)
	if err := f.discard(); err != nil {
		peekFrom(c.fd, f.sent) // this piece once more
		return err
	}
	f.size, f.sent = 0, 0
	return nil
}

// peekFrom sets where in a message the next look at it begins; each look moves
// that on. With -1 a look begins at the start, and only then can an empty message
// be seen twice.
func peekFrom(fd, offset int) {
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, offset) //nolint:errcheck // the socket is of a type that can
}

// sendEmpty passes an empty message on.
func (f *messages) sendEmpty() (packets int) {
	c, m := f.c, f.c.m
	chain, ok := m.takeRx()
	if !ok {
		m.schedule(c)
		return 0
	}
	if err := f.discard(); err != nil {
		m.rx.Unpop(1)
		m.readFailed(c, err)
		return 0
	}
	m.address(c)
	c.SendRW(&m.hdr, 0, true, m.pressed())
	m.sendHeader(chain)
	m.stats.RxMessages.Inc()
	m.settle(c)
	return 1
}

// peek returns the size of the next message, or without one EAGAIN or end of file.
func (f *messages) peek() (size int, message bool, err error) {
	return f.c.m.rxBufs.PeekFrom(f.c.fd, 0, 0)
}

// discard takes a message off the socket that was seen to be there. ECONNRESET may
// have come since: it is told once, in front of the messages that were sent before.
func (f *messages) discard() error {
	for {
		_, _, err := f.c.m.rxBufs.ReceiveFrom(f.c.fd, 0, 0)
		if errno(err) != unix.ECONNRESET {
			return err
		}
	}
}

func (f *messages) outgrown() bool { return f.size > f.c.MessageLimit() }

func (f *messages) unread() bool {
	_, message, _ := f.peek()
	return message
}

// wasteMessages bounds how many messages that nobody wants are read before others
// get a turn: it is more than a socket holds by default, each of which takes some
// 700 bytes of it however small it is.
const wasteMessages = 1024

func (f *messages) readAway() bool {
	c := f.c
	for range wasteMessages {
		n, message, err := f.peek()
		if !message {
			c.readable, c.eof = false, err == nil
			return true
		}
		f.discard() //nolint:errcheck // it was seen to be there
		c.wasted += 1 + n
	}
	return false
}
