package muxer

import (
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
)

// What waits is timed by the loop's clock from the turn in which it begins to wait
// to the one in which it ends. Nothing is done in between, and who asks counts what
// goes on as well. Of a connection the time is kept until it ends; a tail, of which
// its guest knows nothing any more, stalls nobody.

// Stalled says for how long something has waited, by what it waited for.
type Stalled struct {
	Credit     time.Duration // bytes of the host program: for buffer space in the guest
	RxBuffers  time.Duration // anything for the guest: for a receive buffer
	HostSocket time.Duration // bytes of the guest: for the host program to read
}

// connStalls are the waits of one connection.
type connStalls struct {
	credit, host span
	turn         span // its turn in the ready queue, by the clock of Muxer.rxTime
}

// stalledFor returns for how long the connection has waited so far.
func (c *conn) stalledFor() Stalled {
	now := c.m.loop.Now()
	return Stalled{
		Credit:     c.stalls.credit.read(now),
		RxBuffers:  c.stalls.turn.read(c.m.rxTime()),
		HostSocket: c.stalls.host.read(now),
	}
}

// setStalled notes whether bytes of the host program wait for the guest's credit.
func (c *conn) setStalled(stalled bool) {
	c.stalled = stalled
	c.m.time(&c.stalls.credit, &c.m.stats.CreditStalled, stalled)
}

// setBlocked notes whether the host socket takes no bytes for the moment.
func (c *conn) setBlocked(blocked bool) {
	c.blocked = blocked
	c.waitsForHost(blocked)
}

// waitsForHost notes whether bytes of the guest wait for the host program. None do
// once it reads no more, though its socket may be as full as it was.
func (c *conn) waitsForHost(waits bool) {
	c.m.time(&c.stalls.host, &c.m.stats.HostStalled, waits)
}

// endStalls notes that nothing waits for the guest or the host program any more.
func (c *conn) endStalls() {
	c.m.time(&c.stalls.credit, &c.m.stats.CreditStalled, false)
	c.waitsForHost(false)
}

// rxTime is a clock that runs while the rx ring has no buffers: what waits its turn
// waits for those just then.
func (m *Muxer) rxTime() time.Duration { return m.rxWait.read(m.loop.Now()) }

// setRxStall notes whether anything waits for a receive buffer.
func (m *Muxer) setRxStall(stalled bool) { m.time(&m.rxWait, &m.stats.RxRingStalled, stalled) }

// awaitTurn notes that a connection has something for the guest.
func (m *Muxer) awaitTurn(c *conn) {
	if !c.stalls.turn.runs {
		c.stalls.turn.start(m.rxTime())
		m.inTurn++
	}
}

// leaveTurn notes that it has its turn, or nothing for the guest any more. The
// queue may keep an entry of it, but that waits for nothing.
func (m *Muxer) leaveTurn(c *conn) {
	if !c.stalls.turn.runs {
		return
	}
	c.stalls.turn.stop(m.rxTime())
	if m.inTurn--; m.rxWait.runs && !m.rxAwaited() {
		m.setRxStall(false)
	}
}

// rxAwaited reports whether anything needs a receive buffer.
func (m *Muxer) rxAwaited() bool { return m.inTurn > 0 || m.ready.Resets() > 0 }

// setTxStall notes what the tx ring waits for.
func (m *Muxer) setTxStall(s stall) {
	m.txStall = s
	m.time(&m.replyWait, &m.stats.ReplyStalled, s == stallReplies)
	m.time(&m.bufferWait, &m.stats.BufferStalled, s == stallBuffers)
}

// time starts or stops a span, and with it the stopwatch of all such spans.
func (m *Muxer) time(s *span, all *stats.Stopwatch, runs bool) {
	switch now := m.loop.Now(); {
	case s.runs == runs:
	case runs:
		s.start(now)
		all.Start(now)
	default:
		s.stop(now)
		all.Stop(now)
	}
}

// span adds up how long something lasts that happens again and again.
type span struct {
	runs  bool
	since time.Duration // when it began, while it runs
	past  time.Duration // how long it lasted before
}

func (s *span) start(now time.Duration) { s.runs, s.since = true, now }

func (s *span) stop(now time.Duration) { s.runs, s.past = false, s.read(now) }

func (s *span) read(now time.Duration) time.Duration {
	if s.runs {
		return s.past + now - s.since
	}
	return s.past
}
