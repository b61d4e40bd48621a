package muxer

import (
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// minReadHint and maxReadHint bound the room that one read is offered.
const (
	minReadHint = 16 << 10
	maxReadHint = window
)

// okGrace is how long guest bytes wait after the OK line was taken. Taking it wakes
// us while the program is still in its call, which would take them as well.
const okGrace = 2 * time.Millisecond

// stream is the flow of bytes between a SOCK_STREAM socket and the guest.
type stream struct {
	c   *conn
	out csm.TxBuf

	okUnread bool          // the OK was written, and guest bytes may not follow it yet
	okTaken  bool          // guest bytes that were to follow found it taken
	graceEnd time.Duration // when okGrace is over then, by the loop's clock
	early    bool          // the program had sent bytes before its OK

	readHint int // bytes worth making room for at the next read
}

// takeLine looks for the CONNECT line without taking a byte behind it: those are
// payload. A line may come in pieces.
func (s *stream) takeLine() (port uint32, ok bool, err error) {
	c, m := s.c, s.c.m
	n, err := peek(c.fd, m.line[:])
	switch {
	case err == unix.EAGAIN:
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case n == 0:
		return 0, false, io.EOF
	}
	port, length, err := parseConnectLine(m.line[:n])
	switch {
	case err != nil:
		return 0, false, err
	case length == 0 && c.ended:
		return 0, false, io.EOF
	case length == 0:
		return 0, false, nil
	}
	readRetry(c.fd, m.line[:length]) //nolint:errcheck // they were seen to be there
	return port, true, nil
}

// sayOK holds guest bytes back until the program has taken the line, for many
// clients read more than the line and drop what they did not expect.
func (s *stream) sayOK(line []byte) error {
	c := s.c
	s.early = c.ended || s.unread()
	if !s.early {
		c.readable = false // what comes from now on makes an event
	}
	n, err := writeRetry(c.fd, line)
	if err == nil && n < len(line) {
		err = unix.EAGAIN
	}
	s.okUnread = err == nil
	return err
}

// mayWrite reports whether guest bytes may follow the OK line: the host program has
// taken it, and has had the time to return from the call that did.
func (s *stream) mayWrite() bool {
	c, m := s.c, s.c.m
	now := m.loop.Now()
	switch {
	case !s.okUnread:
		return true
	case !allTaken(c.fd):
		return false
	case !s.okTaken: // perhaps just now, and that may be later than now
		s.okTaken, s.graceEnd = true, m.loop.ReadClock()+okGrace
		c.setBlocked(false)
	}
	if now < s.graceEnd {
		if c.hostAt == 0 || c.hostAt > s.graceEnd {
			m.afterHost(c, s.graceEnd-now)
		}
		return false
	}
	s.okUnread = false
	return true
}

// inGrace reports whether guest bytes wait for nothing but the end of okGrace.
func (s *stream) inGrace() bool { return s.okUnread && s.okTaken }

// heard notes that the program has sent something. If its OK is taken and nothing had
// come before that was written, it counts as back from the call that took it: who sends
// over an OK that waits, and then takes it together with more, cannot be told apart.
func (s *stream) heard() {
	if !s.okUnread || s.early || !allTaken(s.c.fd) {
		return
	}
	s.okUnread = false
	if s.waits() {
		s.c.m.flushHost(s.c)
	}
}

func (s *stream) write(from, to int, _ bool) bool {
	c, b := s.c, &s.c.m.txBufs
	for left := b.Bytes(from, to); left > 0; {
		n, err := b.WriteTo(c.fd, from, to)
		b.Skip(from, to, uint64(n))
		c.Forwarded(n)
		left -= uint64(n)
		full := err == unix.EAGAIN || err == nil && left > 0
		switch {
		case full && c.widen():
		case err != nil:
			c.m.hostRefuses(c, from, to, err)
			return false
		case full:
			return false
		}
	}
	return true
}

func (s *stream) keep(from, to int, _ bool) {
	m := s.c.m
	if m.txBufs.Bytes(from, to) == 0 {
		return
	}
	s.out.AppendFrom(&m.pool, &m.txBufs, from, to)
	if !s.inGrace() {
		m.awaitRoom(s.c)
	}
}

func (s *stream) empty() bool { return s.out.Len() == 0 }

func (s *stream) waits() bool { return s.out.Len() > 0 }

func (s *stream) flush() (int, error) { return s.out.WriteTo(&s.c.m.pool, s.c.fd) }

func (s *stream) dropBegun() int { return 0 }

func (s *stream) release() int {
	s.okUnread = false
	return s.out.Release(&s.c.m.pool)
}

// pump fills as many receive buffers as the credit and the turn allow by one read.
func (s *stream) pump() (packets, bytes int) {
	c, m := s.c, s.c.m
	space, slots := c.RxSpace()
	if space == 0 {
		s.stallOrEnd()
		return 0, 0
	}
	room := m.reserve(min(space, s.readHint), min(slots, m.rxLeft))
	if room == 0 {
		m.schedule(c)
		return 0, 0
	}
	n, cut, err := m.rxBufs.ReadFrom(c.fd, 0, m.reserved())
	if err != nil || n == 0 {
		m.rx.Unpop(len(m.rxTake))
		m.readFailed(c, err)
		return 0, 0
	}
	if n < min(room, minReadHint) && !cut && !c.urgent && !c.ended {
		c.readable = false // it would only say EAGAIN: what comes from now on makes an event
	}
	packets = m.fill(c, n, false)
	if c.PacketsRunShort() {
		c.AskCredit()
	}
	s.adaptHint(n)
	s.heard()
	m.settle(c)
	return packets, n
}

// adaptHint makes the next read's room follow what the program sends.
func (s *stream) adaptHint(n int) {
	switch {
	case n >= s.readHint:
		s.readHint = min(2*s.readHint, maxReadHint)
	case n < s.readHint/4:
		s.readHint = max(s.readHint/2, minReadHint)
	}
}

// stallOrEnd acts on a host socket that cannot be read for want of credit: its
// end of file, which needs none, is passed on; bytes wait.
func (s *stream) stallOrEnd() {
	if s.c.ended && !s.unread() {
		s.c.m.hostEnded(s.c)
		return
	}
	s.c.m.stall(s.c)
}

func (s *stream) outgrown() bool { return false }

func (s *stream) unread() bool { return unreadBytes(s.c.fd) > 0 }

// wasteReads bounds how often bytes that nobody wants are read before others get
// a turn: it is enough for all that a socket holds by default.
const wasteReads = 4

func (s *stream) readAway() bool {
	c := s.c
	for range wasteReads {
		n, err := readRetry(c.fd, c.m.waste)
		if n <= 0 {
			c.readable, c.eof = false, n == 0 && err == nil
			return true
		}
		c.wasted += n
	}
	return false
}
